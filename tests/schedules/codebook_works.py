"""Convolutions with codebook weights that kernels are tested on."""

from __future__ import annotations

from typing import Any

from tvm_qnn.ops.workload import CodebookWork, ConvWork, Epilogue
from tvm_qnn.spec import Codes

BIPOLAR = Codes(-1, 1, step=2)
BINARY, U2, U3, U4, U8 = (Codes(0, 2**b - 1) for b in (1, 2, 3, 4, 8))
I3, I5, I8 = (Codes(-(2**b) // 2, 2**b // 2 - 1) for b in (3, 5, 8))

TO_U8 = Epilogue("requantize", U8, zero=3)
TO_I4 = Epilogue("requantize", Codes(-8, 7), zero=-1, rounding="floor")
TO_U2 = Epilogue("requantize", U2, rounding="truncate")
TO_BIPOLAR = Epilogue("requantize", BIPOLAR)
TO_U16 = Epilogue("requantize", Codes(0, 65535), zero=40000, rounding="ceil")
AFFINE, NONE = Epilogue("affine"), Epilogue()

SAME, BARE = (1, 1, 1, 1), (0, 0, 0, 0)


def conv(
    values: int,
    c: int,
    o: int,
    x: Codes,
    epilogue: Epilogue = TO_U8,
    *,
    size: tuple[int, int] = (5, 6),
    kernel: tuple[int, int] = (3, 3),
    padding: tuple[int, int, int, int] = SAME,
    batch: int = 1,
    rows: int = 1,
    **more: Any,
) -> CodebookWork:
    """Return a convolution, 3x3 with padding unless told otherwise."""
    work = ConvWork(
        batch, *size, c, o, kernel, x=x, w=Codes(0, values - 1), padding=padding,
        epilogue=epilogue, **more,
    )  # fmt: skip
    return CodebookWork(work, rows)


def dense(
    values: int, height: int, c: int, o: int, x: Codes, epilogue: Epilogue = NONE, **more: Any
) -> CodebookWork:
    """Return a matrix product of ``height`` x ``c`` codes."""
    options = {"size": (1, height), "kernel": (1, 1), "padding": BARE, **more}
    return conv(values, c, o, x, epilogue, **options)


WORKS = [
    # All numbers of values, codebooks for the layer and for each channel, all epilogues.
    *(conv(m, 18, 9, U8, x_zero=m, rows=9 if m % 2 else 1) for m in range(2, 17)),
    *(conv(3, 16, 16, U8, e) for e in (TO_I4, TO_U2, TO_BIPOLAR, TO_U16, AFFINE, NONE)),
    # Unsigned and signed codes of 1 to 8 bits, zero points at their ends.
    *(conv(3, 20, 16, x, NONE, x_zero=x.lo) for x in (BINARY, U2, U3, U4, U8, I3, I5, I8)),
    *(conv(4, 20, 16, x, x_zero=x.hi, rows=16) for x in (BINARY, U2, U3, U4, U8, I3, I5, I8)),
    conv(3, 24, 16, BIPOLAR),
    # Awkward channels.
    *(conv(3, c, 5, U8) for c in (1, 15, 16, 17, 33)),
    *(conv(5, 6, o, U8, x_zero=100, rows=o) for o in (1, 3, 15, 16, 17, 33)),
    # Windows: strides, asymmetric padding, dilation, even kernels, one pixel, one row.
    conv(3, 16, 8, U8, strides=(2, 2), size=(9, 7)),
    conv(3, 5, 7, U8, strides=(2, 3), padding=(0, 3, 2, 1), size=(9, 8), x_zero=9, batch=2),
    conv(4, 16, 8, U8, strides=(3, 1), kernel=(2, 4), padding=(1, 2, 0, 3), size=(8, 9)),
    conv(3, 8, 8, U8, dilation=(2, 1), padding=(2, 1, 2, 1), size=(7, 7)),
    conv(3, 8, 8, I8, dilation=(2, 3), strides=(2, 2), padding=(2, 3, 2, 3), size=(9, 9), x_zero=5),
    conv(5, 20, 16, U8, kernel=(1, 1), padding=BARE, batch=3),
    conv(2, 20, 16, U8, kernel=(1, 1), strides=(2, 2), padding=BARE, size=(7, 7), x_zero=1),
    conv(3, 16, 6, U8, kernel=(4, 4), padding=BARE, size=(4, 4)),
    conv(3, 3, 16, U8, kernel=(7, 7), strides=(2, 2), padding=(3, 3, 3, 3), size=(19, 17)),
    conv(3, 8, 16, U8, size=(3, 40)),
    # Groups: of few channels, of channels that share sums, depthwise.
    conv(3, 12, 8, U8, groups=4, x_zero=3),
    conv(3, 18, 12, U8, groups=3, rows=12),
    conv(2, 32, 40, U4, groups=2, strides=(2, 1), x_zero=7),
    conv(3, 19, 19, U8, groups=19, x_zero=7, rows=19),
    conv(5, 16, 16, I8, groups=16, strides=(2, 2), size=(9, 9)),
    # Matrix products; more taps of one value than 16-bit sums hold, in one pattern and in all.
    *(dense(3, rows, 40, 9, U8, TO_U8, x_zero=2) for rows in (1, 2, 33)),
    dense(2, 20, 2500, 3, U8, x_zero=255),
    dense(2, 5, 1500, 4, I8, AFFINE, x_zero=-128),
    dense(16, 3, 300, 33, U8, rows=33),
]


def label(work: CodebookWork) -> str:
    """Return a readable test name."""
    c = work.conv
    parts = [work.name(c.epilogue.kind), f"{c.in_channels}to{c.out_channels}"]
    parts.append("x".join(map(str, (c.batch, c.height, c.width, *c.kernel, *c.strides))))
    return "-".join(parts)
