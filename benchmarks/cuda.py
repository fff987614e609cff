"""Time kernels on the GPU of this machine against PyTorch's and against copying memory.

    python -m benchmarks.cuda [--only NAME ...] [--rounds N] [--json FILE]

Every kernel is compared with its definition first. Then all of a case run in turns, recorded as
graphs and timed by the GPU's events, each call with buffers of its own that the L2 cache does not
hold together. ``ratio`` is the median over the rounds of a peer's time over ours: above 1 we are
faster. ``of copy`` is how fast the bytes of the packed weights (or of the memory) are read, as a
share of what a copy of a gibibyte reads and writes in a second.

Weights and activations are random; kernels include padding, requantization and packing, the peers
only the product or convolution. Run ``pytest -m gpu -n 0`` first: it compares many more kernels.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cuda_peers as peers
from benchmarks.cuda_cases import CASES, SLOTS, WIDTH, Case
from benchmarks.cuda_clock import Call, Replay, copies, in_turns
from benchmarks.memory_cases import codes, one
from tvm_qnn import spec
from tvm_qnn._tvm import tvm
from tvm_qnn.gpu.here import on_gpu
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import family
from tvm_qnn.schedules.epilogue import output_type
from tvm_qnn.schedules.memory_kernel import build_memory
from tvm_qnn.spec import Codes, FixedPoint
from tvm_qnn.targets import cuda
from tvm_qnn.targets.record import Target

_DRAWN = 1 << 20
"""Random numbers; larger tensors repeat them."""
Facts = dict[str, Any]


def compiled(functions: dict[str, Any], target: Target) -> Any:
    """Compile kernels for the GPU of this machine."""
    with on_gpu(target) as device:
        return tvm.compile(tvm.IRModule(functions), device)


def draw(kind: Codes, shape: Sequence[int]) -> Any:
    """Draw random codes."""
    some = np.random.default_rng(0).integers(0, kind.count, min(_DRAWN, math.prod(shape)))
    return np.resize(kind.from_index(some).astype(kind.dtype), tuple(shape))


def kernel_calls(name: str, work: ConvWork, target: Target) -> tuple[list[Call], int]:
    """Compile a kernel and compare it; returns its calls and the bytes of its packed weights.

    Raises:
        ValueError: if an integer differs from the definition.
    """
    x = draw(work.x, (work.batch, work.height, work.width, work.in_channels))
    w = draw(work.w, work.weight_shape)
    rng = np.random.default_rng(1)
    spread = 6 * math.sqrt(math.prod(work.weight_shape[1:])) * work.x.count * work.w.count / 4
    mul = rng.uniform(1, 2, work.out_channels).astype("float32") * np.float32(work.x.count / spread)
    add = np.full(work.out_channels, work.x.count / 2, "float32")
    kernel = family(name).build(work, target, w)
    module = compiled({kernel.name: kernel.func, "prepare": kernel.prepare}, target)
    device = tvm.cuda(0)

    def there(array: Any) -> Any:
        return tvm.runtime.tensor(np.ascontiguousarray(array), device)

    stream = there(spec.pack_stream(w, work.w))
    packed_bytes = math.prod(kernel.packed_shape) * np.dtype(kernel.packed_dtype).itemsize
    given = spec.pack_planes(x, work.x) if work.x_planes else x
    results, dtype = output_type(work)
    size = packed_bytes + given.nbytes + math.prod(results) * np.dtype(dtype).itemsize
    static = [*map(there, kernel.constants), there(mul), there(add)]

    def call() -> tuple[Call, Any]:
        packed = there(np.zeros(kernel.packed_shape, kernel.packed_dtype))
        module["prepare"](stream, packed)
        out = there(np.zeros(results, dtype))
        arguments, run = [there(given), packed, *static, out], module[kernel.name]
        return (lambda: run(*arguments)), out

    made = [call() for _ in range(copies(size))]
    made[0][0]()
    _compare(name, work, (x, w, mul, add), made[0][1].numpy())
    return [one_call for one_call, _ in made], packed_bytes


def _compare(name: str, work: ConvWork, data: tuple[Any, ...], found: Any) -> None:
    """Compare the first image, or the first two rows of a product, with the definition."""
    x, w, mul, add = data
    some = x[:, :, :2] if work.dense else x[:1]
    acc = spec.conv2d(some, w, padding=work.padding)
    epilogue = work.epilogue
    assert epilogue.codes is not None
    expected = spec.requantize(acc, mul, add, epilogue.codes, epilogue.zero, epilogue.rounding)
    if epilogue.pack:
        expected = spec.pack_planes(expected, epilogue.codes)
    found = found[:, :, :2] if work.dense else found[:1]
    if not np.array_equal(found, expected):
        raise ValueError(f"{name} of {work} differs from its definition")


def summary(times: Any) -> Facts:
    """Median, 10th and 90th percentile in microseconds."""
    p10, p50, p90 = np.percentile(times * 1e6, [10, 50, 90])
    return {"median_us": float(p50), "p10_us": float(p10), "p90_us": float(p90)}


def ratios(theirs: Any, ours: Any) -> list[float]:
    """Median, 10th and 90th percentile of what side-by-side times give."""
    return [float(v) for v in np.percentile(theirs / ours, [50, 10, 90])]


def measure(case: Case, bits: str, target: Target, rounds: int, others: bool) -> Facts:
    """Time the kernels of one case in some bits, and its peers."""
    replays, packed, refused = {}, {}, {}
    for name, work in case.kernels(bits, target):
        try:
            calls, packed[name] = kernel_calls(name, work, target)
            replays[name] = Replay(calls)
        except RuntimeError as error:
            refused[name] = str(error).splitlines()[0]
    if others:
        product = case.dense
        found = (peers.product_calls if product else peers.convolution_calls)(case.work)
        replays |= {name: Replay(calls) for name, calls in found.items()}
        moved, moved_bytes = peers.copy_calls()
        replays["copy"] = Replay(moved)
    times = in_turns(replays, rounds)
    row: Facts = {"case": case.name, "bits": bits, "macs": case.work.macs, "failed": refused}
    row["kernels"] = {name: summary(times[name]) for name in packed if name in times}
    for name, facts in row["kernels"].items():
        facts["packed_bytes"] = packed[name]
        for peer in (name for name in times if name.startswith("torch")):
            facts[f"over {peer}"] = ratios(times[peer], times[name])
        if others:
            shares = packed[name] / times[name] / (moved_bytes / times["copy"])
            facts["of copy"] = [float(v) for v in np.percentile(shares, [50, 10, 90])]
    row["peers"] = {name: summary(t) for name, t in times.items() if name not in packed}
    return row


def measure_memory(target: Target, rounds: int, others: bool) -> list[Facts]:
    """Time the operators over a large memory; ``of copy`` counts its bytes once."""
    assert target.gpu is not None
    rng, fmt = np.random.default_rng(0), FixedPoint(2, 5)
    memory, key = codes(rng, fmt, 1, SLOTS, WIDTH), codes(rng, fmt, 1, WIDTH)
    shares = np.where(rng.random((1, SLOTS)) < 0.01, 1, 0).astype(fmt.dtype)
    found = [
        one("similarity", fmt, [memory, key], spec.fixed_similarity(memory, key, fmt)),
        one("hamming", fmt, [memory, key], spec.hamming_similarity(memory, key, fmt)),
        one("read", fmt, [shares, memory], spec.fixed_read(shares, memory, fmt)),
    ]
    rows = []
    for case in found:
        module, device = compiled({"k": build_memory(case.work, target, "k")}, target), tvm.cuda(0)

        def call(case: Any = case, module: Any = module, device: Any = device) -> tuple[Call, Any]:
            given = [tvm.runtime.tensor(a, device) for a in case.arguments]
            out = tvm.runtime.tensor(np.zeros_like(case.expected[0]), device)
            return (lambda: module["k"](*given, out)), out

        made = [call() for _ in range(copies(memory.nbytes))]
        made[0][0]()
        if not np.array_equal(made[0][1].numpy(), case.expected[0]):
            raise ValueError(f"{case.name} differs from its definition")
        replays = {case.name: Replay([one_call for one_call, _ in made])}
        if others:
            moved, moved_bytes = peers.copy_calls()
            replays["copy"] = Replay(moved)
        times = in_turns(replays, rounds)
        row = {"case": f"{case.name}, {SLOTS:,} slots", **summary(times[case.name])}
        if others:
            speed = memory.nbytes / times[case.name] / (moved_bytes / times["copy"])
            row["of copy"] = [float(v) for v in np.percentile(speed, [50, 10, 90])]
        rows.append(row)
    return rows


def machine(target: Target) -> Facts:
    """Return what the figures depend on."""
    from cuda.bindings import runtime

    from benchmarks.cuda_clock import checked

    properties = checked(runtime.cudaGetDeviceProperties(0))
    return {
        "gpu": properties.name.decode(),
        "driver": int(checked(runtime.cudaDriverGetVersion())),
        "target": target.name,
        "system": f"{platform.system()} {platform.machine()}",
        "tvm": tvm.__version__,
        **(peers.describe() if peers.available() is None else {}),
    }


def show(row: Facts) -> None:
    """Print a row."""
    for name, facts in row.get("kernels", {row["case"]: row}).items():
        told = [
            f"{key} {values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"
            for key, values in facts.items()
            if isinstance(values, list)
        ]
        print(
            f"{row['case']:32} {row.get('bits', ''):5} {name:12} {facts['median_us']:9.1f} us  "
            + ", ".join(told),
            flush=True,
        )
    for name, reason in row.get("failed", {}).items():
        print(f"{row['case']:32} {row['bits']:5} {name:12} {reason}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="cases whose names contain one of these")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    target = cuda.here()
    if target is None:
        sys.exit("no GPU: the driver finds none (nvidia-smi lists them)")
    missing = peers.available()
    facts: Facts = {"machine": machine(target), "without": missing, "cases": [], "memory": []}
    print(facts["machine"], missing or "", flush=True)

    def keep(kind: str, row: Facts) -> None:
        facts[kind].append(row)
        show(row)
        if args.json:
            args.json.write_text(json.dumps(facts, indent=1) + "\n")

    wanted = args.only or [""]
    for case in CASES:
        for bits in case.bits if any(part in case.name for part in wanted) else ():
            keep("cases", measure(case, bits, target, args.rounds, missing is None))
    if any(part in "memory" for part in wanted):
        for row in measure_memory(target, args.rounds, missing is None):
            keep("memory", row)


if __name__ == "__main__":
    main()
