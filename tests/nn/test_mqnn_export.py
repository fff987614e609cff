"""Export of M-ary networks: standard ONNX whose levels are exactly those that were trained."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")
pytest.importorskip("onnxruntime", reason="needs tvm-qnn[onnx]")

from tvm_qnn.nn import check, export  # noqa: E402
from tvm_qnn.nn.mqnn_models import MqnnConfig, MqnnNet  # noqa: E402

SMALL = MqnnConfig(image_size=9, channels=(7, 33), strides=(1, 2), classes=5)
KINDS = {
    "binary": replace(SMALL, states=2),
    "three": SMALL,
    "four, 2-bit activations": replace(SMALL, states=4, activation_bits=2),
    "five a channel": replace(SMALL, states=5, per_channel=True, thresholds="learned"),
    "sixteen": replace(SMALL, states=16),
    "colour, with a pool": replace(SMALL, image_channels=3, strides=(1, 1), pools=(2, 1)),
    "float ends": replace(SMALL, quantized_ends=False),
    "full precision": SMALL.full_precision(),
}


def lively(cfg, seed=0):
    """A network with asymmetric levels, and statistics that differ from channel to channel."""
    torch.manual_seed(seed)
    net = MqnnNet(cfg).train()
    size = cfg.image_size
    with torch.no_grad():
        for block in net.each_block():
            block.norm.weight.uniform_(0.5, 1.5)
            block.norm.bias.uniform_(-0.5, 1.0)
        for layer in net.weights():
            if layer.how is not None:
                layer.levels.add_(torch.rand_like(layer.levels) * 0.05)
        for _ in range(20):
            net(torch.rand(16, cfg.image_channels, size, size))
        net.eval()
        # No class wins everywhere.
        net.linear.bias -= net(torch.rand(64, cfg.image_channels, size, size)).mean(0)
    return net


def random_images(count, size, channels=1):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, channels, size, size)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_runtime_labels_equal_pytorch(tmp_path, kind):
    net = lively(KINDS[kind])
    path = tmp_path / "net.onnx"
    export.save(export.to_onnx(net, batch=16), path)
    result = check.compare(net, path, random_images(200, 9, net.cfg.image_channels))
    assert result.different == (), result
    # A difference in the last digit may move a code by one; nothing else may differ.
    assert result.largest_difference < 0.02
    assert len(np.unique(result.runtime_labels)) > 1


@pytest.mark.parametrize("kind", ["three", "five a channel"])
def test_weights_are_indices_into_the_trained_levels(kind):
    net = lively(KINDS[kind])
    model = export.to_onnx(net)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, layer in (("conv2", net.blocks[1].conv), ("linear", net.linear)):
        book, index = arrays[f"{name}_weight_codebook"], arrays[f"{name}_weight_indices"]
        assert index.dtype == np.uint8
        assert book.dtype == np.float32
        rows = np.atleast_2d(book)
        picked = np.take_along_axis(rows, index.reshape(len(rows), -1).astype(np.int64), axis=1)
        expected = layer.quantized_weight().detach().numpy()
        assert picked.reshape(expected.shape).tolist() == expected.tolist()
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    for expected in ("image_quantize", "conv1", "conv2_weight_lookup", "norm2", "pool", "linear"):
        assert expected in names


def test_full_precision_has_no_quantizers():
    model = export.to_onnx(lively(KINDS["full precision"]))
    assert {node.op_type for node in model.graph.node} == {
        "Conv", "BatchNormalization", "Relu", "GlobalAveragePool", "Flatten", "Gemm",
    }  # fmt: skip


def test_description_names_states_and_options():
    said = export.describe(lively(KINDS["five a channel"]))
    assert said.weights == "5 free values a channel, every layer"
    assert "--states 5 --thresholds learned --per-channel" in said.options
    assert said.checks["packed_weight_bytes"] < said.checks["float_weight_bytes"]
