"""The kernels of a lowered module one by one, each with its arguments.

The same steps are timed on a machine and run on an emulated board. All values are numpy arrays; an
array that occurs in several steps is one tensor, which one of them writes and others read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import relax, tirx, tvm
from tvm_qnn.compiler import grouping_passes
from tvm_qnn.ops import shape_of
from tvm_qnn.passes.rewrite import constant, name_of
from tvm_qnn.targets import Target

Array = NDArray[Any]


@dataclass(frozen=True)
class Step:
    """A call of a kernel.

    Attributes:
        names: bindings of the operators that the kernel computes.
        kernel: name of the kernel.
        func: PrimFunc; its last arguments are written.
        arguments: inputs, then outputs.
        outputs: how many of them are outputs.
        moves: whether it only gives a tensor another shape, which costs nothing in a program.
        ours: whether it comes from this package, not from TVM.
    """

    names: tuple[str, ...]
    kernel: str
    func: Any
    arguments: tuple[Array, ...]
    outputs: int
    moves: bool
    ours: bool

    @property
    def moved_bytes(self) -> int:
        """Bytes of all arguments."""
        return sum(array.nbytes for array in self.arguments)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.arguments[-1].shape


@dataclass(frozen=True)
class Steps:
    """A program in steps.

    Attributes:
        prepare: unpack the weights; run once.
        main: an inference.
        results: what the inference returns, after it ran.
        planned_bytes: of constants, of unpacked weights, and of activations as TVM plans them.
    """

    prepare: tuple[Step, ...]
    main: tuple[Step, ...]
    results: tuple[Array, ...]
    planned_bytes: int


def steps_of(module: Any, target: Target, inputs: Sequence[Array]) -> Steps:
    """Take a lowered module apart.

    Args:
        module: with the functions ``main`` and ``prepare``.
        target: the device.
        inputs: of an inference.
    """
    device = target.tvm()
    ours = {gv.name_hint for gv, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    with device:
        grouped = tvm.transform.Sequential(grouping_passes(device))(module)
        fused = relax.transform.FuseTIR()(grouped)
        reshaped = relax.transform.RewriteDataflowReshape()(fused)
        functions = relax.transform.LegalizeOps()(reshaped)
    # What is a function again by now was a mere change of shape in between.
    moves = {gv.name_hint for gv in functions.functions} - {
        gv.name_hint for gv in reshaped.functions
    }
    reader = _Reader(functions, _groups(grouped), ours, moves)
    weights, prepare = reader.read("prepare", [], {})
    named = dict(zip(_results(functions["main"]), _results(module["main"]), strict=True))
    results, main = reader.read("main", [*inputs, *weights], named)
    planned = _planned(fused, device) + sum(a.nbytes for a in (*weights, *reader.constants))
    return Steps(tuple(prepare), tuple(main), tuple(results), planned)


def _groups(grouped: Any) -> dict[str, tuple[list[str], list[str]]]:
    """Return the bindings, and the functions they call, of each group of operators, by its name."""
    found = {}
    for gv, function in grouped.functions.items():
        if isinstance(function, relax.Function) and gv.name_hint not in ("main", "prepare"):
            bindings = [b for block in function.body.blocks for b in block.bindings]
            called = [b.value.args[0].name_hint for b in bindings if _is_kernel(b.value)]
            found[gv.name_hint] = ([name_of(b.var) for b in bindings], called)
    return found


def _is_kernel(value: Any) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_tir"


def _results(main: Any) -> list[str]:
    """Return the names of what a function returns, before the last pass renamed it."""
    bound = {b.var: b.value for block in main.body.blocks for b in block.bindings}

    def source(var: Any) -> str:
        while isinstance(bound.get(var), relax.Var):
            var = bound[var]
        return name_of(var)

    body = main.body.body
    body = bound.get(body, body) if not isinstance(body, relax.Tuple) else body
    if isinstance(body, relax.Tuple):
        return [source(f) if isinstance(f, relax.Var) else "" for f in body.fields]
    return [source(main.body.body)]


class _Reader:
    """Reads the bindings of a function in order."""

    def __init__(
        self, module: Any, groups: dict[str, tuple[list[str], list[str]]], ours: set[str],
        moves: set[str],
    ) -> None:  # fmt: skip
        self._module, self._groups, self._ours, self._moves = module, groups, ours, moves
        self._constants: dict[Any, Array] = {}

    @property
    def constants(self) -> list[Array]:
        """The constants of what was read."""
        return list(self._constants.values())

    def read(
        self, function: str, arguments: Sequence[Array], named: dict[str, str]
    ) -> tuple[list[Array], list[Step]]:
        """Return the results of a function and its steps."""
        main = self._module[function]
        values: dict[Any, Any] = dict(zip(main.params, arguments, strict=True))
        steps = []
        for block in main.body.blocks:
            for binding in block.bindings:
                if _is_kernel(binding.value):
                    step = self._step(binding, values, named)
                    results = step.arguments[len(step.arguments) - step.outputs :]
                    values[binding.var] = results[0] if step.outputs == 1 else list(results)
                    steps.append(step)
                else:
                    values[binding.var] = self._value(binding.value, values)
        found = self._value(main.body.body, values)
        return found if isinstance(found, list) else [found], steps

    def _step(self, binding: Any, values: dict[Any, Any], named: dict[str, str]) -> Step:
        gv, inputs = binding.value.args
        kind = binding.value.ty
        kinds = kind.fields if isinstance(kind, relax.TupleType) else [kind]
        outputs = [np.zeros(_sizes(k), str(k.dtype)) for k in kinds]
        own = name_of(binding.var)
        names, called = self._groups.get(gv.name_hint, ([named.get(own, own)], [gv.name_hint]))
        given = [self._value(a, values) for a in inputs.fields]
        return Step(
            tuple(names), gv.name_hint, self._module[gv], (*given, *outputs), len(outputs),
            gv.name_hint in self._moves, any(name in self._ours for name in called),
        )  # fmt: skip

    def _value(self, expr: Any, values: dict[Any, Any]) -> Any:
        if isinstance(expr, relax.Var):
            return values[expr]
        if isinstance(expr, relax.Tuple):
            return [self._value(e, values) for e in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self._value(expr.tuple_value, values)[expr.index]
        found = constant(expr)
        if found is None:
            raise TypeError(f"a lowered module holds {type(expr).__name__} {expr}")
        return self._constants.setdefault(expr, found)


def _sizes(kind: Any) -> tuple[int, ...]:
    return tuple(int(d.value) for d in kind.shape)


def _planned(fused: Any, device: Any) -> int:
    """Return the bytes that TVM allocates for the values inside of ``main``."""
    passes = [
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
    ]
    with device:
        main = tvm.transform.Sequential(passes)(fused)["main"]
    total = 0
    for block in main.body.blocks:
        for binding in block.bindings:
            name = getattr(getattr(binding.value, "op", None), "name", "")
            if name == "relax.memory.alloc_storage":
                total += int(binding.value.args[0].values[0].value)
            elif name == "relax.builtin.alloc_tensor":
                total += int(np.prod(shape_of(binding.value))) * _item_bytes(binding.value)
    return total


def _item_bytes(call: Any) -> int:
    return np.dtype(str(call.ty.dtype)).itemsize
