"""Converters of the functions of domain ``tvm_qnn.fixed``: each is one ``qnn.fixed_*`` operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tvm_qnn.frontend.onnx_graph import Node, Value
from tvm_qnn.frontend.record import Refused, reason_of
from tvm_qnn.ops import fixed, shape_of
from tvm_qnn.spec import FixedPoint


def _format(n: Node, prefix: str = "") -> FixedPoint:
    try:
        return FixedPoint(n.attrs[f"{prefix}integer"], n.attrs[f"{prefix}fraction"])
    except ValueError as error:
        raise Refused(str(error)) from None


def _codes(n: Node, index: int, fmt: FixedPoint) -> Any:
    """Return an input of codes; those of a constant are checked."""
    value = n.input(index)
    if value.data is not None and not fmt.codes.contains(value.data):
        raise Refused(f"{n.proto.input[index]!r} holds integers outside of {fmt.codes}, for {fmt}")
    return value.use()


def _convert(n: Node) -> Any:
    src, dst = _format(n, "src_"), _format(n)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dst.dtype))
    n.need(n.attrs["to"] == kind, f"to = {n.attrs['to']}: {dst} is stored as {dst.dtype}")
    return fixed.convert(_codes(n, 0, src), src, dst)


def _bag(n: Node) -> Any:
    fmt = _format(n)
    return fixed.bag(_codes(n, 0, fmt), n.input(1).use(), fmt)


def _valid(n: Node) -> Any:
    return fixed.valid(n.input(0).use())


def _dense(n: Node) -> Any:
    fmt = _format(n)
    return fixed.dense(_codes(n, 0, fmt), _codes(n, 1, fmt), fmt, bool(n.attrs["binary"]))


def _similarity(n: Node) -> Any:
    fmt = _format(n)
    return fixed.similarity(_codes(n, 0, fmt), _codes(n, 1, fmt), fmt, bool(n.attrs["binary"]))


def _hamming(n: Node) -> Any:
    fmt = _format(n)
    return fixed.hamming(_codes(n, 0, fmt), _codes(n, 1, fmt), fmt, n.attrs["alpha"])


def _softmax(n: Node) -> Any:
    fmt = _format(n)
    return fixed.softmax(_codes(n, 0, fmt), n.input(1).use(), fmt)


def _read(n: Node) -> Any:
    fmt = _format(n)
    return fixed.read(_codes(n, 0, fmt), _codes(n, 1, fmt), fmt)


def _add(n: Node) -> Any:
    fmt = _format(n)
    return fixed.add(_codes(n, 0, fmt), _codes(n, 1, fmt), fmt)


def _output(n: Node) -> Any:
    fmt = _format(n)
    return fixed.output(n.input(0).use(), _codes(n, 1, fmt), fmt)


_CALLS: dict[str, tuple[Callable[[Node], Any], int, set[str]]] = {
    "FixedConvert": (
        _convert, 1, {"src_integer", "src_fraction", "integer", "fraction", "to"},
    ),
    "FixedBag": (_bag, 2, {"integer", "fraction"}),
    "FixedValid": (_valid, 1, set()),
    "FixedDense": (_dense, 2, {"integer", "fraction", "binary"}),
    "FixedSimilarity": (_similarity, 2, {"integer", "fraction", "binary"}),
    "HammingSimilarity": (_hamming, 2, {"integer", "fraction", "alpha"}),
    "FixedSoftmax": (_softmax, 2, {"integer", "fraction"}),
    "FixedRead": (_read, 2, {"integer", "fraction"}),
    "FixedAdd": (_add, 2, {"integer", "fraction"}),
    "FixedOutput": (_output, 2, {"integer", "fraction"}),
}  # fmt: skip


def _converter(name: str) -> Callable[[Node], Value]:
    make, count, names = _CALLS[name]

    def convert(n: Node) -> Value:
        n.need(len(n.proto.output) == 1, f"{len(n.proto.output)} outputs, it has one")
        n.need(len(n.inputs) == count, f"{len(n.inputs)} inputs, it takes {count}")
        wrong = sorted(names.symmetric_difference(n.attrs))
        n.need(not wrong, f"attribute {wrong[:1]} is missing or not one of {sorted(names)}")
        for attribute, value in n.attrs.items():
            n.need(isinstance(value, int), f"attribute {attribute} must be an integer")
        try:
            bound = n.emit(make(n))
        except (TypeError, ValueError) as error:
            raise Refused(reason_of(error)) from None
        dtype = str(bound.ty.dtype)
        kind = (
            TensorProto.BOOL
            if dtype == "bool"
            else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        )
        return Value(int(kind), tuple(shape_of(bound)), bound)

    return convert


FIXED: dict[str, Callable[[Node], Value]] = {name: _converter(name) for name in _CALLS}
"""Converters by the name of the function."""
