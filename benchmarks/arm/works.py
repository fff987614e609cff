"""What is estimated for the Raspberry Pi boards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tvm_qnn.ops.workload import ConvWork, Epilogue, EpilogueKind
from tvm_qnn.spec import Codes
from tvm_qnn.targets.arm import RPI3, RPI4, RPI5

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
