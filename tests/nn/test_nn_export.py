"""Export: standard ONNX, and ONNX Runtime labels every image as PyTorch does."""

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")
pytest.importorskip("onnxruntime", reason="needs tvm-qnn[onnx]")

from tvm_qnn.errors import ModelError  # noqa: E402
from tvm_qnn.nn import check, export  # noqa: E402
from tvm_qnn.nn.checkpoint import Recipe  # noqa: E402
from tvm_qnn.nn.maqd import check as maqd_check  # noqa: E402
from tvm_qnn.nn.maqd.small import MaqdConfig, MaqdNet, maqd_fashion_net  # noqa: E402
from tvm_qnn.nn.networks import build  # noqa: E402
from tvm_qnn.nn.train import train  # noqa: E402


def lively(cfg, seed=0):
    """A network with statistics and affine maps that differ from channel to channel."""
    torch.manual_seed(seed)
    net = MaqdNet(cfg).train()
    size = cfg.image_size
    with torch.no_grad():
        # Equal maps for all classes would make ties of equal integer sums.
        for norm in [*(block.norm for block in net.blocks), net.norm]:
            norm.gain.uniform_(-1.5, 1.5)
            norm.bias.uniform_(0.0, 1.0)
        for _ in range(40):
            net(torch.rand(16, cfg.image_channels, size, size))
        net.eval()
        # No class wins everywhere.
        net.norm.bias -= net(torch.rand(64, cfg.image_channels, size, size)).mean(0)
    return net


def random_images(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 1, size, size)).astype(np.uint8)


@pytest.mark.parametrize(
    ("weight_states", "activation_states"), [(3, 4), (2, 2), (3, 2), (4, 3), (5, 8), (7, 16)]
)
def test_runtime_labels_equal_pytorch(tmp_path, weight_states, activation_states):
    cfg = MaqdConfig(9, 1, (7, 9, 33), (1, 2, 1), 5, weight_states, activation_states)
    net = lively(cfg)
    path = tmp_path / "net.onnx"
    export.save(export.to_onnx(net, batch=16), path)
    result = check.compare(net, path, random_images(200, 9))
    assert result.different == (), result
    assert len(np.unique(result.runtime_labels)) > 1
    assert result.images == len(result.runtime_labels) == 200


def test_every_hidden_code_equals_pytorch(tmp_path):
    import onnxruntime

    net = lively(MaqdConfig(12, 1, (8, 16), (2, 1), 4), seed=1)
    model = export.to_onnx(net, batch=8)
    names = [f"activation{n}_quantize_out" for n in (1, 2)]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, 2, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(1).random((8, 1, 12, 12), dtype=np.float32)
    found = session.run(names, {"image": image})
    x = net.image(torch.from_numpy(image))
    for block, codes in zip(net.blocks, found, strict=True):
        x = block(x)
        assert codes.dtype == np.uint8
        assert codes.tolist() == x.to(torch.int64).tolist()
        assert len(np.unique(codes)) > 2


def test_trained_round_trip(tiny, tmp_path):
    cfg = MaqdConfig(image_size=8, channels=(8, 16), strides=(1, 2), classes=3)
    net = build(cfg, 0)
    rows = train(net, tiny, Recipe(epochs=3, batch=32), tmp_path)
    path = tmp_path / "sub" / "net.onnx"
    export.save(export.to_onnx(net, batch=5), path)
    result = check.compare(net, path, tiny.test_images)
    assert result.different == ()
    assert np.mean(result.runtime_labels == tiny.test_labels) == rows[-1].test_accuracy


def test_model_is_standard_onnx_with_named_nodes():
    model = export.to_onnx(maqd_fashion_net(), batch=2)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
    assert model.SerializeToString().__len__() < 1_000_000
    graph = model.graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    for expected in ("image_quantize", "conv1", "norm1", "activation5_quantize", "pool", "linear"):
        assert expected in names
    assert all(not node.domain for node in graph.node)

    def shape(value):
        return [d.dim_value for d in value.type.tensor_type.shape.dim]

    assert (graph.input[0].name, shape(graph.input[0])) == ("image", [2, 1, 28, 28])
    assert (graph.output[0].name, shape(graph.output[0])) == ("logits", [2, 10])
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for name, shape in (("conv3_weight_codes", (64, 64, 3, 3)), ("linear_weight_codes", (10, 128))):
        assert arrays[name].dtype == np.int8
        assert arrays[name].shape == shape
        assert set(np.unique(arrays[name]).tolist()) == {-1, 0, 1}
    assert arrays["activation2_scale"] == 1.0
    assert arrays["activation2_high"] == 3.0


def test_large_pool_uses_the_whole_8_bit_range():
    net = MaqdNet(MaqdConfig(20, 1, (8,), (1,), 3, activation_states=4))
    assert net.pooled.scale == np.float32(3 / 255)


def test_margin_sees_a_tie():
    net = lively(MaqdConfig(8, 1, (4, 4), (1, 2), 3))
    assert maqd_check.rounding_margin(net) > 0
    with torch.no_grad():
        norm = net.blocks[1].norm
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - 1e-5)
        norm.gain.fill_(0.5)
        norm.bias.zero_()
    assert maqd_check.rounding_margin(net) == pytest.approx(0, abs=1e-6)


def test_too_many_states_and_bad_batch_are_refused(tmp_path):
    with pytest.raises(ModelError, match="batch size 0"):
        export.to_onnx(maqd_fashion_net(), batch=0)
    with pytest.raises(ModelError, match="300 activation states"):
        export.to_onnx(MaqdNet(MaqdConfig(8, 1, (4,), (1,), 3, activation_states=300)))
    with pytest.raises(ModelError, match="259 weight states"):
        export.to_onnx(MaqdNet(MaqdConfig(8, 1, (64,), (1,), 3, weight_states=259)))


def test_unreadable_and_unwritable_files_are_one_clear_line(tmp_path):
    with pytest.raises(ModelError, match="cannot load"):
        check.runtime_logits(tmp_path / "none.onnx", random_images(1, 8))
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write"):
        export.save(export.to_onnx(lively(MaqdConfig(8, 1, (4,), (1,), 3))), tmp_path / "file/x")
