"""Export of M-ary networks: standard ONNX whose levels are exactly those that were trained."""

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs tvm-qnn[torch]")
pytest.importorskip("onnxruntime", reason="needs tvm-qnn[onnx]")

from tests.nn.mqnn_networks import KINDS, lively, random_images
from tvm_qnn.nn import check, export


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
