"""Time kernels against what the core can do at most, in registers alone.

    python -m benchmarks.peak [--database DIR] [--rounds N] [--json FILE]

The peaks are loops of TIR, compiled and called as our kernels are: binary multiply-accumulates by
AND, VPOPCNTD and addition, 8-bit ones by VPDPBUSD. Nothing is loaded or stored in the loops. Each
step depends on its own accumulator only, and of several numbers of accumulators the fastest counts.
They run turn about with the W1A1 and W8A8 kernels of the 256x14x14 convolution, which include
padding, packing and requantization. AVX-512 only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import RESNET18, choose
from benchmarks.kernels import compare, machine, our_runner, summary
from tvm_qnn._tvm import tirx, tvm
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.database import UNTUNED, Database, load
from tvm_qnn.targets.instructions import missing_flags
from tvm_qnn.targets.x86 import AVX512_VNNI

STEPS = 4096
"""Turns of the loop in a call."""
LANES = 16
ACCUMULATORS = (8, 12, 16, 20, 24, 28)
CASE = RESNET18[2]


def binary(acc: Any, x: Any) -> Any:
    """Multiply and add 512 bits; the accumulator itself is one factor, so no step can be moved."""
    return acc + ir.cast(tirx.popcount(tirx.bitwise_and(acc, x)), "int32", LANES)


def bytes_(acc: Any, x: Any) -> Any:
    """Multiply and add 64 bytes."""
    x = tirx.reinterpret("uint8x64", x)
    return ir.intrinsic("int32x16", "llvm.x86.avx512.vpdpbusd.512", acc, x, x)


PEAKS = {"w1a1": (binary, 512), "w8a8": (bytes_, 64)}
"""The step of each peak, and its multiply-accumulates."""


def loop(variant: str, accumulators: int) -> Any:
    """Return a PrimFunc (x int32 [16], y int32 [16]) that runs the step on some accumulators."""
    step, _ = PEAKS[variant]
    with ir.function("peak") as finished:
        x, y = ir.argument("x", (LANES,), "int32"), ir.argument("y", (LANES,), "int32")
        sums = [ir.alloc((LANES,), "int32") for _ in range(accumulators)]
        vector = ir.lanes_at(0, LANES)
        with ir.stage("peak", (1,)):
            ir.accesses([ir.whole(x)], [ir.whole(y)])
            # No sum may begin with a constant: LLVM knows what comes of 0 AND x.
            for number, acc in enumerate(sums):
                ir.store(acc, x[vector] + ir.const(number, "int32", LANES), vector)
            with ir.serial(0, STEPS):
                for acc in sums:
                    ir.store(acc, step(acc[vector], x[vector]), vector)
            total = sums[0][vector]
            for acc in sums[1:]:
                total = total + acc[vector]
            ir.store(y, total, vector)
    return finished()


def peak_runner(variant: str, accumulators: int) -> Callable[[int], float]:
    """Compile a peak; the runner returns seconds a call."""
    module = tvm.compile(tvm.IRModule({"peak": loop(variant, accumulators)}), AVX512_VNNI.tvm())
    x = np.random.default_rng(0).integers(-(2**31), 2**31, LANES).astype(np.int32)
    arguments = [tvm.runtime.tensor(a) for a in (x, np.zeros(LANES, np.int32))]

    def run(number: int) -> float:
        timer = module.mod.time_evaluator("peak", tvm.cpu(), number=number, repeat=1)
        return float(timer(*arguments).mean)

    return run


def measure(rounds: int, tuned: Database) -> list[dict[str, Any]]:
    """Time kernels and peaks in turns; a row for each kernel."""
    kernels = {variant: choose(CASE, variant, AVX512_VNNI, tuned) for variant in PEAKS}
    runners = {}
    for variant, kernel in kernels.items():
        trace = None if kernel.record is None else kernel.record.trace
        runners[variant] = our_runner(kernel.work, kernel.family, AVX512_VNNI, trace)
        for number in ACCUMULATORS:
            runners[f"{variant} {number}"] = peak_runner(variant, number)
    times = compare(runners, rounds)
    rows = []
    for variant, kernel in kernels.items():
        rates = {
            number: number * STEPS * PEAKS[variant][1] / np.asarray(times[f"{variant} {number}"])
            for number in ACCUMULATORS
        }
        accumulators, peak = max(rates.items(), key=lambda rate: np.median(rate[1]))
        reached = kernel.work.macs / np.asarray(times[variant])
        p10, p50, p90 = (float(p) for p in np.percentile(reached / peak, [10, 50, 90]))
        rows.append(
            {
                "case": CASE.name,
                "kernel": kernel.name,
                "schedule": kernel.schedule,
                **summary(times[variant]),
                "gmacs_per_s": float(np.median(reached)) / 1e9,
                "peak_gmacs_per_s": float(np.median(peak)) / 1e9,
                "accumulators": accumulators,
                "of_peak": {"median": p50, "p10": p10, "p90": p90},
            }
        )
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=Path, help="records of tuning; default: untuned")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if missing := missing_flags(AVX512_VNNI):
        parser.error(f"this processor lacks {', '.join(missing)}")
    rows = measure(args.rounds, UNTUNED if args.database is None else load(args.database))
    for row in rows:
        share = row["of_peak"]
        print(
            f"{row['case']}, {row['kernel']} ({row['schedule']}): {row['gmacs_per_s']:.0f} of "
            f"{row['peak_gmacs_per_s']:.0f} GMAC/s, {share['median']:.1%} "
            f"({share['p10']:.1%} to {share['p90']:.1%})"
        )
    if args.json:
        facts = {"machine": machine(), "rows": rows}
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
