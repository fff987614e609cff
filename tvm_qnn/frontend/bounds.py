"""Which integers of an input mean something: rows of a table that it picks, codes of a format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, is_op, shape_of
from tvm_qnn.ops.fixed import FIXED_OPERATORS, format_of

Bounds = tuple[int, int]


def input_bounds(main: Any) -> list[Bounds | None]:
    """Return the bounds of each parameter of a function, None for those that have none.

    Matches the words of ``qnn.fixed_bag``, codes that a ``qnn.fixed_*`` operator takes, and indices
    of ``take``, as they are or with ONNX's rule for negative ones before it.
    """
    found: dict[Any, Bounds] = {}
    calls: dict[Any, Any] = {}
    for block in main.body.blocks:
        for binding in block.bindings:
            calls[binding.var] = binding.value
            for var, (low, high) in _claims(binding.value, calls):
                before = found.get(var, (low, high))
                found[var] = max(low, before[0]), min(high, before[1])
    return [found.get(param) for param in main.params]


def _claims(call: Any, calls: dict[Any, Any]) -> Iterator[tuple[Any, Bounds]]:
    """Yield variables that a call reads, and what it takes from them."""
    if is_op(call, "relax.take"):
        index = call.args[1]
        # where(index < 0, index + length, index)
        if index in calls and is_op(calls[index], "relax.where"):
            index = calls[index].args[2]
        yield index, (0, shape_of(call.args[0])[call.attrs.axis] - 1)
    elif is_op(call, "qnn.fixed_bag"):
        yield call.args[1], (0, shape_of(call.args[0])[0] - 1)
    elif is_op(call, *FIXED_OPERATORS):
        attrs = attrs_of(call)
        for arg in call.args:
            if isinstance(arg, relax.Var) and str(arg.ty.dtype) in ("int8", "int16"):
                fmt = format_of(attrs, "src_" if is_op(call, "qnn.fixed_convert") else "")
                yield arg, (-fmt.limit, fmt.limit)
