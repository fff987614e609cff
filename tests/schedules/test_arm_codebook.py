"""Codebook kernels for AArch64 equal the definition, under qemu-user as each board's processor."""

import numpy as np
import pytest

from tests.schedules.arm_works import run_kernels
from tests.schedules.codebook_works import (
    AFFINE,
    I8,
    NONE,
    TO_U8,
    U2,
    U8,
    WORKS,
    conv,
    dense,
    label,
)
from tvm_qnn.estimate import programs
from tvm_qnn.estimate.samples import random_codebook
from tvm_qnn.schedules import family
from tvm_qnn.targets.arm import RPI3, RPI4, RPI5

LACKING = programs.missing()
pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(LACKING is not None, reason=LACKING or ""),
]
BOARDS = {t.name: t for t in (RPI3, RPI4, RPI5)}
INDICATORS = [
    conv(3, 17, 24, U2, AFFINE, strides=(2, 1), padding=(0, 1, 2, 1)),
    conv(4, 16, 9, U2, x_zero=2, rows=9),
    dense(3, 4, 300, 32, U2, TO_U8, rows=32),
    conv(5, 16, 8, U2, NONE, batch=2),
    # Pixels that no tile divides, with and without a correction between sums and result.
    conv(3, 1, 7, U2, TO_U8, size=(9, 9), batch=3),
    conv(3, 1, 7, U2, TO_U8, size=(9, 9), batch=3, x_zero=1),
    conv(4, 5, 11, U2, size=(5, 7), padding=(0, 0, 0, 0)),
    dense(3, 3, 70, 10, U2, TO_U8),
]
EIGHT_BITS = [
    conv(3, 1, 7, U8, TO_U8, size=(9, 9), batch=3),
    conv(4, 5, 11, I8, size=(5, 7), padding=(0, 0, 0, 0), x_zero=5),
    dense(3, 3, 70, 10, U8, TO_U8),
]


def check(name, works, target, folder):
    inputs = [random_codebook(work, seed=i) for i, work in enumerate(works)]
    chosen = family(name, codebook=True)
    kernels = [
        chosen.build(work, target, drawn.weights) for work, drawn in zip(works, inputs, strict=True)
    ]
    wrong = []
    for work, outcome in zip(works, run_kernels(kernels, inputs, target, folder), strict=True):
        different = np.count_nonzero(outcome.output != outcome.inputs.expected)
        if different:
            wrong.append(f"{label(work)}: {different} of {outcome.output.size} differ")
    assert wrong == []


@pytest.mark.parametrize("board", BOARDS)
def test_taps(tmp_path, board):
    check("taps", WORKS[:: 3 if board == "rpi4" else 8], BOARDS[board], tmp_path)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("name", ["dot", "bitserial", "reference"])
def test_indicators(tmp_path, name, board):
    works = INDICATORS if name == "bitserial" else INDICATORS + EIGHT_BITS
    check(name, works, BOARDS[board], tmp_path)


@pytest.mark.parametrize("board", BOARDS)
def test_products_are_not_contracted_with_sums(board):
    work = conv(3, 16, 16, U8)
    kernel = family("taps", codebook=True).build(work, BOARDS[board], random_codebook(work).weights)
    assembly = programs.assembly(kernel.func, BOARDS[board])
    assert "fmul" in assembly
    assert "fadd" in assembly
    assert "fmla" not in assembly
    assert "fmadd" not in assembly


@pytest.mark.parametrize("board", BOARDS)
def test_taps_multiply_nothing_but_the_sums(board):
    """The inner loops add: no integer product of vectors is left."""
    work = conv(3, 16, 16, U8, NONE)
    kernel = family("taps", codebook=True).build(work, BOARDS[board], random_codebook(work).weights)
    assembly = programs.assembly(kernel.func, BOARDS[board])
    assert "uaddw" in assembly
    for product in ("umull\tv", "smull\tv", "smlal", "umlal", "sdot", "udot", "mul\tv"):
        assert product not in assembly.replace("fmul\tv", "")
