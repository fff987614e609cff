"""Networks with asymmetric levels, from the file to labels: on this machine and emulated boards."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs tvm-qnn[torch]")
pytest.importorskip("onnxruntime", reason="needs tvm-qnn[onnx]")

import tvm_qnn
from tests.nn.mqnn_networks import KINDS, lively, random_images
from tvm_qnn.nn import check, export
from tvm_qnn.nn.train import labels

ASYMMETRIC = ("three", "four, 2-bit activations", "five a channel", "colour, with a pool")


@pytest.fixture(params=ASYMMETRIC)
def network(request, tmp_path):
    """A network, its file, and images for it."""
    net = lively(KINDS[request.param])
    book = net.blocks[1].conv.codebook().detach().numpy()
    assert not np.allclose(book, -book[:, ::-1])
    export.save(export.to_onnx(net, batch=3), tmp_path / "net.onnx")
    return net, tmp_path / "net.onnx", random_images(30, 9, net.cfg.image_channels)


def as_input(images):
    return {"image": images.astype(np.float32) / np.float32(255)}


def test_no_layer_with_weights_stays_float(network):
    rows = tvm_qnn.inspect(network[1]).rows
    weights = [row for row in rows if row.weight_bytes]
    assert [row.name for row in weights] == ["conv1", "conv2", "linear"]
    assert all(row.codebook == network[0].cfg.states for row in weights)


def test_labels_equal_runtime_and_pytorch(network):
    net, path, images = network
    program = tvm_qnn.compile(path).program
    parts = [program.run(as_input(images[i : i + 3]))["logits"] for i in range(0, 30, 3)]
    found = np.concatenate(parts).argmax(axis=1)
    assert found.tolist() == check.runtime_logits(path, images).argmax(axis=1).tolist()
    assert found.tolist() == labels(net, images).tolist()
    assert len(np.unique(found)) > 1


def test_every_operator_equals_its_definition(network):
    outcome = tvm_qnn.verify(network[1], as_input(network[2][:6]))
    assert outcome.first_wrong is None
    assert {"activation1_quantize", "activation2_quantize", "linear"} <= {
        layer.name for layer in outcome.layers
    }


@pytest.mark.emulated
def test_every_operator_equals_its_definition_on_a_board(network):
    inputs = as_input(network[2][:3])
    outcome = tvm_qnn.verify(network[1], inputs, "rpi4")
    assert outcome.first_wrong is None
    here = tvm_qnn.compile(network[1]).program.run(inputs)["logits"]
    assert (outcome.outputs["logits"] == here).all()
