"""Works that AArch64 kernels are tested on, and programs that run many of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_qnn.estimate import programs
from tvm_qnn.estimate.kernels import calls_of
from tvm_qnn.estimate.samples import Inputs, random_inputs
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import Kernel, family
from tvm_qnn.spec import Codes
from tvm_qnn.targets.record import Target

BIPOLAR = Codes(-1, 1, step=2)
TERNARY = Codes(-1, 1)
BINARY = Codes(0, 1)
U2, U4, U8 = Codes(0, 3), Codes(0, 15), Codes(0, 255)
I2, I4, I8, S8 = Codes(-2, 1), Codes(-8, 7), Codes(-128, 127), Codes(-127, 127)

TO_U2 = Epilogue("requantize", U2)
TO_U8 = Epilogue("requantize", U8, zero=3)
TO_I4 = Epilogue("requantize", I4, zero=-1, rounding="floor")
TO_SIGN = Epilogue("threshold", BIPOLAR)
SIGN_PLANES = Epilogue("threshold", BIPOLAR, pack=True)
U2_PLANES = Epilogue("requantize", U2, pack=True)
AFFINE = Epilogue("affine")
NONE = Epilogue()

ONES, SAME = (0, 0, 0, 0), (1, 1, 1, 1)


def conv(
    c: int,
    o: int,
    x: Codes,
    w: Codes,
    epilogue: Epilogue = NONE,
    *,
    size: tuple[int, int] = (5, 6),
    kernel: tuple[int, int] = (3, 3),
    padding: tuple[int, int, int, int] = SAME,
    batch: int = 1,
    **more: Any,
) -> ConvWork:
    """Return a convolution, 3x3 with padding unless told otherwise."""
    return ConvWork(
        batch, *size, c, o, kernel, x=x, w=w, padding=padding, epilogue=epilogue, **more
    )


def dense(
    rows: int, c: int, o: int, x: Codes, w: Codes, epilogue: Epilogue = NONE, **more: Any
) -> ConvWork:
    """Return a matrix product of ``rows`` x ``c`` codes."""
    return ConvWork(1, 1, rows, c, o, (1, 1), x=x, w=w, epilogue=epilogue, **more)


AWKWARD = (1, 3, 7, 8, 9, 31, 32, 33, 127, 128, 129)

BITSERIAL = [
    *(dense(3, c, 5, U2, I2) for c in AWKWARD),
    *(dense(5, 40, o, BIPOLAR, BIPOLAR, TO_SIGN, x_planes=True) for o in AWKWARD),
    # Bipolar borders: no code stands for the real value 0.
    conv(33, 9, BIPOLAR, BIPOLAR),
    conv(32, 32, BIPOLAR, TERNARY, SIGN_PLANES, x_planes=True),
    conv(64, 40, BIPOLAR, BIPOLAR, SIGN_PLANES, x_planes=True, strides=(2, 1), batch=2),
    conv(31, 33, BIPOLAR, I2, TO_U2, padding=(2, 0, 1, 3), kernel=(3, 5), size=(6, 8)),
    # Zero points inside of and outside of the range of the codes.
    conv(17, 12, U2, TERNARY, TO_U2, x_zero=2),
    conv(96, 8, U2, U2, AFFINE, x_zero=5, w_zero=tuple(range(8)), x_planes=True),
    conv(9, 4, U4, I4, TO_I4, x_zero=7, w_zero=(-3,), dilation=(2, 1), size=(9, 7)),
    # Planes in and out, words that are not full, pixels that do not fill the last tile.
    conv(127, 129, U2, BIPOLAR, U2_PLANES, x_planes=True, size=(3, 3)),
    conv(128, 64, U2, I2, U2_PLANES, x_planes=True, size=(7, 7), padding=ONES),
    conv(64, 32, BINARY, BINARY, NONE, size=(4, 4), batch=3, kernel=(1, 1), padding=ONES),
    # One image row, one output pixel, a kernel as large as the image.
    conv(24, 16, U2, I2, TO_U2, size=(1, 9), kernel=(1, 3), padding=(0, 1, 0, 1)),
    conv(48, 20, U2, I2, TO_U2, size=(4, 4), kernel=(4, 4), padding=ONES),
    # 16-bit lanes hold one step only, and K takes many pieces.
    dense(4, 700, 8, Codes(0, 255), U4),
    dense(2, 1500, 4, U4, I4, TO_U8),
]

DOT = [
    *(dense(3, c, 5, U8, I8) for c in AWKWARD),
    *(dense(5, 40, o, I8, S8, TO_U8) for o in AWKWARD),
    # -128 * -128 twice in one lane.
    dense(4, 64, 8, Codes(-128, -128), Codes(-128, -128)),
    dense(4, 64, 8, Codes(-128, -127), Codes(-127, -127)),
    conv(16, 16, U8, I8, TO_U8, x_zero=128),
    conv(3, 16, U8, S8, TO_U8, x_zero=11, kernel=(7, 7), strides=(2, 2), padding=(3, 3, 3, 3)),
    conv(33, 9, U8, U8, TO_I4, x_zero=100, w_zero=tuple(range(120, 129))),
    conv(24, 7, I4, TERNARY, AFFINE, x_zero=-3, batch=2),
    conv(20, 32, U4, I4, U2_PLANES, size=(6, 5), strides=(1, 2)),
    conv(8, 12, BIPOLAR, BIPOLAR, TO_SIGN, padding=(0, 2, 1, 1), dilation=(1, 2), size=(7, 7)),
    conv(64, 20, U8, S8, TO_U8, kernel=(1, 1), padding=ONES, size=(7, 7), strides=(2, 2)),
    conv(5, 6, U8, S8, TO_U8, size=(4, 4), kernel=(4, 4), padding=ONES),
    # Depthwise.
    conv(16, 16, U8, S8, TO_U8, x_zero=3, groups=16),
    conv(9, 9, BIPOLAR, BIPOLAR, TO_SIGN, groups=9, strides=(2, 1)),
    conv(33, 33, I8, I8, NONE, groups=33, kernel=(5, 5), padding=(2, 2, 2, 2)),
    conv(32, 32, U4, I4, U2_PLANES, groups=32, padding=ONES),
    conv(8, 8, I8, I8, TO_I4, groups=8, kernel=(1, 1), padding=ONES),
    conv(24, 24, U8, U8, TO_U8, x_zero=9, w_zero=(120,), groups=24, dilation=(2, 2), size=(8, 8)),
]


def label(work: ConvWork) -> str:
    """Return a readable test name."""
    parts = [work.name(work.epilogue.kind), f"{work.in_channels}to{work.out_channels}"]
    parts.append("x".join(map(str, (work.batch, work.height, work.width, *work.kernel))))
    return "-".join(parts)


@dataclass(frozen=True)
class Outcome:
    """The inputs of a kernel and what it computed."""

    inputs: Inputs
    output: np.ndarray


def run_all(
    name: str, works: list[ConvWork], target: Target, folder: Path, cpu: str | None = None
) -> list[Outcome]:
    """Build a kernel for each work, link all into one program and run it once."""
    inputs = [random_inputs(work, seed=i) for i, work in enumerate(works)]
    kernels = [
        family(name).build(work, target, drawn.weights)
        for work, drawn in zip(works, inputs, strict=True)
    ]
    return run_kernels(kernels, inputs, target, folder, cpu)


def run_kernels(
    kernels: list[Kernel],
    inputs: list[Inputs],
    target: Target,
    folder: Path,
    cpu: str | None = None,
) -> list[Outcome]:
    """Link kernels into one program and run each on its inputs."""
    functions: dict[str, Any] = {}
    calls = []
    for i, (kernel, drawn) in enumerate(zip(kernels, inputs, strict=True)):
        functions |= {f"prepare_{i}": kernel.prepare, f"kernel_{i}": kernel.func}
        calls += calls_of(kernel, drawn, f"prepare_{i}", f"kernel_{i}")
    names = list(functions)
    obj = programs.compile_object(functions, target, folder / "kernels.o")
    program = programs.link([obj], names, folder / "program")
    results = programs.run(program, names, calls, cpu or str(target.qemu_cpu))
    return [Outcome(i, out) for i, out in zip(inputs, results[1::2], strict=True)]
