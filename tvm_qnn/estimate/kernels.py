"""``estimate``: deterministic cycles of a kernel, numerics checked in the same run."""

from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.estimate import blocks, programs
from tvm_qnn.estimate.samples import Inputs
from tvm_qnn.ops.workload import CodebookWork, ConvWork
from tvm_qnn.schedules.family import Kernel
from tvm_qnn.targets.record import Target


@dataclass(frozen=True)
class Block:
    """A block of instructions that ran.

    Attributes:
        lines: assembly.
        cycles: of one execution, by model.
        count: how often it ran.
    """

    lines: tuple[str, ...]
    cycles: float
    count: int


@dataclass(frozen=True)
class Estimate:
    """What one run of a kernel costs on one core, by model.

    Attributes:
        cycles: sum over executed blocks of ``count * llvm-mca cycles``.
        instructions: executed instructions.
        output: what the kernel computed.
        blocks: that were executed, those that took most cycles first.
    """

    cycles: float
    instructions: int
    output: NDArray[Any]
    blocks: tuple[Block, ...]


def missing() -> str | None:
    """Return which tool lacks for estimates, None if all are there."""
    if lacking := programs.missing():
        return lacking
    return None if blocks.Tools.find() else blocks.MISSING


def calls_of(kernel: Kernel, inputs: Inputs, prepare: str, func: str) -> list[programs.Call]:
    """Return the calls that prepare the weights of a kernel and run it once."""
    packed = np.zeros(kernel.packed_shape, kernel.packed_dtype)
    out = np.zeros(inputs.expected.shape, inputs.expected.dtype)
    arguments = (inputs.x, packed, *kernel.constants, *inputs.parameters, out)
    return [
        programs.Call(prepare, (inputs.stream, packed)),
        programs.Call(func, arguments),
    ]


def estimate(
    kernel: Kernel, work: ConvWork | CodebookWork, target: Target, inputs: Inputs
) -> Estimate:
    """Run a kernel under qemu-user and sum the modelled cycles of the blocks it executed.

    Weight preparation runs too and is not counted. The shares of a parallel loop run one after
    another.

    Args:
        kernel: built for ``work`` and ``target``.
        work: what the kernel computes.
        target: names the processors of qemu-user and llvm-mca.
        inputs: arguments, from :func:`tvm_qnn.estimate.samples.random_inputs`.

    Raises:
        RuntimeError: where qemu-user, a linker or the LLVM programs are missing.
        EmulationError: if the kernel traps or writes beyond its arguments.
    """
    names = ["prepare", "kernel"]
    calls = calls_of(kernel, inputs, *names)
    return estimate_call(kernel.func, calls, target, {"prepare": kernel.prepare})


def estimate_call(
    func: Any, calls: list[programs.Call], target: Target, before: dict[str, Any]
) -> Estimate:
    """Estimate one PrimFunc as :func:`estimate` does.

    Args:
        func: the PrimFunc that is counted, called ``kernel``.
        calls: what to run, ``kernel`` last.
        target: names the processors of qemu-user and llvm-mca.
        before: PrimFuncs that run uncounted, by name.

    Raises:
        RuntimeError: where qemu-user, a linker or the LLVM programs are missing.
        EmulationError: if a kernel traps or writes beyond its arguments.
    """
    tools = blocks.Tools.find()
    lacking = missing()
    if lacking or tools is None or target.qemu_cpu is None:
        raise RuntimeError(lacking or f"no emulated processor for {target.name}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        counted_object = programs.compile_object({"kernel": func}, target, place / "kernel.o")
        objects, names = [counted_object], [*before, "kernel"]
        if before:
            objects.append(programs.compile_object(before, target, place / "before.o"))
        program = programs.link(objects, names, place / "program")
        code = blocks.locate(tools, counted_object, program, "__tvm_ffi_kernel")
        counted, results = count(program, names, calls, target.qemu_cpu, code.flags)
    listing = [[code.lines[start + 4 * i] for i in range(size)] for start, size in counted]
    costs = blocks.block_cycles(tools, listing, target.mca_cpu)
    ran = [
        Block(tuple(lines), cost, count)
        for lines, cost, count in zip(listing, costs, counted.values(), strict=True)
    ]
    ran.sort(key=lambda block: -block.cycles * block.count)
    cycles = sum(block.cycles * block.count for block in ran)
    instructions = sum(len(block.lines) * block.count for block in ran)
    return Estimate(cycles, instructions, results[-1], tuple(ran))


def count(
    program: Path, names: list[str], calls: list[programs.Call], cpu: str, flags: list[str]
) -> tuple[dict[tuple[int, int], int], list[NDArray[Any]]]:
    """Run calls and count the executed blocks that ``flags`` of qemu-user log.

    Returns:
        how often each block (address, instructions) ran, and the result of each call.
    """
    # The log goes through a pipe, for it is long.
    pipe = program.with_suffix(".log")
    os.mkfifo(pipe)
    counted: dict[tuple[int, int], int] = {}

    def read() -> None:
        with pipe.open() as log:
            counted.update(blocks.executed(log))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        results = programs.run(program, names, calls, cpu, [*flags, "-D", str(pipe)])
    except programs.EmulationError:
        # A program that died before it opened the log would leave the reader waiting.
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
        raise
    reader.join()
    return counted, results
