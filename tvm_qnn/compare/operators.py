"""The kernels of a variant, each with its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm_qnn._tvm import tvm
from tvm_qnn.compare.emulate import Emulated
from tvm_qnn.compare.measure import Runner, cost, in_rounds
from tvm_qnn.compare.places import Place
from tvm_qnn.compare.roofline import roof
from tvm_qnn.compare.rows import ESTIMATED, TABLE, Cost, Machine, Operator
from tvm_qnn.compare.steps import Step, Steps
from tvm_qnn.frontend import Imported
from tvm_qnn.inspection import MOVES, Row, source_name
from tvm_qnn.ops import is_op
from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.passes.epilogues import taken_epilogues
from tvm_qnn.passes.lower import Lowered
from tvm_qnn.passes.rewrite import calls
from tvm_qnn.schedules import family
from tvm_qnn.targets import Target
from tvm_qnn.units import count

TURN = 0.003
"""Seconds of a turn of one kernel, short enough to fall between interruptions."""
MOST_FLOAT = 100_000_000
"""Float multiply-accumulates of a program that is still emulated."""


def operators_of(
    steps: Steps, module: Any, rows: Sequence[Row], imported: Imported
) -> list[tuple[Operator, Step]]:
    """Join the kernels of a program with what ``inspect`` says; changes of shape are left out.

    Args:
        steps: the program.
        module: what it was lowered from.
        rows: what ``inspect`` says of ``module``.
        imported: the model.
    """
    # A kernel has the name of its last operator, a row that of the convolution.
    convolution = {name: first for first, (name, _) in taken_epilogues(module).items()}
    moves = {name for name, call in calls(module) if is_op(call, *MOVES)}
    left = list(rows)
    found = []
    for step in steps.main:
        if step.moves:
            continue
        ends = [_end(name) for name in step.names if name not in moves]
        names = {source_name(convolution.get(name, name), imported) for name in ends}
        mine = [row for row in left if row.name in names or _fused(row, step)]
        left = [row for row in left if row not in mine]
        found.append((_operator(step, mine, imported), step))
    return found


def _end(name: str) -> str:
    """Return the operator that a kernel ends with, without what ``lower`` adds to its name."""
    return name.removesuffix("_image").removesuffix("_planes")


def _fused(row: Row, step: Step) -> bool:
    """Tell whether a kernel of a memory network computes an operator."""
    return row.operator.startswith("fixed_") and row.kernel == step.kernel


def _operator(step: Step, rows: Sequence[Row], imported: Imported) -> Operator:
    """Return an operator without its cost; ``rows`` are those that the kernel computes."""
    if not rows:
        name = source_name(step.names[0], imported)
        return Operator(
            name, step.kernel, step.kernel, step.shape, 0, 0, 0, 0, 0, step.moved_bytes, 0.0, None,
            "",
        )  # fmt: skip
    main = max(rows, key=lambda row: row.macs)
    fused = len(rows) > 1 and _fused(main, step)
    return Operator(
        name=f"{rows[0].name} to {rows[-1].name}" if fused else main.name,
        operator="memory network" if fused else main.operator,
        kernel=step.kernel if main.kernel == "float" else main.kernel,
        shape=rows[-1].shape if fused else main.shape,
        weight_bits=main.weight_bits,
        activation_bits=main.activation_bits,
        codebook=main.codebook,
        macs=sum(row.macs for row in rows),
        weight_bytes=sum(row.weight_bytes for row in rows),
        moved_bytes=step.moved_bytes,
        gain=main.gain,
        cost=None,
        missing="",
    )


def runners_of(steps: Steps, place: Place) -> list[Runner]:
    """Run a program step by step on a machine, and return what times each step that is no move."""
    every = [*steps.prepare, *steps.main]
    names = [f"kernel{i}" for i in range(len(every))]
    functions = {
        name: step.func.with_attr("global_symbol", name)
        for name, step in zip(names, every, strict=True)
    }
    library = place.load(tvm.IRModule(functions))
    tensors: dict[int, Any] = {}

    def tensor(array: Any) -> Any:
        if id(array) not in tensors:
            tensors[id(array)] = tvm.runtime.tensor(array, place.device)
        return tensors[id(array)]

    def runner(name: str, arguments: list[Any]) -> Runner:
        def run(count: int) -> float:
            timer = library.time_evaluator(name, place.device, number=count, repeat=1)
            return float(timer(*arguments).mean)

        return run

    found = []
    for name, step in zip(names, every, strict=True):
        arguments = [tensor(a) for a in step.arguments]
        library[name](*arguments)
        found.append(runner(name, arguments))
    main = found[len(steps.prepare) :]
    return [run for run, step in zip(main, steps.main, strict=True) if not step.moves]


def measured(
    operators: Sequence[tuple[Operator, Step]], steps: Steps, place: Place, machine: Machine,
    target: Target, threads: int, limit: float,
) -> tuple[Operator, ...]:  # fmt: skip
    """Time each kernel alone, in turns."""
    runners = dict(enumerate(runners_of(steps, place)))
    times = in_rounds(runners, limit, turn=TURN)
    found = []
    for i, (operator, _) in enumerate(operators):
        took = cost(place.kind, times[i])
        under = roof(operator, took, target, machine, threads)
        found.append(replace(operator, cost=took, roof=under))
    return tuple(found)


def too_large(operators: Sequence[tuple[Operator, Step]]) -> str | None:
    """Say why a program takes too long to emulate; None if it does not."""
    floats = sum(o.macs for o, step in operators if not step.ours)
    if floats <= MOST_FLOAT:
        return None
    return f"{count(floats)} float multiply-accumulates would take minutes to emulate"


def estimated(
    operators: Sequence[tuple[Operator, Step]], steps: Steps, emulated: Emulated, target: Target
) -> tuple[Operator, ...]:
    """Take the cycles of each kernel from an emulated inference."""
    cycles = {id(s): c for s, c in zip(steps.main, emulated.cycles, strict=True)}
    return tuple(_modelled(o, ESTIMATED, cycles[id(s)], target) for o, s in operators)


def by_table(
    operators: Sequence[tuple[Operator, Step]], lowered: Lowered, target: Target
) -> tuple[Operator, ...]:
    """Take the cycles of convolutions and matrix products from the cost of their family."""
    cycles: dict[str, float] = {}
    for name, (kernel, work, _) in lowered.kernels.items():
        if work is not None:
            chosen = family(
                kernel.removeprefix(work.name("")), codebook=isinstance(work, CodebookWork)
            )
            cycles[name] = chosen.cycles(work, target)
    found = []
    for operator, step in operators:
        ends = (name.removesuffix("_image") for name in step.names)
        known = next((cycles[name] for name in ends if name in cycles), None)
        found.append(_modelled(operator, TABLE, known, target))
    return tuple(found)


def _modelled(operator: Operator, kind: str, cycles: float | None, target: Target) -> Operator:
    if cycles is None:
        return replace(operator, missing="no model knows its cycles")
    took = Cost.model(kind, cycles)
    return replace(operator, cost=took, roof=roof(operator, took, target, None))
