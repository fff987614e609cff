"""Time whole networks: ours, ONNX Runtime and plain TVM float, turn about, one thread.

    python -m benchmarks.network [MODEL ...] [--rounds N] [--json FILE]

All three run the same file on the same input. ONNX Runtime gets it with all optimizations, so a
quantized file runs on its int8 kernels where it has any; plain TVM runs the same graph in float
with the default pipeline. The compile time and the peak memory of the compiler are measured in a
process of their own, as a user meets them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import tvm_qnn
from benchmarks.kernels import machine, summary
from tvm_qnn import targets, zoo
from tvm_qnn.compiler import Artifact, read

SLICE = 0.05
"""Seconds of one turn."""


def ours(artifact: Artifact, arrays: dict[str, Any]) -> Callable[[int], float]:
    """Return what times an artifact: the median of a number of inferences."""
    return lambda number: artifact.program.benchmark(arrays, repeat=number, warmup=1).median


def peer(path: Path, arrays: dict[str, Any]) -> Callable[[int], float]:
    """Return what times ONNX Runtime: the median of a number of inferences."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(number: int) -> float:
        session.run(None, arrays)
        times = []
        for _ in range(number):
            start = time.perf_counter()
            session.run(None, arrays)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    return run


def in_turns(runners: dict[str, Callable[[int], float]], rounds: int) -> dict[str, list[float]]:
    """Give each runner its turn in every round; one median a turn."""
    counts = {name: max(3, min(1000, int(SLICE / run(3)))) for name, run in runners.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            times[name].append(run(counts[name]))
    return times


def compile_cost(model: str, target: str) -> dict[str, float]:
    """Compile in a process of its own: seconds and peak memory."""
    with tempfile.TemporaryDirectory() as scratch:
        code = (
            "import resource, sys; from tvm_qnn.cli import main; "
            f"sys.argv = ['tvm-qnn', 'compile', {model!r}, '-t', {target!r}, '-o', 'out']\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=scratch, capture_output=True, text=True, check=True
        )
        seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    peak = int(done.stdout.split()[-1]) * unit
    return {"seconds": round(seconds, 2), "peak_mib": round(peak / 2**20, 1)}


def import_seconds(module: str, rounds: int = 5) -> float:
    """Return the median time that a fresh Python needs to import a module."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(rounds)
    ]
    return round(float(np.median(times)), 3)


def measure(model: str, rounds: int) -> dict[str, Any]:
    """Return all figures of one model of the zoo."""
    path, samples = zoo.path(model), zoo.samples(model)
    imported = read(model)
    arrays = {i.name: samples[i.name][: i.shape[0]] for i in imported.inputs}
    integer, plain = tvm_qnn.compile(model), tvm_qnn.compile(model, lowering="float")
    runners = {
        "tvm-qnn": ours(integer, arrays),
        "onnxruntime": peer(path, arrays),
        "tvm float": ours(plain, arrays),
    }
    times = in_turns(runners, rounds)
    row: dict[str, Any] = {"model": model, **{name: summary(t) for name, t in times.items()}}
    for name in ("onnxruntime", "tvm float"):
        ratios = np.asarray(times[name]) / np.asarray(times["tvm-qnn"])
        p10, p50, p90 = (float(v) for v in np.percentile(ratios, [10, 50, 90]))
        row[name]["ratio"] = {"median": p50, "p10": p10, "p90": p90}
    row["weight_bytes"] = integer.inspection.weight_bytes
    row["float_weight_bytes"] = integer.inspection.float_weight_bytes
    row["library_bytes"] = integer.manifest.sizes["lib.so"]
    row["compile"] = {name: compile_cost(model, name) for name in ("host", "rpi4")}
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[f"zoo:{e.name}" for e in zoo.entries()])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    rows = [measure(model, args.rounds) for model in args.models]
    for row in rows:
        print(row["model"])
        for name in ("tvm-qnn", "onnxruntime", "tvm float"):
            figures = row[name]
            ratio = figures.get("ratio")
            spread = (
                f"  {ratio['median']:.2f} times ours ({ratio['p10']:.2f} to {ratio['p90']:.2f})"
                if ratio
                else ""
            )
            print(f"  {name:12} {figures['median_us']:10.1f} us{spread}")
        for target, cost in row["compile"].items():
            print(f"  compile {target}: {cost['seconds']} s, {cost['peak_mib']} MiB")
    facts = {
        "machine": machine(),
        "target": targets.host().cpu,
        "import_runtime_seconds": import_seconds("tvm_qnn.runtime"),
        "models": rows,
    }
    print(f"import tvm_qnn.runtime: {facts['import_runtime_seconds']} s")
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
