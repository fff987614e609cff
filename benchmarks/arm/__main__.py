"""Estimate kernels for the Raspberry Pi boards: ``python -m benchmarks.arm [--output FILE]``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tvm_qnn.estimate import blocks
from tvm_qnn.estimate.kernels import estimate
from tvm_qnn.estimate.samples import random_inputs
from tvm_qnn.ops.workload import ConvWork, Epilogue, EpilogueKind
from tvm_qnn.schedules import family
from tvm_qnn.spec import Codes
from tvm_qnn.targets.arm import RPI3, RPI4, RPI5
from tvm_qnn.targets.record import Target

RESULTS = Path(__file__).with_name("results.json")
BOARDS = (RPI3, RPI4, RPI5)

BIPOLAR = Codes(-1, 1, step=2)
U2, U4, U8, I2, I4, S8 = (
    Codes(0, 3), Codes(0, 15), Codes(0, 255), Codes(-2, 1), Codes(-8, 7), Codes(-127, 127)
)  # fmt: skip


def conv(c: int, o: int, size: int, x: Codes, w: Codes, kernel: int = 3, **more: Any) -> ConvWork:
    """Return a square convolution that keeps its size, with codes or bit planes as result."""
    pad = kernel // 2
    planes = bool(more.get("x_planes"))
    kind: EpilogueKind = "threshold" if x == BIPOLAR else "requantize"
    return ConvWork(
        1, size, size, c, o, (kernel, kernel), x=x, w=w, padding=(pad,) * 4,
        epilogue=Epilogue(kind, x, pack=planes), **more,
    )  # fmt: skip


def works() -> Iterator[tuple[str, ConvWork]]:
    """Yield (family, work); first plain accumulators, which the micro-kernels are compared with."""
    bare = ConvWork(
        1, 10, 10, 128, 128, (3, 3), x=Codes(0, 1), w=Codes(0, 1), x_planes=True
    )  # fmt: skip
    yield "bitserial", bare
    yield "bitserial", replace(bare, x=U2)
    yield "bitserial", replace(bare, x=U2, w=U2)
    yield "dot", replace(bare, x=Codes(-128, 127), w=S8, x_planes=False)
    for x, w in ((BIPOLAR, BIPOLAR), (U2, BIPOLAR), (U2, I2), (U4, I4)):
        yield "bitserial", conv(128, 128, 8, x, w, x_planes=True)
    yield "bitserial", conv(64, 64, 14, BIPOLAR, BIPOLAR, x_planes=True)
    yield "bitserial", conv(256, 256, 7, U2, I2, x_planes=True)
    yield "bitserial", conv(64, 64, 8, U2, I2)
    for x, w in ((U8, S8), (U4, I4)):
        yield "dot", conv(128, 128, 8, x, w)
    yield "dot", conv(64, 128, 14, U8, S8, kernel=1)
    yield "dot", conv(3, 32, 28, U8, S8, kernel=7)
    yield "dot", conv(64, 64, 14, U8, S8, groups=64)
    for family_name, x, w in (("bitserial", BIPOLAR, BIPOLAR), ("dot", U8, S8)):
        yield family_name, ConvWork(1, 1, 1, 1024, 256, (1, 1), x=x, w=w)


def describe(work: ConvWork) -> str:
    """Return the shape of a work in a few words."""
    kernel = "x".join(map(str, work.kernel))
    size = f"{work.height}x{work.width}x{work.in_channels}"
    epilogue = work.epilogue.kind + (" packed" if work.epilogue.pack else "")
    return f"{size} -> {work.out_channels}, {kernel}, {epilogue}"


def measure(name: str, work: ConvWork, target: Target) -> dict[str, Any]:
    """Estimate one kernel and return its row.

    Raises:
        RuntimeError: if the kernel computes anything else than the definition.
    """
    inputs = random_inputs(work)
    kernel = family(name).build(work, target, inputs.weights)
    found = estimate(kernel, work, target, inputs)
    if not np.array_equal(found.output, inputs.expected):
        raise RuntimeError(f"{kernel.name} on {target.name} differs from the definition")
    bits = work.x.bits * work.w.bits if name == "bitserial" else 1
    return {
        "target": target.name,
        "kernel": kernel.name,
        "work": describe(work),
        "macs": work.macs,
        "cycles": round(found.cycles),
        "instructions": found.instructions,
        "macs_per_cycle": round(work.macs / found.cycles, 2),
        "plane_macs_per_cycle": round(work.macs * bits / found.cycles, 2),
    }


def main() -> None:
    """Measure all kernels on all boards, print a table and write the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arm", description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for the rows (JSON)")
    output = parser.parse_args().output
    tools = blocks.Tools.find()
    if tools is None:
        parser.error("llvm-mca is not installed (Debian: llvm)")
    header = f"{'target':6} {'kernel':26} {'work':42} {'cycles':>9} {'MAC/cycle':>9} {'planes':>7}"
    print(f"{tools.version()}, one core, model cycles\n{header}")
    rows = []
    for name, work in works():
        for target in BOARDS:
            row = measure(name, work, target)
            rows.append(row)
            print(
                f"{row['target']:6} {row['kernel']:26} {row['work']:42} {row['cycles']:9} "
                f"{row['macs_per_cycle']:9.2f} {row['plane_macs_per_cycle']:7.2f}",
                flush=True,
            )
    about = {
        "method": "executed blocks under qemu-user x llvm-mca cycles of each block, one core",
        "llvm": tools.version(),
        "processors": {t.name: " ".join(t.mca_cpu) for t in BOARDS},
    }
    output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
