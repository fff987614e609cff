"""Estimate kernels for the Raspberry Pi boards, in cycles of one core by model.

    python -m benchmarks.arm [--database DIR] [--only NAME ...] [--output FILE]

With ``--database`` the schedules are those that ``benchmarks.tune_kernels`` found.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arm.limits import LIMITS, inner_rate
from benchmarks.arm.works import BOARDS, describe, works
from tvm_qnn.estimate import blocks
from tvm_qnn.estimate.kernels import estimate
from tvm_qnn.estimate.samples import random_inputs
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import family
from tvm_qnn.schedules.database import UNTUNED, Database, load
from tvm_qnn.targets.record import Target

RESULTS = Path(__file__).with_name("results.json")


def measure(name: str, work: ConvWork, target: Target, tuned: Database) -> dict[str, Any]:
    """Estimate one kernel and return its row.

    Raises:
        RuntimeError: if the kernel computes anything else than the definition.
    """
    inputs = random_inputs(work)
    record = tuned.find(family(name), work, target)
    trace = None if record is None else record.trace
    kernel = family(name).build(work, target, inputs.weights, trace)
    found = estimate(kernel, work, target, inputs)
    if not np.array_equal(found.output, inputs.expected):
        raise RuntimeError(f"{kernel.name} on {target.name} differs from the definition")
    bits = work.x.bits * work.w.bits if name == "bitserial" else 1
    rate, inner = work.macs * bits / found.cycles, inner_rate(found)
    limit = LIMITS[target.name][name]
    return {
        "target": target.name,
        "kernel": kernel.name,
        "work": describe(work),
        "schedule": "untuned" if record is None else "default" if trace is None else "tuned",
        "macs": work.macs,
        "cycles": round(found.cycles),
        "instructions": found.instructions,
        "macs_per_cycle": round(work.macs / found.cycles, 2),
        "plane_macs_per_cycle": round(rate, 2),
        "inner_loop": {"per_cycle": round(inner, 2), "of_limit": round(inner / limit, 3)},
        "whole": {"per_cycle": round(rate, 2), "of_limit": round(rate / limit, 3)},
    }


def main() -> None:
    """Measure all kernels on all boards, print a table and write the rows."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arm", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--database", type=Path, help="records of tuning; default: untuned")
    parser.add_argument("--only", nargs="*", help="boards and kernels: parts of their names")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for the rows (JSON)")
    args = parser.parse_args()
    tuned = UNTUNED if args.database is None else load(args.database)
    tools = blocks.Tools.find()
    if tools is None:
        parser.error(blocks.MISSING)
    print(f"{tools.version()}, one core, model cycles; shares of the limits of the core")
    print(
        f"{'target':6} {'kernel':26} {'work':42} {'cycles':>9} {'MAC/cycle':>9} {'planes':>7} "
        f"{'inner':>6} {'whole':>6}  schedule"
    )
    rows = []
    for name, work in works():
        for target in BOARDS:
            if args.only and not any(
                part in f"{target.name} {work.name(name)} {describe(work)}" for part in args.only
            ):
                continue
            row = measure(name, work, target, tuned)
            rows.append(row)
            print(
                f"{row['target']:6} {row['kernel']:26} {row['work']:42} {row['cycles']:9} "
                f"{row['macs_per_cycle']:9.2f} {row['plane_macs_per_cycle']:7.2f} "
                f"{row['inner_loop']['of_limit']:6.0%} {row['whole']['of_limit']:6.0%}  "
                f"{row['schedule']}",
                flush=True,
            )
    about = {
        "method": "executed blocks under qemu-user x llvm-mca cycles of each block, one core",
        "llvm": tools.version(),
        "processors": {t.name: " ".join(t.mca_cpu) for t in BOARDS},
        "records": len(tuned),
    }
    args.output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
