"""Converters of ONNX operators on single elements and on shapes, and folding of constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import OperatorSetIdProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tvm_qnn._tvm import relax
from tvm_qnn.frontend.onnx_graph import Node, Value
from tvm_qnn.frontend.onnx_load import CODES, STORAGE, array_of, type_name
from tvm_qnn.frontend.record import Refused, reason_of

_MOVES = {"Concat", "Flatten", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
_SHAPE_ARITHMETIC = _MOVES | {
    "Add", "Cast", "Div", "Gather", "Max", "Min", "Mul", "Range", "ReduceProd", "Sub",
}  # fmt: skip
_SMALL = 4096
_UNSIGNED = (TensorProto.UINT8, TensorProto.UINT16)


def fold(n: Node) -> list[Value] | None:
    """Evaluate shape arithmetic, and moves of constants that change no value; None for the rest."""
    out = n.outputs
    if n.op in ("Shape", "Size") and n.inputs[0] is not None:
        shape = np.asarray(n.inputs[0].shape, np.int64)
        first, last = n.attrs.get("start", 0), n.attrs.get("end", len(shape))
        return [_constant(out[0], shape[first:last] if n.op == "Shape" else shape.prod())]
    given = [v for v in n.inputs if v is not None]
    if n.op not in _SHAPE_ARITHMETIC or not given or any(v.data is None for v in given):
        return None
    if n.op == "Cast":
        return _folded_cast(n, given[0])
    moves = n.op in _MOVES
    whole = all(v.kind in (TensorProto.INT64, TensorProto.INT32) for v in given)
    small = all(v is not None and int(np.prod(v.shape)) <= _SMALL for v in out)
    if not moves and not (whole and small):
        return None
    inputs = {f"i{k}": v for k, v in enumerate(n.inputs) if v is not None}
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(n.inputs)]
    results = [f"o{k}" for k in range(len(out))]
    proto = helper.make_node(n.op, names, results)
    proto.attribute.extend(n.proto.attribute)
    graph = helper.make_graph(
        [proto],
        "fold",
        [helper.make_tensor_value_info(k, _plain_kind(v), v.shape) for k, v in inputs.items()],
        [helper.make_tensor_value_info(r, 0, None) for r in results],
    )
    opset = OperatorSetIdProto(domain="", version=n.opset)
    try:
        with np.errstate(all="ignore"):
            session = ReferenceEvaluator(helper.make_model(graph, opset_imports=[opset]))
            found = session.run(None, {k: v.data for k, v in inputs.items()})
    except Exception as error:
        raise Refused(f"its constants do not fit it ({reason_of(error)})") from None
    return [_constant(v, array) for v, array in zip(out, found, strict=True)]


def _plain_kind(value: Value) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)))


def _constant(kind: Value | None, array: Any) -> Value:
    assert kind is not None
    array = np.asarray(array, STORAGE[kind.kind])
    if array.shape != kind.shape:
        raise Refused(f"constants of shape {list(array.shape)}, {list(kind.shape)} expected")
    return Value(kind.kind, kind.shape, data=array.copy())


def _folded_cast(n: Node, value: Value) -> list[Value] | None:
    out = n.result()
    assert value.data is not None
    if value.dtype == "float32" and out.dtype != "float32":
        return None
    if out.kind in CODES and not CODES[out.kind].contains(value.data):
        raise Refused(f"constants that do not fit {type_name(out.kind)}")
    return [_constant(out, value.data)]


def identity(n: Node) -> Any:
    """Identity, and Dropout in inference: nothing at all."""
    if n.op == "Dropout":
        n.need(not any(n.proto.output[1:]), "its mask is used; export for inference")
        training = n.optional_constant(2, "training_mode")
        n.need(training is None or not training.any(), "training_mode is set")
    return n.input(0)


def constant(n: Node) -> Any:
    """Constant with any of its numeric attributes."""
    n.need(len(n.attrs) == 1, "needs exactly one value")
    name, value = next(iter(n.attrs.items()))
    if name == "value":
        return Value(value.data_type, tuple(value.dims), data=array_of(value, None))
    kinds = {"value_float": "float32", "value_floats": "float32", "value_int": "int64",
             "value_ints": "int64"}  # fmt: skip
    n.need(name in kinds, f"{name} is not supported")
    data = np.asarray(value, kinds[name])
    kind = TensorProto.FLOAT if kinds[name] == "float32" else TensorProto.INT64
    return Value(kind, data.shape, data=data)


def relu(n: Node) -> Any:
    """Relu: ``R.nn.relu``."""
    return relax.op.nn.relu(n.input(0).use())


def clip(n: Node) -> Any:
    """Clip with bounds from attributes (opset 6) or inputs (opset 11): ``R.clip``."""
    x = n.input(0)
    bounds: list[Any] = [n.attrs.get("min"), n.attrs.get("max")]
    if n.opset >= 11:
        bounds = [n.optional_constant(1, "min"), n.optional_constant(2, "max")]
    low, high = (None if b is None else float(np.asarray(b).reshape(-1)[0]) for b in bounds)
    n.need(low is None or low == low, "min is NaN")
    n.need(high is None or high == high, "max is NaN")
    n.need(low is None or high is None or low <= high, f"min {low} is above max {high}")
    if x.dtype == "float32":
        top = float(np.finfo(np.float32).max)
        low = None if low is not None and low < -top else low
        high = None if high is not None and high > top else high
    if low is not None and high is not None:
        return relax.op.clip(x.use(), low, high)
    if low is not None:
        return relax.op.maximum(x.use(), relax.const(np.asarray(low, x.dtype), x.dtype))
    if high is not None:
        return relax.op.minimum(x.use(), relax.const(np.asarray(high, x.dtype), x.dtype))
    return x


def binary(op: Callable[[Any, Any], Any]) -> Callable[[Node], Any]:
    """Return the converter of an arithmetic operator with broadcasting."""

    def convert(n: Node) -> Any:
        a, b = n.input(0), n.input(1)
        n.need(a.dtype == b.dtype, f"{a.dtype} and {b.dtype}: the dtypes must be the same")
        n.need(a.dtype == "float32" or n.op != "Div", f"division of {a.dtype} is not supported")
        return op(a.use(), b.use())

    return convert


def reshape(n: Node) -> Any:
    """Reshape, Flatten, Squeeze and Unsqueeze: ``R.reshape`` to the inferred static shape."""
    x, out = n.input(0), n.result()
    n.need(np.prod(x.shape) == np.prod(out.shape), f"{list(x.shape)} to {list(out.shape)}")
    return x if x.shape == out.shape else relax.op.reshape(x.use(), list(out.shape))


def transpose(n: Node) -> Any:
    """Transpose: ``R.permute_dims``."""
    rank = len(n.input(0).shape)
    order = n.ints("perm", list(range(rank))[::-1])
    n.need(sorted(order) == list(range(rank)), f"perm {order} of {rank} axes")
    return relax.op.permute_dims(n.input(0).use(), order)


def concat(n: Node) -> Any:
    """Concat: ``R.concat``."""
    parts = [v for v in n.inputs if v is not None]
    n.need(len({v.kind for v in parts}) == 1, "its inputs have different types")
    return relax.op.concat([v.use() for v in parts], int(n.attrs["axis"]))


def pad(n: Node) -> Any:
    """Pad with a constant: ``R.nn.pad``."""
    x = n.input(0)
    rank = len(x.shape)
    mode = n.attrs.get("mode", "constant")
    n.need(mode == "constant", f"mode {mode!r} is not supported, only 'constant' is")
    if n.opset >= 11:
        widths = [int(v) for v in n.constant(1, "pads").reshape(-1)]
        value = n.optional_constant(2, "constant_value")
        axes = n.optional_constant(3, "axes")
    else:
        widths, value, axes = (
            n.ints("pads", []),
            np.asarray(n.attrs.get("value", 0.0), np.float32),
            None,
        )
    which = list(range(rank)) if axes is None else [int(a) % rank for a in axes.reshape(-1)]
    n.need(len(widths) == 2 * len(which), f"{len(widths)} pads for {len(which)} axes")
    n.need(len(set(which)) == len(which), "an axis is named twice")
    n.need(all(0 <= w < 2**31 for w in widths), f"negative pads {widths} are not supported")
    full = [0] * (2 * rank)
    for k, axis in enumerate(which):
        full[2 * axis], full[2 * axis + 1] = widths[k], widths[len(which) + k]
    fill = 0.0 if value is None else float(np.asarray(value).reshape(-1)[0])
    return relax.op.nn.pad(x.use(), full, pad_value=fill)


def slice_axes(n: Node) -> Any:
    """Slice with constant ends: ``R.strided_slice``."""
    x = n.input(0)
    rank = len(x.shape)
    starts, ends, axes, steps = (
        [] if (given := n.optional_constant(k, f"input {k}")) is None else given.tolist()
        for k in (1, 2, 3, 4)
    )
    n.need(starts, "it has no starts; opset 10 or newer is needed")
    whole = all(isinstance(v, int) for v in (*starts, *ends, *axes, *steps))
    n.need(whole, "starts, ends, axes and steps must be lists of integers")
    axes = [a % rank for a in axes] or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    n.need(
        len(starts) == len(ends) == len(axes) == len(steps) and len(set(axes)) == len(axes),
        f"starts {starts}, ends {ends}, axes {axes}, steps {steps}",
    )
    n.need(all(s > 0 for s in steps), f"steps {steps}: only positive ones are supported")
    # Ends beyond the axis, up to 2**63 - 1, are meant to stop at it.
    ranges = [
        slice(b, e, s).indices(x.shape[a])
        for b, e, a, s in zip(starts, ends, axes, steps, strict=True)
    ]
    firsts, lasts, strides = (list(part) for part in zip(*ranges, strict=True))
    return relax.op.strided_slice(x.use(), axes, firsts, lasts, strides)


def cast(n: Node) -> Any:
    """Cast: ``R.astype``; nothing where the dtype stays."""
    x, out = n.input(0), n.result()
    narrow = out.kind in CODES and CODES[out.kind].bits < 8
    n.need(not narrow or out.kind == x.kind, f"{type_name(out.kind)} is made by QuantizeLinear")
    unsigned = x.indices or (x.kind in CODES and CODES[x.kind].lo == 0)
    wide = out.dtype in ("int64", "int32") or out.kind in _UNSIGNED
    if x.dtype == out.dtype:
        return Value(out.kind, out.shape, x.use(), indices=unsigned)
    return Value(
        out.kind, out.shape, relax.op.astype(x.use(), out.dtype), indices=unsigned and wide
    )
