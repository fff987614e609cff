"""Deterministic damage to valid ONNX models: bytes, and fields of every message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper
from onnx_evaluate import build, node, whole

from tvm_qnn.frontend.onnx_table import CONVERTERS, FOLDED

Rng = np.random.Generator
I64 = np.int64


def _convolutions() -> onnx.ModelProto:
    constants = {
        "xs": np.float32(0.5), "z8": np.uint8(3), "w": whole([4, 3, 3, 3]).astype("int8"),
        "ws": np.array([0.25, 0.5, 1, 2], "float32"), "wz": np.zeros(4, "int8"),
        "b": np.arange(4, dtype="int32"), "s": np.ones(4, "float32"), "lo": np.float32(0),
        "hi": np.float32(6), "fc": whole([4, 5]), "fb": whole([5]),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x xs z8", "xq"), node("DequantizeLinear", "xq xs z8", "xf"),
        node("DequantizeLinear", "w ws wz", "wf", axis=0),
        node("DequantizeLinear", "b ws", "bf", axis=0),
        node("Conv", "xf wf bf", "c", pads=[1, 1, 0, 1], strides=[1, 2], kernel_shape=[3, 3]),
        node("BatchNormalization", "c s s s s", "n"), node("Clip", "n lo hi", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], ceil_mode=1, strides=[2, 2]),
        node("AveragePool", "p", "a", kernel_shape=[2, 1], pads=[1, 0, 0, 0]),
        node("GlobalAveragePool", "a", "g"), node("Flatten", "g", "f"),
        node("Gemm", "f fc fb", "y", alpha=0.5),
    ]  # fmt: skip
    return build(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants, opset=17)


def _shapes() -> onnx.ModelProto:
    constants = {
        "i": np.array(0), "a": np.array([0]), "m": np.array([-1]), "p": np.array([0, 1, 0, 2]),
        "st": np.array([0]), "en": np.array([3]), "n": np.array([1, 2]), "c": whole([2, 3]),
    }  # fmt: skip
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s i", "d"), node("Unsqueeze", "d a", "u"),
        node("Concat", "u m", "t", axis=0), node("Reshape", "x t", "r"),
        node("Pad", "r p", "e"), node("Transpose", "e", "tr", perm=[1, 0]),
        node("Slice", "tr st en", "sl"), node("Split", "sl n", "k l", axis=0),
        node("Softmax", "k", "sm", axis=1), node("ReduceMean", "l a", "rm"),
        node("Add", "sm rm", "ad"), node("Squeeze", "ad a", "sq"),
        node("LeakyRelu", "sq", "lr"),
        node("Concat", "lr lr", "y", axis=0),
    ]  # fmt: skip
    return build(nodes, {"x": [2, 3]}, ["y", "l"], constants)


def _codes() -> onnx.ModelProto:
    narrow = helper.make_tensor("w", TensorProto.INT4, [3, 4], list(range(-6, 6)))
    constants = {
        "s": np.float32(1), "w": narrow, "book": whole([4]), "i": whole([3, 3], 0, 4).astype(I64),
        "t": whole([256]), "z": np.int8(0),
    }  # fmt: skip
    nodes = [
        node("Cast", "x", "xi", to=TensorProto.INT64), node("Gather", "t xi", "v"),
        node("DequantizeLinear", "w s", "wf"), node("MatMul", "v wf", "m") ,
        node("Gather", "book i", "bw"), node("Dropout", "v", "dv"), node("MatMul", "dv bw", "mm"),
        node("QuantizeLinear", "mm s z", "q"), node("Sigmoid", "m", "y"),
    ]  # fmt: skip
    return build(nodes, {"x": [2, 3]}, ["y", "q"], constants, kinds={"x": TensorProto.UINT8})


def _qoperators() -> onnx.ModelProto:
    constants = {
        "s": np.float32(0.5), "z": np.uint8(3), "w": whole([4, 3, 3, 3]).astype("int8"),
        "ws": np.array([0.25, 0.5, 1, 2], "float32"), "wz": np.zeros(4, "int8"),
        "b": np.arange(4, dtype="int32"), "fc": whole([4, 5]).astype("int8"), "fz": np.int8(1),
        "wi": whole([2, 4, 1, 1]).astype("int8"),
    }  # fmt: skip
    own = {"domain": "com.microsoft"}
    nodes = [
        node("QLinearConv", "x s z w ws wz s z b", "c", pads=[1, 1, 1, 1]),
        node("QLinearAdd", "c s z c s z s z", "a", **own),
        node("QLinearAveragePool", "a s z s z", "p", kernel_shape=[2, 2], **own),
        node("QLinearGlobalAveragePool", "p s z s z", "g", **own),
        node("Flatten", "g", "f"), node("QLinearMatMul", "f s z fc s fz s z", "m"),
        node("QLinearConcat", "s z m s z m s z", "y", axis=1, **own),
        node("ConvInteger", "c wi z fz", "i"), node("Cast", "i", "v", to=1),
    ]  # fmt: skip
    kinds = {"x": TensorProto.UINT8, "y": TensorProto.UINT8}
    model = build(nodes, {"x": [1, 3, 6, 6]}, ["y", "v"], constants, kinds=kinds, opset=17)
    model.opset_import.add(domain="com.microsoft", version=1)
    return model


MODELS = [_convolutions(), _shapes(), _codes(), _qoperators()]
_INTEGERS = (0, 1, -1, 2, 3, 5, -7, 64, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1)
_OPERATORS = sorted({s.name for s in defs.get_all_schemas() if s.domain in ("", "ai.onnx.ml")})
_KINDS = sorted(TensorProto.DataType.values())


def pick(rng: Rng, items: Any) -> Any:
    """One of the items."""
    items = list(items)
    return items[int(rng.integers(len(items)))]


def _names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    made = [name for n in graph.node for name in n.output]
    return [i.name for i in graph.input] + [t.name for t in graph.initializer] + made + ["", "?"]


def _rewire(model: onnx.ModelProto, rng: Rng) -> None:
    some = pick(rng, model.graph.node)
    if some.input:
        some.input[int(rng.integers(len(some.input)))] = pick(rng, _names(model))


def _swap_inputs(model: onnx.ModelProto, rng: Rng) -> None:
    some = pick(rng, model.graph.node)
    order = rng.permutation(len(some.input))
    names = list(some.input)
    del some.input[:]
    some.input.extend(names[k] for k in order)


def _change_inputs(model: onnx.ModelProto, rng: Rng) -> None:
    names = pick(rng, model.graph.node)
    names = names.input if rng.random() < 0.7 else names.output
    if names and rng.random() < 0.5:
        del names[-1]
    else:
        names.append(pick(rng, _names(model)))


def _remove_node(model: onnx.ModelProto, rng: Rng) -> None:
    del model.graph.node[int(rng.integers(len(model.graph.node)))]


def _move_node(model: onnx.ModelProto, rng: Rng) -> None:
    nodes = list(model.graph.node)
    nodes.insert(int(rng.integers(len(nodes))), nodes.pop(int(rng.integers(len(nodes)))))
    kept = [n.SerializeToString() for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(onnx.NodeProto.FromString(n) for n in kept)


def _change_operator(model: onnx.ModelProto, rng: Rng) -> None:
    some = pick(rng, model.graph.node)
    if rng.random() < 0.1:
        some.domain = pick(rng, ["com.microsoft", "ai.onnx", "ai.onnx.ml", "qonnx"])
    else:
        some.op_type = pick(rng, [*_OPERATORS, ""])


def _supported_operator(model: onnx.ModelProto, rng: Rng) -> None:
    chosen = str(pick(rng, sorted(CONVERTERS.keys() | FOLDED)))
    some = pick(rng, model.graph.node)
    some.domain, _, some.op_type = chosen.rpartition(".")


def _change_attribute(model: onnx.ModelProto, rng: Rng) -> None:
    with_some = [n for n in model.graph.node if n.attribute]
    if not with_some:
        return
    found = pick(rng, pick(rng, with_some).attribute)
    if found.ints and rng.random() < 0.8:
        found.ints[int(rng.integers(len(found.ints)))] = pick(rng, _INTEGERS)
        if rng.random() < 0.3:
            found.ints.append(pick(rng, _INTEGERS))
    elif rng.random() < 0.2:
        found.type = int(rng.integers(15))
    elif rng.random() < 0.2:
        found.f = pick(rng, [0.0, -1.0, float("nan"), float("inf"), 1e38])
    else:
        found.i = pick(rng, _INTEGERS)


def _add_attribute(model: onnx.ModelProto, rng: Rng) -> None:
    some = pick(rng, model.graph.node)
    schemas = [s for s in defs.get_all_schemas() if s.name == some.op_type] or [None]
    known = sorted(schemas[0].attributes) if schemas[0] is not None else []
    name = pick(rng, [*known, "axis", "strides"])
    values: list[Any] = [
        pick(rng, _INTEGERS), [pick(rng, _INTEGERS) for _ in range(int(rng.integers(1, 6)))],
        float(rng.normal()), pick(rng, ["SAME_UPPER", "edge", "", "VALID"]),
    ]  # fmt: skip
    some.attribute.append(helper.make_attribute(name, pick(rng, values)))


def _change_initializer(model: onnx.ModelProto, rng: Rng) -> None:
    tensor = pick(rng, model.graph.initializer)
    choice = int(rng.integers(5))
    if choice == 0:
        tensor.data_type = pick(rng, [*_KINDS, 99])
    elif choice == 1 and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = pick(rng, _INTEGERS)
    elif choice == 2:
        tensor.dims.append(pick(rng, (0, 1, 2**40)))
    elif choice == 3:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]
    else:
        data = bytearray(tensor.raw_data)
        for _ in range(min(len(data), 4)):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        tensor.raw_data = bytes(data)


def _change_integers(model: onnx.ModelProto, rng: Rng) -> None:
    whole_numbers = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    if whole_numbers:
        tensor = pick(rng, whole_numbers)
        data = tensor.raw_data
        values = np.frombuffer(data[: len(data) // 8 * 8], I64).copy()
        if values.size:
            values[int(rng.integers(values.size))] = pick(rng, _INTEGERS)
        tensor.raw_data = values.tobytes()


def _change_interface(model: onnx.ModelProto, rng: Rng) -> None:
    info = pick(rng, [*model.graph.input, *model.graph.output])
    kind = info.type.tensor_type
    choice = int(rng.integers(4))
    if choice == 0:
        kind.elem_type = pick(rng, [*_KINDS, 99])
    elif choice == 1:
        kind.shape.dim.add().dim_value = pick(rng, _INTEGERS)
    elif choice == 2 and kind.shape.dim:
        dim = pick(rng, kind.shape.dim)
        dim.dim_value = pick(rng, _INTEGERS)
        if rng.random() < 0.3:
            dim.dim_param = "N"
    else:
        info.name = pick(rng, _names(model))


def _change_versions(model: onnx.ModelProto, rng: Rng) -> None:
    model.opset_import[0].version = pick(rng, [*range(1, 28), 2**40, -1])
    if rng.random() < 0.2:
        model.ir_version = pick(rng, _INTEGERS)


MUTATIONS: list[Callable[[onnx.ModelProto, Rng], None]] = [
    _rewire, _swap_inputs, _change_inputs, _remove_node, _move_node, _change_operator,
    _supported_operator, _supported_operator, _change_attribute, _change_attribute, _add_attribute,
    _change_initializer, _change_integers, _change_interface, _change_versions,
]  # fmt: skip


def _damage_bytes(data: bytes, rng: Rng) -> bytes:
    array = bytearray(data)
    choice = int(rng.integers(4))
    start = int(rng.integers(len(array)))
    if choice == 0:
        return bytes(array[:start])
    if choice == 1:
        del array[start : start + int(rng.integers(1, 40))]
        return bytes(array)
    if choice == 2:
        end = start + int(rng.integers(1, 60))
        return bytes(array[:end] + array[start:])
    for _ in range(int(rng.integers(1, 5))):
        array[int(rng.integers(len(array)))] ^= 1 << int(rng.integers(8))
    return bytes(array)


def mutated(seed: int) -> bytes:
    """Return the bytes of a model with the damage of ``seed``: a third of them in its bytes."""
    rng = np.random.default_rng(seed)
    model = onnx.ModelProto()
    model.CopyFrom(MODELS[int(rng.integers(len(MODELS)))])
    if seed % 3 == 0:
        return _damage_bytes(model.SerializeToString(), rng)
    for _ in range(int(rng.integers(1, 4))):
        if model.graph.node and model.graph.initializer:
            pick(rng, MUTATIONS)(model, rng)
    return model.SerializeToString()
