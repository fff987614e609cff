"""Time whole networks: ours, ONNX Runtime and plain TVM float, turn about, one thread.

    python -m benchmarks.network [MODEL ...] [--rounds N] [--database DIR] [--json FILE]

All three run the same network on the same input. ONNX Runtime has all optimizations, so a
quantized file runs on its int8 kernels; networks of random weights below 8 bits are compared with
the same shapes in 8 bits, since it has no kernels for less. Plain TVM runs the same graph in float
with the default pipeline. The compile time and the peak memory of the compiler are measured in a
process of their own, as a user meets them.

Our kernels use the records of tuning that come with the package and those of ``--database``, which
``tvm-qnn tune`` or ``benchmarks.tune_kernels`` has made, or no records (``--database none``);
``tuned`` tells how many have one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import tvm_qnn
from benchmarks.kernels import machine, summary
from benchmarks.models import SHAPES
from tvm_qnn import targets, zoo
from tvm_qnn.compiler import Artifact, read

SLICE = 0.05
"""Seconds of one turn."""
IMAGES = [f"zoo:{entry.name}" for entry in zoo.entries() if not entry.name.startswith("qmann-")]
"""Memory networks are measured in ``benchmarks.memory``, beside their float form."""
NAMES = [*IMAGES, *SHAPES]


def ours(artifact: Artifact, arrays: dict[str, Any]) -> Callable[[int], float]:
    """Return what times an artifact: the median of a number of inferences."""
    return lambda number: artifact.program.benchmark(arrays, repeat=number, warmup=1).median


def peer(model: bytes, arrays: dict[str, Any]) -> Callable[[int], float]:
    """Return what times ONNX Runtime: the median of a number of inferences."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

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


@dataclass(frozen=True)
class Case:
    """A network to time.

    Attributes:
        name: ``zoo:NAME``, or a name in ``benchmarks.models``.
        model: what we compile.
        peer: what ONNX Runtime runs.
        arrays: inputs of one inference.
        source: a file or name that the command line takes, or None.
    """

    name: str
    model: Any
    peer: bytes
    arrays: dict[str, Any]
    source: str | None


def case_of(name: str) -> Case:
    """Build the case of a name."""
    if name.startswith("zoo:"):
        samples, imported = zoo.samples(name), read(name)
        arrays = {i.name: samples[i.name][: i.shape[0]] for i in imported.inputs}
        return Case(name, name, zoo.path(name).read_bytes(), arrays, name)
    ours_, peers = (build() for build in SHAPES[name])
    model = ours_.model(ours_.out)
    return Case(name, model, peers.model(peers.out).SerializeToString(), {"x": ours_.input()}, None)


def check(case: Case, artifact: Artifact) -> None:
    """Compare one inference with ONNX Runtime, unoptimized, on the same file.

    Raises:
        AssertionError: if a number differs.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(case.model.SerializeToString(), options)
    (expected,) = session.run(None, case.arrays)
    (got,) = artifact.run(case.arrays).values()
    assert (got == expected).all(), f"{case.name}: {(got != expected).sum()} outputs differ"


def measure(name: str, rounds: int, database: Path | None) -> dict[str, Any]:
    """Return all figures of one network."""
    case = case_of(name)
    integer = tvm_qnn.compile(case.model, database=database)
    plain = tvm_qnn.compile(case.model, lowering="float")
    if case.source is None:
        check(case, integer)
    runners = {
        "tvm-qnn": ours(integer, case.arrays),
        "onnxruntime": peer(case.peer, case.arrays),
        "tvm float": ours(plain, case.arrays),
    }
    times = in_turns(runners, rounds)
    row: dict[str, Any] = {"model": name, **{n: summary(t) for n, t in times.items()}}
    for other in ("onnxruntime", "tvm float"):
        ratios = np.asarray(times[other]) / np.asarray(times["tvm-qnn"])
        p10, p50, p90 = (float(v) for v in np.percentile(ratios, [10, 50, 90]))
        row[other]["ratio"] = {"median": p50, "p10": p10, "p90": p90}
    kernels = [r for r in integer.inspection.rows if r.macs and r.kernel != "float"]
    row["tuned"] = {"kernels": sum(r.gain > 0 for r in kernels), "of": len(kernels)}
    row["macs"] = integer.inspection.macs
    row["weight_bytes"] = integer.inspection.weight_bytes
    row["float_weight_bytes"] = integer.inspection.float_weight_bytes
    row["library_bytes"] = integer.manifest.sizes["lib.so"]
    if case.source is not None:
        row["compile"] = {t: compile_cost(case.source, t) for t in ("host", "rpi4")}
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=NAMES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--database", type=Path, help="records beside those that ship, or none")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    rows = [measure(model, args.rounds, args.database) for model in args.models]
    for row in rows:
        print(f"{row['model']}, {row['tuned']['kernels']} of {row['tuned']['of']} kernels tuned")
        for name in ("tvm-qnn", "onnxruntime", "tvm float"):
            figures = row[name]
            ratio = figures.get("ratio")
            spread = (
                f"  {ratio['median']:.2f} times ours ({ratio['p10']:.2f} to {ratio['p90']:.2f})"
                if ratio
                else ""
            )
            print(f"  {name:12} {figures['median_us']:10.1f} us{spread}")
        for target, cost in row.get("compile", {}).items():
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
