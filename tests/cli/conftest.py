"""Small models on disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.networks.models import Graph


@dataclass(frozen=True)
class Case:
    """A model on disk.

    Attributes:
        path: of the ONNX file.
        inputs: .npz with three batches.
        output: name of the output.
        expected: what ONNX Runtime makes of them.
        value: one batch.
    """

    path: Path
    inputs: Path
    output: str
    expected: np.ndarray
    value: np.ndarray


def model_of(graph, output, kind=TensorProto.FLOAT, name="x"):
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, graph.shape)]
    outputs = [helper.make_tensor_value_info(output, kind, None)]
    made = helper.make_graph(graph.nodes, "tiny", infos, outputs, graph.initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def stored(folder, file, graph, output, kind=TensorProto.FLOAT, name="x"):
    model = model_of(graph, output, kind, name)
    path, inputs = folder / file, folder / f"{file}.npz"
    onnx.save(model, path)
    x = np.concatenate([graph.input() for _ in range(3)])
    np.savez(inputs, **{name: x})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    rows = [session.run(None, {name: row[None]})[0] for row in x]
    return Case(path, inputs, output, np.concatenate(rows), x[:1])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A convolution of 2-bit weights whose codes are the output."""
    g = Graph([1, 2, 4, 5])
    x = g.quantize("x", 0.125, 128)
    y = g.conv(x, g.weights([3, 2, 3, 3]), pads=[1] * 4)
    low, high = g.const(np.float32(0)), g.const(np.float32(1.5))
    y = g.node("Clip", [y, low, high])
    codes = g.node("QuantizeLinear", [y, g.const(np.float32(0.5)), g.const(np.uint8(0))])
    folder = tmp_path_factory.mktemp("tiny")
    return stored(folder, "tiny.onnx", g, codes, TensorProto.UINT8)


@pytest.fixture(scope="session")
def floating(tmp_path_factory):
    """A network whose names Relax and markup do not allow, with a sigmoid."""
    g = Graph([1, 2, 4, 5])
    x = g.quantize("images:0", 0.125, 128)
    y = g.conv(x, g.weights([3, 2, 3, 3]))
    y = g.node("Sigmoid", [y])
    g.nodes[-1].name = "sigmoid7[b]"
    return stored(tmp_path_factory.mktemp("floating"), "floating.onnx", g, y, name="images:0")


@pytest.fixture(scope="session")
def named_input(tmp_path_factory):
    """A network whose input is called ``input``, and its output ``file``."""
    g = Graph([1, 2, 4, 5])
    x = g.quantize("input", 0.125, 128)
    y = g.conv(x, g.weights([3, 2, 3, 3]))
    g.nodes.append(helper.make_node("Flatten", [y], ["file"], name="flat"))
    return stored(tmp_path_factory.mktemp("named"), "named.onnx", g, "file", name="input")
