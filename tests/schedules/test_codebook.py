"""Codebook convolutions on this machine give the numbers of ``spec``, whatever family does them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.schedules.codebook_works import (
    AFFINE,
    BARE,
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
from tests.schedules.helpers import HOST_TARGETS
from tests.schedules.test_random import works
from tvm_qnn import spec
from tvm_qnn._tvm import tvm
from tvm_qnn.estimate.samples import random_codebook
from tvm_qnn.ops.workload import CodebookWork, ConvWork, Epilogue
from tvm_qnn.schedules import CODEBOOK_FAMILIES, candidates, family
from tvm_qnn.schedules.codebook_taps import Taps
from tvm_qnn.spec import Codes
from tvm_qnn.targets.arm import RPI3, RPI4, RPI5
from tvm_qnn.targets.x86 import AVX2, AVX512_VNNI

HOST = pytest.mark.parametrize("target", HOST_TARGETS)


def run(work, chosen, target, inputs):
    """Build, compile, prepare the weights and run; returns the result."""
    refused = chosen.supports(work, target)
    assert refused is None, str(refused)
    kernel = chosen.build(work, target, inputs.weights)
    functions = tvm.IRModule({kernel.name: kernel.func, "prepare": kernel.prepare})
    module = tvm.compile(functions, target.tvm())
    packed = tvm.runtime.tensor(np.zeros(kernel.packed_shape, kernel.packed_dtype))
    module["prepare"](tvm.runtime.tensor(inputs.stream), packed)
    arrays = [inputs.x, packed, *kernel.constants, *inputs.parameters]
    arguments = [tvm.runtime.tensor(a) if isinstance(a, np.ndarray) else a for a in arrays]
    out = tvm.runtime.tensor(np.zeros_like(inputs.expected))
    module[kernel.name](*arguments, out)
    return out.numpy()


def check(work, target, name, **options):
    inputs = random_codebook(work, **options)
    found = run(work, family(name, codebook=True), target, inputs)
    np.testing.assert_array_equal(found, inputs.expected)


@pytest.mark.parametrize(
    ("target", "work"),
    [
        # Vectors of twice the size: every other work is enough.
        pytest.param(p.values[0], work, id=f"{p.id}-{label(work)}", marks=p.marks)
        for p in HOST_TARGETS
        for work in (WORKS[::2] if p.values[0] is AVX512_VNNI else WORKS)
    ],
)
def test_taps(target, work):
    check(work, target, "taps")


@HOST
@pytest.mark.parametrize("name", ["dot", "bitserial", "reference"])
@pytest.mark.parametrize(
    "work",
    [
        conv(2, 20, 16, U2, x_zero=3),
        conv(3, 17, 24, U2, AFFINE, strides=(2, 1), padding=(0, 1, 2, 1)),
        conv(5, 16, 9, U8, x_zero=7, rows=9),
        conv(16, 8, 32, I8, NONE, rows=32, batch=2),
        conv(20, 8, 16, U8),
        dense(3, 4, 300, 33, U8, TO_U8),
    ],
    ids=label,
)
def test_indicators(target, name, work):
    check(work, target, name)


@HOST
@pytest.mark.parametrize("name", ["taps", "dot", "reference"])
@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_value_of_0(target, name, zero):
    """The most frequent value is 0, as in ternary networks, or another one is."""
    check(conv(3, 16, 16, U8, rows=16), target, name, zero=zero)


@HOST
@pytest.mark.parametrize("name", ["taps", "reference"])
def test_groups_by_reference_and_taps(target, name):
    check(conv(3, 12, 9, U8, groups=3, x_zero=4, rows=9), target, name)
    check(conv(4, 10, 10, U8, groups=10, x_zero=4), target, name)


@HOST
@pytest.mark.parametrize("values", [1, 17, 200])
def test_unusual_numbers_of_values(target, values):
    for name in ("taps", "reference"):
        check(conv(values, 6, 5, U8, x_zero=2, rows=5), target, name)


@HOST
@pytest.mark.parametrize("taps", [0, 310])
def test_channels_that_agree(target, taps):
    """No tap is read, or one pattern has more of them than 16-bit sums hold."""
    work = conv(3, 70, 8, U8, NONE, x_zero=1)
    drawn = random_codebook(work)
    weights = np.ones_like(drawn.weights)
    weights.reshape(8, -1)[:, :taps] = 2
    table = drawn.parameters[0].T
    given = replace(
        drawn,
        weights=weights,
        stream=spec.pack_stream(weights, work.conv.w),
        expected=spec.codebook_conv2d(drawn.x, weights, table, x_zero=1, padding=(1, 1, 1, 1)),
    )
    np.testing.assert_array_equal(run(work, Taps(), target, given), given.expected)


@HOST
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("padding", [(0, 1, 0, 1), (1, 2, 2, 3)])
def test_padding_beyond_the_kernel_makes_outputs_of_its_own(target, width, padding):
    """Rows share the padding between them only where no output lies in it."""
    epilogue = Epilogue("requantize", Codes(0, 2, 2))
    work = ConvWork(
        1, 3, 3, 16, 16, (1, width), Codes(0, 1), Codes(0, 2), padding=padding, epilogue=epilogue
    )  # fmt: skip
    for groups in (1, 16):
        codebook = CodebookWork(replace(work, groups=groups))
        inputs = random_codebook(codebook, 0)
        np.testing.assert_array_equal(run(codebook, Taps(), target, inputs), inputs.expected)


@HOST
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(drawn=works(), values=st.integers(1, 20), each=st.booleans(), seed=st.integers(0, 9))
def test_random_works(target, drawn, values, each, seed):
    """Every family that takes a random convolution equals the definition."""
    epilogue = replace(drawn.epilogue, pack=False)
    if epilogue.kind == "threshold":
        epilogue = replace(epilogue, kind="requantize")
    conv = replace(drawn, w=Codes(0, values - 1), w_zero=(0,), x_planes=False, epilogue=epilogue)
    work = CodebookWork(conv, conv.out_channels if each else 1)
    inputs = random_codebook(work, seed)
    for chosen, _ in candidates(work, target)[0]:
        found = run(work, chosen, target, inputs)
        np.testing.assert_array_equal(found, inputs.expected, err_msg=chosen.name)


def test_refusals_name_the_reason():
    wide = conv(3, 4, 4, Codes(0, 300))
    assert "byte" in str(Taps().supports(wide, AVX2))
    far = conv(3, 4, 4, U8, x_zero=300)
    assert "zero point 300" in str(Taps().supports(far, AVX2))
    planes = conv(3, 4, 32, U8, Epilogue("requantize", U8, pack=True))
    for chosen in CODEBOOK_FAMILIES:
        assert "requantize" in str(chosen.supports(planes, AVX2))
    able, refusals = candidates(conv(3, 8, 8, U8, groups=2), AVX2)
    assert {f.name for f, _ in able} == {"taps", "reference"}
    assert {r.node for r in refusals} == {"dot", "bitserial"}


@pytest.mark.parametrize("target", [RPI3, RPI4, RPI5, AVX2, AVX512_VNNI], ids=lambda t: t.name)
def test_the_cheapest_family_is_chosen_by_cost(target):
    """Taps want pixels; a single row of a matrix product has none to share."""

    def best(work):
        return candidates(work, target)[0][0][0].name

    one_row = dense(3, 1, 512, 512, U8)
    assert best(one_row) != "taps"
    if target is not AVX512_VNNI and target is not RPI5:
        assert best(conv(3, 128, 128, U8, size=(28, 28))) == "taps"
    assert best(conv(3, 64, 64, U8, size=(28, 28), groups=64)) == "taps"
    assert best(dense(3, 1, 512, 512, Codes(0, 1), padding=BARE)) == "bitserial"
