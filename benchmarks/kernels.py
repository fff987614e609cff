"""Time the kernels of this machine against ONNX Runtime's int8 kernels, one thread each.

    python -m benchmarks.kernels [--quick] [--only NAME ...] [--json FILE]

Both sides run in turns, so that a change of clock or load meets both. The peer takes uint8
activations and int8 weights and returns uint8, as one QLinearConv in channels-last layout (its
fastest form, which it reaches inside of a network without transposing); our kernels take codes or
bit planes as their name says and include padding, packing and requantization. Ratios are peer time
over our time: above 1 we are faster. ``ratio`` is the median over the rounds, ``quiet`` the ratio
of the 10th percentiles, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tvm_qnn import spec, targets
from tvm_qnn._tvm import tvm
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import family
from tvm_qnn.schedules.epilogue import output_type, parameter_types
from tvm_qnn.schedules.tiled import input_type
from tvm_qnn.spec import Codes
from tvm_qnn.targets.record import Target
from tvm_qnn.targets.x86 import AVX2, AVX512_VNNI

SLICE = 0.003
"""Seconds of one turn, short enough to fall between interruptions."""


@dataclass(frozen=True)
class Case:
    """A layer, and the kernels to time for it."""

    name: str
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: int = 3
    strides: int = 1
    groups: int = 1
    variants: tuple[str, ...] = ("w1a1", "w2a2", "w8a8")


CASES = (
    Case("conv3x3/2 3-32ch 224x224", 224, 224, 3, 32, strides=2, variants=("w8a8",)),
    Case("conv3x3 64ch 56x56", 56, 56, 64, 64),
    Case("conv3x3 128ch 28x28", 28, 28, 128, 128),
    Case("conv3x3 256ch 14x14", 14, 14, 256, 256),
    Case("conv3x3 512ch 7x7", 7, 7, 512, 512),
    Case("conv3x3/2 64-128ch 56x56", 56, 56, 64, 128, strides=2),
    Case("conv1x1 256-64ch 56x56", 56, 56, 256, 64, kernel=1),
    Case("conv1x1 128-256ch 28x28", 28, 28, 128, 256, kernel=1),
    Case("conv1x1 512ch 14x14", 14, 14, 512, 512, kernel=1),
    Case("dense 1024-1024", 1, 1, 1024, 1024, kernel=1),
    Case("dense 64x 1024-1024", 1, 64, 1024, 1024, kernel=1),
    Case("depthwise3x3 64ch 112x112", 112, 112, 64, 64, groups=64, variants=("w8a8",)),
    Case("depthwise3x3 256ch 28x28", 28, 28, 256, 256, groups=256, variants=("w8a8",)),
    Case("depthwise3x3 512ch 14x14", 14, 14, 512, 512, groups=512, variants=("w8a8",)),
)

BITS = {
    "w1a1": (Codes(-1, 1, 2), Codes(0, 1), "bitserial"),
    "w1a2": (Codes(-1, 1, 2), Codes(0, 3), "bitserial"),
    "w2a2": (Codes(-2, 1), Codes(0, 3), "bitserial"),
    "w8a8": (Codes(-127, 127), Codes(0, 255), "dot"),
}


def work_of(case: Case, variant: str) -> tuple[ConvWork, str]:
    """The work of a case in some bits, and the family that computes it."""
    w, x, method = BITS[variant]
    low_bit = method == "bitserial"
    pad = case.kernel // 2
    work = ConvWork(
        1, case.height, case.width, case.in_channels, case.out_channels,
        (case.kernel, case.kernel), x, w, (case.strides, case.strides), (pad, pad, pad, pad),
        groups=case.groups, x_planes=low_bit,
        epilogue=Epilogue("requantize", x, pack=low_bit),
    )  # fmt: skip
    return work, method


def our_runner(work: ConvWork, method: str, target: Target) -> Callable[[int], float]:
    """Compile a kernel; the runner returns seconds a call."""
    rng = np.random.default_rng(0)
    weights = work.w.from_index(rng.integers(0, work.w.count, work.weight_shape))
    kernel = family(method).build(work, target, weights)
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


def measure(case: Case, target: Target, rounds: int) -> dict[str, Any]:
    """Time one case; all figures of it."""
    runners = {"onnxruntime": peer_runner(case)}
    works = {variant: work_of(case, variant) for variant in case.variants}
    for variant, (work, method) in works.items():
        runners[variant] = our_runner(work, method, target)
    times = compare(runners, rounds)
    macs = works[case.variants[0]][0].macs
    found: dict[str, Any] = {"case": case.name, "macs": macs}
    for name, seconds in times.items():
        found[name] = summary(seconds)
        found[name]["gmacs_per_s"] = macs / found[name]["median_us"] / 1e3
        if name != "onnxruntime":
            ratios = np.asarray(times["onnxruntime"]) / np.asarray(seconds)
            found[name]["ratio"] = float(np.median(ratios))
            found[name]["quiet"] = found["onnxruntime"]["p10_us"] / found[name]["p10_us"]
            found[name]["kernel"] = works[name][0].name(works[name][1])
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


def host_target() -> Target:
    """The fastest x86 target that this machine runs."""
    return AVX512_VNNI if AVX512_VNNI.features <= targets.host().features else AVX2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="7 rounds instead of 40")
    parser.add_argument("--only", nargs="*", help="cases whose names contain one of these")
    parser.add_argument("--target", choices=[AVX2.name, AVX512_VNNI.name], default=None)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    target = {t.name: t for t in (AVX2, AVX512_VNNI)}.get(args.target or "", host_target())
    rows = []
    print(
        f"{'layer':26} {'kernel':24} {'us':>9} {'p10':>9} {'p90':>9} {'GMAC/s':>8} {'ratio':>6} "
        f"{'quiet':>6}"
    )
    for case in CASES:
        if args.only and not any(part in case.name for part in args.only):
            continue
        row = measure(case, target, 7 if args.quick else 40)
        rows.append(row)
        for name in ("onnxruntime", *case.variants):
            f = row[name]
            ratio = f"{f['ratio']:6.2f} {f['quiet']:6.2f}" if "ratio" in f else ""
            print(
                f"{case.name:26} {f.get('kernel', name):24} {f['median_us']:9.1f} "
                f"{f['p10_us']:9.1f} {f['p90_us']:9.1f} {f['gmacs_per_s']:8.1f} {ratio}"
            )
    if args.json:
        facts = {"machine": machine(), "target": target.name, "cases": rows}
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
