"""A whole program on an emulated board: modelled cycles of every kernel, and its results.

All kernels of a program are linked into one static program, which qemu-user runs once. The blocks
of each kernel are counted apart.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tvm_qnn.compare.steps import Step, Steps
from tvm_qnn.estimate import blocks, kernels, programs
from tvm_qnn.targets import Target


@dataclass(frozen=True)
class Emulated:
    """What one emulated inference tells.

    Attributes:
        cycles: of each step of ``main``; None for changes of shape.
        results: what it returns; None for what is the result of no kernel.
    """

    cycles: tuple[float | None, ...]
    results: tuple[NDArray[Any] | None, ...]


def missing(target: Target) -> str | None:
    """Return what lacks for estimates of a target, None if nothing."""
    if target.qemu_cpu is None or not target.mca_cpu:
        return f"there is no model of {target.name}"
    return kernels.missing()


def emulate(steps: Steps, target: Target) -> Emulated:
    """Run a program once on an emulated board.

    Args:
        steps: the program.
        target: the board; :func:`missing` has nothing to say about it.

    Raises:
        RuntimeError: it cannot be linked, or a kernel traps or writes beyond its arguments.
    """
    tools = blocks.Tools.find()
    assert tools is not None
    assert target.qemu_cpu is not None
    before = [f"prepare{i}" for i in range(len(steps.prepare))]
    after = [f"kernel{i}" for i in range(len(steps.main))]
    every = dict(zip([*before, *after], [*steps.prepare, *steps.main], strict=True))
    wanted = [name for name, step in zip(after, steps.main, strict=True) if not step.moves]
    with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
        place = Path(folder)
        program, code = _build(tools, place, every, wanted, target)
        flags = ["-d", "in_asm,exec,nochain", "-dfilter", ",".join(c.flags[-1] for c in code)]
        calls = [programs.Call(name, step.arguments) for name, step in every.items()]
        found, results = kernels.count(program, list(every), calls, target.qemu_cpu, flags)
    cycles = dict(zip(wanted, _cycles(tools, code, found, target), strict=True))
    written = dict(zip((id(c.arguments[-1]) for c in calls), results, strict=True))
    return Emulated(
        tuple(cycles.get(name) for name in after),
        tuple(written.get(id(array)) for array in steps.results),
    )


def _build(
    tools: blocks.Tools, place: Path, steps: dict[str, Step], wanted: list[str], target: Target
) -> tuple[Path, list[blocks.Code]]:
    """Link all steps; return the program, and where it holds the code of those that are wanted."""
    objects = {
        name: programs.compile_object({name: step.func}, target, place / f"{name}.o")
        for name, step in steps.items()
    }
    try:
        program = programs.link(list(objects.values()), list(objects), place / "program")
    except subprocess.CalledProcessError as error:
        raise RuntimeError("its kernels cannot be linked to a static program") from error
    code = [blocks.locate(tools, objects[n], program, f"__tvm_ffi_{n}") for n in wanted]
    return program, code


def _cycles(
    tools: blocks.Tools, code: list[blocks.Code], found: dict[tuple[int, int], int], target: Target
) -> list[float]:
    """Return the cycles of each piece of code."""
    owner = {address: i for i, piece in enumerate(code) for address in piece.lines}
    listing = [
        [code[owner[start]].lines[start + 4 * i] for i in range(size)] for start, size in found
    ]
    cycles = [0.0] * len(code)
    costs = blocks.block_cycles(tools, listing, target.mca_cpu) if listing else []
    for ((start, _), times), cost in zip(found.items(), costs, strict=True):
        cycles[owner[start]] += times * cost
    return cycles
