"""Codebook convolutions beside our own int8 dot products of the same shapes.

    python -m benchmarks.codebook [--boards] [--host] [--rounds N] [--json FILE]

For the boards, cycles of one core by model (:mod:`benchmarks.arm`), of the whole kernel from codes
to codes; every run is compared with the definition. On this machine, both kernels run in turns on
one thread; a ratio is the time of the int8 kernel over the time of the codebook kernel: ``quiet``
of the 10th percentiles, which other programs disturb less, and its spread over the turns. Weights
are random and all codes equally frequent, the worst case: a more frequent value costs nothing. The
family is the one that the compiler would choose. Without --boards or --host both are measured, and
what is not measured stays in the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import CASES, Case, host_target
from benchmarks.kernels import compare, machine, our_runner
from tvm_qnn._tvm import tvm
from tvm_qnn.estimate import blocks
from tvm_qnn.estimate.kernels import estimate
from tvm_qnn.estimate.samples import random_codebook, random_inputs
from tvm_qnn.ops.workload import CodebookWork, ConvWork, Epilogue
from tvm_qnn.schedules import candidates, family
from tvm_qnn.spec import Codes
from tvm_qnn.targets.arm import RPI3, RPI4, RPI5
from tvm_qnn.targets.record import Target
from tvm_qnn.targets.x86 import AVX2

RESULTS = Path(__file__).with_name("results") / "codebook.json"
BOARDS = (RPI4, RPI3, RPI5)
VALUES = (3, 4, 5, 8, 16)
FULL = "conv3x3 256ch 14x14"
"""The shape that is measured with all numbers of values and bits."""


def shapes() -> list[Case]:
    """Return the 3x3 convolutions of ``benchmarks.kernels``."""
    return [c for c in CASES if c.kernel == 3 and c.groups == 1 and c.in_channels > 3]


def conv(case: Case, bits: int, weights: Codes) -> ConvWork:
    """Return a case with activations of some bits, from codes to codes."""
    codes = Codes(0, 2**bits - 1)
    return ConvWork(
        1, case.height, case.width, case.in_channels, case.out_channels, (3, 3), codes, weights,
        (case.strides, case.strides), (1, 1, 1, 1), epilogue=Epilogue("requantize", codes),
    )  # fmt: skip


def int8(case: Case) -> ConvWork:
    """Return the same convolution with 8-bit weights and activations."""
    return conv(case, 8, Codes(-127, 127))


def variants(case: Case) -> Iterator[tuple[int, int]]:
    """Yield (values, bits of the activations) to measure."""
    yield 3, 8
    if case.name == FULL:
        yield from ((m, 8) for m in VALUES[1:])
        yield from ((3, bits) for bits in (1, 2, 4))


def on_board(case: Case, target: Target) -> Iterator[dict[str, Any]]:
    """Estimate the variants of a case on a board.

    Raises:
        RuntimeError: if a kernel computes anything else than the definition.
    """
    base = int8(case)
    inputs = random_inputs(base)
    dot = estimate(family("dot").build(base, target, inputs.weights), base, target, inputs)
    for values, bits in variants(case):
        work = CodebookWork(conv(case, bits, Codes(0, values - 1)))
        chosen = candidates(work, target)[0][0][0]
        drawn = random_codebook(work, uniform=True)
        kernel = chosen.build(work, target, drawn.weights)
        found = estimate(kernel, work, target, drawn)
        if not np.array_equal(found.output, drawn.expected):
            raise RuntimeError(f"{kernel.name} on {target.name} differs from the definition")
        yield {
            "target": target.name,
            "case": case.name,
            "values": values,
            "bits": bits,
            "kernel": kernel.name,
            "cycles": round(found.cycles),
            "macs_per_cycle": round(base.macs / found.cycles, 2),
            "dot_cycles": round(dot.cycles),
            "dot_macs_per_cycle": round(base.macs / dot.cycles, 2),
            "ratio": round(dot.cycles / found.cycles, 3),
        }


def runner(work: CodebookWork, target: Target) -> tuple[str, Callable[[int], float]]:
    """Compile the kernel for ``work``; return its name and what returns seconds a call."""
    drawn = random_codebook(work, uniform=True)
    chosen = candidates(work, target)[0][0][0]
    kernel = chosen.build(work, target, drawn.weights)
    module = tvm.compile(
        tvm.IRModule({kernel.name: kernel.func, "prepare": kernel.prepare}), target.tvm()
    )
    packed = tvm.runtime.tensor(np.zeros(kernel.packed_shape, kernel.packed_dtype))
    module["prepare"](tvm.runtime.tensor(drawn.stream), packed)
    arrays = [drawn.x, *kernel.constants, *drawn.parameters, np.zeros_like(drawn.expected)]
    x, *rest = (tvm.runtime.tensor(a) for a in arrays)
    module[kernel.name](x, packed, *rest)
    if not np.array_equal(rest[-1].numpy(), drawn.expected):
        raise RuntimeError(f"{kernel.name} on {target.name} differs from the definition")

    def run(number: int) -> float:
        timer = module.mod.time_evaluator(kernel.name, tvm.cpu(), number=number, repeat=1)
        return float(timer(x, packed, *rest).mean)

    return kernel.name, run


def on_host(case: Case, target: Target, rounds: int) -> Iterator[dict[str, Any]]:
    """Time the variants of a case on this machine."""
    base = int8(case)
    dot = our_runner(base, "dot", target)
    for values, bits in variants(case):
        name, run = runner(CodebookWork(conv(case, bits, Codes(0, values - 1))), target)
        times = compare({"dot": dot, "codebook": run}, rounds)
        ratios = np.asarray(times["dot"]) / np.asarray(times["codebook"])
        p10, median, p90 = np.percentile(ratios, [10, 50, 90])
        quick = {name: float(np.percentile(seconds, 10)) for name, seconds in times.items()}
        yield {
            "target": target.name,
            "case": case.name,
            "values": values,
            "bits": bits,
            "kernel": name,
            "gmacs_per_s": round(base.macs / quick["codebook"] / 1e9, 1),
            "dot_gmacs_per_s": round(base.macs / quick["dot"] / 1e9, 1),
            "quiet": round(quick["dot"] / quick["codebook"], 3),
            "ratio": {"median": round(median, 3), "p10": round(p10, 3), "p90": round(p90, 3)},
        }


def show(row: dict[str, Any]) -> None:
    ratio = row.get("quiet", row["ratio"])
    rate = row.get("macs_per_cycle", row.get("gmacs_per_s"))
    print(
        f"{row['target']:16} {row['case']:30} M={row['values']:<3} a{row['bits']} "
        f"{row['kernel']:26} {rate:8} {ratio:6.2f}",
        flush=True,
    )


def main() -> None:
    """Measure, print a table and write the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codebook", description=__doc__)
    parser.add_argument("--boards", action="store_true", help="only the model of the boards")
    parser.add_argument("--host", action="store_true", help="only this machine")
    parser.add_argument("--rounds", type=int, default=60, help="turns on this machine")
    parser.add_argument("--json", type=Path, default=RESULTS, help="file for the rows")
    args = parser.parse_args()
    both = args.boards == args.host
    facts = json.loads(args.json.read_text()) if args.json.exists() else {}
    if args.boards or both:
        tools = blocks.Tools.find()
        if tools is None:
            parser.error(blocks.MISSING)
        facts["llvm"] = tools.version()
        facts["boards"] = []
        for case in shapes():
            for target in BOARDS:
                for row in on_board(case, target):
                    show(row)
                    facts["boards"].append(row)
    if args.host or both:
        facts["machine"] = machine()
        facts["host"] = []
        for target in dict.fromkeys((AVX2, host_target())):
            for case in shapes():
                for row in on_host(case, target, args.rounds):
                    show(row)
                    facts["host"].append(row)
    args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
