"""Time the kernels of this machine against ONNX Runtime's int8 kernels, one thread each.

    python -m benchmarks.kernels [--quick] [--only NAME ...] [--database DIR]
        [--openvino PATH] [--json FILE]

Both sides run in turns, so that a change of clock or load meets both. The peer takes uint8
activations and int8 weights and returns uint8, as one QLinearConv in channels-last layout (its
fastest form, which it reaches inside of a network without transposing); our kernels take codes or
bit planes as their name says and include padding, packing and requantization. Ratios are peer time
over our time: above 1 we are faster. ``ratio`` is the median over the rounds, ``quiet`` the ratio
of the 10th percentiles, which other programs on the machine disturb less.

With ``--database`` the kernels are the fastest that ``benchmarks.tune_kernels`` found: of which
family, and whether its schedule is the default one all the same, is told for each. ``--openvino``
is the Python of an environment with OpenVINO (:mod:`benchmarks.openvino_peer`), which then takes
its turns, too; ``openvino_ratio`` is its median time over ours, in the faster of two forms.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cases import CASES, Case, choose, host_target
from benchmarks.openvino_peer import OpenVino
from tvm_qnn import spec
from tvm_qnn._tvm import tvm
from tvm_qnn.ops.workload import ConvWork
from tvm_qnn.schedules import family
from tvm_qnn.schedules.database import UNTUNED, Database, load
from tvm_qnn.schedules.epilogue import output_type, parameter_types
from tvm_qnn.schedules.tiled import input_type
from tvm_qnn.targets.record import Target
from tvm_qnn.targets.x86 import AVX2, AVX512_VNNI

SLICE = 0.003
"""Seconds of one turn, short enough to fall between interruptions."""


def our_runner(
    work: ConvWork, method: str, target: Target, trace: Any = None
) -> Callable[[int], float]:
    """Compile a kernel, by tuned decisions or by default; the runner returns seconds a call."""
    rng = np.random.default_rng(0)
    weights = work.w.from_index(rng.integers(0, work.w.count, work.weight_shape))
    kernel = family(method).build(work, target, weights, trace)
    module = tvm.compile(
        tvm.IRModule({kernel.name: kernel.func, "prepare": kernel.prepare}), target.tvm()
    )
    packed = tvm.runtime.tensor(np.zeros(kernel.packed_shape, kernel.packed_dtype))
    module["prepare"](tvm.runtime.tensor(spec.pack_stream(weights, work.w)), packed)
    shape, dtype = input_type(work)
    x = rng.integers(0, 2**31 if work.x_planes else work.x.count, shape).astype(dtype)
    args = [x, packed, *kernel.constants]
    args += [rng.uniform(0, 1e-3, s).astype(t) for _, s, t in parameter_types(work)]
    args.append(np.zeros(*output_type(work)))
    args = [tvm.runtime.tensor(a) if isinstance(a, np.ndarray) else a for a in args]

    def run(number: int) -> float:
        timer = module.mod.time_evaluator(kernel.name, tvm.cpu(), number=number, repeat=1)
        return float(timer(*args).mean)

    return run


def peer_model(case: Case) -> bytes:
    """One QLinearConv in channels-last layout, uint8 to uint8."""
    rng = np.random.default_rng(0)
    shape = (case.out_channels, case.in_channels // case.groups, case.kernel, case.kernel)
    constants = {
        "x_scale": np.float32(0.02),
        "x_zero": np.uint8(0),
        "w": rng.integers(-127, 128, shape).astype(np.int8),
        "w_scale": np.full(case.out_channels, 0.01, np.float32),
        "w_zero": np.zeros(case.out_channels, np.int8),
        "y_scale": np.float32(0.5),
        "y_zero": np.uint8(0),
        "bias": rng.integers(-1000, 1000, case.out_channels).astype(np.int32),
    }
    node = helper.make_node(
        "QLinearConv",
        ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "bias"],
        ["y"],
        domain="com.microsoft",
        channels_last=1,
        group=case.groups,
        pads=[case.kernel // 2] * 4,
        strides=[case.strides] * 2,
    )
    x_shape = [1, case.height, case.width, case.in_channels]
    graph = helper.make_graph(
        [node],
        "peer",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x_shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def peer_runner(case: Case) -> Callable[[int], float]:
    """Open the peer's session; the runner returns seconds a call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        peer_model(case), options, providers=["CPUExecutionProvider"]
    )
    shape = (1, case.height, case.width, case.in_channels)
    x = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu")

    def run(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            session.run_with_iobinding(binding)
        return (time.perf_counter() - start) / number

    return run


def compare(runners: dict[str, Callable[[int], float]], rounds: int) -> dict[str, list[float]]:
    """Time all runners in turns; seconds a call, one of each round."""
    counts = {name: max(1, int(SLICE / run(3))) for name, run in runners.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            times[name].append(run(counts[name]))
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile in microseconds."""
    p10, p50, p90 = np.percentile(np.asarray(times) * 1e6, [10, 50, 90])
    return {"median_us": float(p50), "p10_us": float(p10), "p90_us": float(p90)}


def measure(
    case: Case, target: Target, rounds: int, tuned: Database, openvino: OpenVino | None
) -> dict[str, Any]:
    """Time one case; all figures of it."""
    others = openvino.runners(case) if openvino is not None else {}
    runners = {"onnxruntime": peer_runner(case), **others}
    kernels = {variant: choose(case, variant, target, tuned) for variant in case.variants}
    for variant, kernel in kernels.items():
        trace = None if kernel.record is None else kernel.record.trace
        runners[variant] = our_runner(kernel.work, kernel.family, target, trace)
    times = compare(runners, rounds)
    macs = kernels[case.variants[0]].work.macs
    found: dict[str, Any] = {"case": case.name, "macs": macs}
    if others:
        form = min(others, key=lambda name: np.median(times[name]))
        found["openvino"] = {"form": form}
        times = {"openvino": times[form], **{n: t for n, t in times.items() if n not in others}}
    for name, seconds in times.items():
        found.setdefault(name, {}).update(summary(seconds))
        found[name]["gmacs_per_s"] = macs / found[name]["median_us"] / 1e3
    for name, kernel in kernels.items():
        ratios = np.asarray(times["onnxruntime"]) / np.asarray(times[name])
        found[name]["ratio"] = float(np.median(ratios))
        found[name]["quiet"] = found["onnxruntime"]["p10_us"] / found[name]["p10_us"]
        if others:
            ratios = np.asarray(times["openvino"]) / np.asarray(times[name])
            found[name]["openvino_ratio"] = float(np.median(ratios))
        found[name]["kernel"] = kernel.name
        found[name]["schedule"] = kernel.schedule
        if kernel.record is not None:
            found[name]["gain"] = kernel.record.gain
    return found


def machine() -> dict[str, str]:
    """What the figures depend on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((v.split(":")[1].strip() for v in lines if "model name" in v), model)
    return {
        "cpu": model,
        "system": f"{platform.system()} {platform.machine()}",
        "tvm": tvm.__version__,
        "onnxruntime": onnxruntime.__version__,
        "threads": "1",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="7 rounds instead of 40")
    parser.add_argument("--only", nargs="*", help="cases whose names contain one of these")
    parser.add_argument("--target", choices=[AVX2.name, AVX512_VNNI.name], default=None)
    parser.add_argument("--database", type=Path, help="records of tuning; default: untuned")
    parser.add_argument("--openvino", type=Path, help="Python of an environment with OpenVINO")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    target = {t.name: t for t in (AVX2, AVX512_VNNI)}.get(args.target or "", host_target())
    tuned = UNTUNED if args.database is None else load(args.database)
    openvino = None if args.openvino is None else OpenVino(args.openvino)
    rows = []
    print(
        f"{'layer':26} {'kernel':24} {'us':>9} {'p10':>9} {'p90':>9} {'GMAC/s':>8} {'ratio':>6} "
        f"{'quiet':>6}  schedule"
    )
    for case in CASES:
        if args.only and not any(part in case.name for part in args.only):
            continue
        row = measure(case, target, 7 if args.quick else 40, tuned, openvino)
        rows.append(row)
        for name in ("onnxruntime", *(["openvino"] if openvino else []), *case.variants):
            f = row[name]
            ratio = f"{f['ratio']:6.2f} {f['quiet']:6.2f}  {f['schedule']}" if "ratio" in f else ""
            if "openvino_ratio" in f:
                ratio += f", {f['openvino_ratio']:.2f} of OpenVINO"
            print(
                f"{case.name:26} {f.get('kernel', name):24} {f['median_us']:9.1f} "
                f"{f['p10_us']:9.1f} {f['p90_us']:9.1f} {f['gmacs_per_s']:8.1f} {ratio}"
            )
    if openvino is not None:
        openvino.close()
    if args.json:
        facts: dict[str, Any] = {"machine": machine(), "target": target.name, "cases": rows}
        facts["records"] = len(tuned)
        if openvino is not None:
            facts["openvino"] = openvino.version
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
