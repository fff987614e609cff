"""Lower ``qnn.fixed_*`` operators: one PrimFunc for each fused run, or for a single operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import relax
from tvm_qnn.ops import attrs_of, build, is_op, shape_of
from tvm_qnn.ops.fixed import FIXED_OPERATORS, format_of
from tvm_qnn.passes.rewrite import Rewriter, constant, name_of
from tvm_qnn.schedules.memory import Argument, Weight, place
from tvm_qnn.schedules.memory_bag import wants_bias
from tvm_qnn.schedules.memory_kernel import build_memory, prepared_weights
from tvm_qnn.schedules.memory_work import Operation, Work
from tvm_qnn.spec import FixedPoint
from tvm_qnn.spec.fixed import softmax_table
from tvm_qnn.targets.record import Target

if TYPE_CHECKING:
    from tvm_qnn.passes.lower import Prepared


def is_fixed(call: Any) -> bool:
    """Tell whether this file lowers a call."""
    return is_op(call, *FIXED_OPERATORS)


class LowerFixed:
    """Collects the members of each fused run, and replaces the last one by the kernel."""

    def __init__(self, target: Target, prepared: Prepared) -> None:
        self._target = target
        self._prepared = prepared
        self._members: dict[str, list[tuple[Any, Any, str]]] = {}

    def __call__(self, rewriter: Rewriter, call: Any, name: str) -> Any:
        """Return the replacement of a call, or None for a member that is not the last."""
        attrs = attrs_of(call)
        if "kernel" not in attrs:
            return self._lower(rewriter, [(rewriter.current, call, name)], _single_name(call))
        members = self._members.setdefault(attrs["kernel"], [])
        members.append((rewriter.current, call, name))
        if attrs["part"] + 1 < attrs["parts"]:
            return None
        return self._lower(rewriter, members, attrs["kernel"])

    def _lower(self, rewriter: Rewriter, members: list[tuple[Any, Any, str]], name: str) -> Any:
        last = members[-1][0]
        inside = {rewriter.new[var]: var for var, _, _ in members if var is not last}
        numbers = _Numbers(rewriter, self._target, self._prepared)
        operations = []
        for var, call, operator in members:
            inputs = [
                numbers.of(inside[a]) if a in inside else numbers.argument(call, i, operator)
                for i, a in enumerate(call.args)
            ]
            operations.append(_operation(call, inputs, numbers, numbers.of(var)))
        results = {
            numbers.of(var): (var, call)
            for var, call, _ in members
            if var is last or attrs_of(call).get("outside")
        }
        types = {n: call.ty for n, (_, call) in results.items()}
        declared, values = numbers.finish(members[-1][2] if len(members) == 1 else name)
        work = Work(
            declared,
            {n: Argument(f"out{i}", *_type(t)) for i, (n, t) in enumerate(types.items())},
            {numbers.of(var): _type(call.ty) for var, call, _ in members},
            tuple(operations),
        )
        function = rewriter.function(build_memory(work, self._target, name), name)
        kinds = list(types.values())
        made = relax.call_tir(function, values, kinds if len(kinds) > 1 else kinds[0])
        if len(kinds) == 1:
            return made
        whole = rewriter.emit(made, name)
        parts = {
            var: rewriter.emit(relax.TupleGetItem(whole, i), f"{name_of(var)}_out")
            for i, (var, _) in enumerate(results.values())
        }
        rewriter.new.update(parts)
        return parts[last]


class _Numbers:
    """Numbers the values of a kernel, and collects what it reads from outside."""

    def __init__(self, rewriter: Rewriter, target: Target, prepared: Prepared) -> None:
        self._rewriter = rewriter
        self._target = target
        self._prepared = prepared
        self._known: dict[Any, int] = {}
        self._count = 0
        self._declared: dict[int, Argument] = {}
        self._values: list[Any] = []
        self._weights: dict[FixedPoint, dict[int, NDArray[Any]]] = {}
        self._biased: set[int] = set()

    def of(self, key: Any) -> int:
        """Return the number of a value, new if it has none."""
        if key not in self._known:
            self._known[key] = self._count
            self._count += 1
        return self._known[key]

    def add(self, value: Any, shape: Any, dtype: str, weights: tuple[Weight, ...] = ()) -> int:
        """Declare what a kernel reads, once."""
        number = self.of(value)
        if number not in self._declared:
            name = f"in{len(self._declared)}"
            self._declared[number] = Argument(name, tuple(shape), dtype, weights)
            self._values.append(value)
        return number

    def argument(self, call: Any, index: int, operator: str) -> int:
        """Declare an argument of a call: weights are prepared, other tensors come as they are."""
        arg = call.args[index]
        values = constant(arg)
        if index == 0 and is_op(call, "qnn.fixed_output"):
            if values is None:
                turned = self._rewriter.emit(relax.op.permute_dims(arg), f"{operator}_turned")
                return self.add(turned, shape_of(turned), "float32")
            return self.constant(np.ascontiguousarray(values.T), "float32")
        if values is None or index or not is_op(call, "qnn.fixed_bag", "qnn.fixed_dense"):
            return self.add(arg, shape_of(arg), str(arg.ty.dtype))
        # Formats of as many bits have the same codes, and are stored alike.
        fmt = FixedPoint(0, format_of(attrs_of(call)).bits - 1)
        bag = is_op(call, "qnn.fixed_bag")
        biased = bag and wants_bias(self._target, fmt, shape_of(call.args[1])[-1])
        number = self.of((values.tobytes(), values.shape, fmt, biased))
        self._weights.setdefault(fmt, {})[number] = values
        if biased:
            self._biased.add(number)
        return number

    def finish(self, operator: str) -> tuple[dict[int, Argument], list[Any]]:
        """Return the declared arguments and their values; the weights of a dtype are one."""
        for fmt, weights in self._weights.items():
            placed, _ = place({n: w.shape for n, w in weights.items()}, self._biased)
            kernel = prepared_weights(placed, fmt, self._target)
            codes = np.concatenate([w.reshape(-1) for w in weights.values()])
            variable = self._prepared.add(operator, kernel, None, codes, fmt.codes)
            self.add(variable, kernel.packed_shape, kernel.packed_dtype, placed)
        return self._declared, self._values

    def constant(self, values: Any, dtype: str) -> int:
        """Declare a constant."""
        key = (values.tobytes(), values.shape, dtype)
        if key not in self._known:
            self._known[key] = self.add(build.const(values, dtype), values.shape, dtype)
        return self._known[key]


def _operation(call: Any, inputs: list[int], numbers: _Numbers, output: int) -> Operation:
    kind, attrs = call.op.name.removeprefix("qnn.fixed_"), attrs_of(call)
    if kind == "valid":
        return Operation(kind, tuple(inputs), output)
    fmt = format_of(attrs)
    if kind == "softmax":
        inputs.append(numbers.constant(softmax_table(fmt).astype(np.int32), "int32"))
    return Operation(
        kind, tuple(inputs), output, fmt,
        src=format_of(attrs, "src_") if kind == "convert" else None,
        binary=bool(attrs.get("binary", 0)),
        alpha=attrs.get("alpha", -3),
    )  # fmt: skip


def _single_name(call: Any) -> str:
    return call.op.name.replace(".", "_")


def _type(kind: Any) -> tuple[tuple[int, ...], str]:
    return tuple(int(d.value) for d in kind.shape), str(kind.dtype)
