"""Every family gives the integers of ``spec``, and so the same as every other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.schedules.helpers import (
    HOST_TARGETS,
    check,
    expected,
    families_for,
    random_data,
    random_params,
    run_kernel,
)
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import FAMILIES, family
from tvm_qnn.spec import Codes
from tvm_qnn.targets.x86 import AVX2

U8, S8 = Codes(0, 255), Codes(-128, 127)
BIPOLAR, TERNARY = Codes(-1, 1, 2), Codes(-1, 1)
PAD = (1, 1, 1, 1)
CHANNELS = (1, 3, 7, 8, 9, 16, 31, 32, 33, 64, 127, 128, 129)

pytestmark = pytest.mark.parametrize("target", HOST_TARGETS)


def codes_of_bits(bits: int, *, signed: bool) -> Codes:
    return Codes(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else Codes(0, 2**bits - 1)


@pytest.mark.parametrize(
    ("channels", "outputs"), list(zip(CHANNELS, reversed(CHANNELS), strict=True))
)
@pytest.mark.parametrize("bits", [2, 8])
def test_awkward_channels(target, bits: int, channels: int, outputs: int) -> None:
    x, w = codes_of_bits(bits, signed=False), codes_of_bits(bits, signed=True)
    work = ConvWork(
        1, 4, 5, channels, outputs, (3, 3), x, w, padding=PAD,
        epilogue=Epilogue("requantize", x),
    )  # fmt: skip
    check(work, family("dot" if bits == 8 else "bitserial"), target)


@pytest.mark.parametrize("a", [1, 3, 8])
@pytest.mark.parametrize("w", [1, 2, 5, 8])
def test_bit_widths(target, w: int, a: int) -> None:
    signed = (w + a) % 2 == 0
    x_codes = codes_of_bits(a, signed=signed)
    work = ConvWork(1, 3, 5, 37, 20, (2, 3), x_codes, codes_of_bits(w, signed=not signed),
                    padding=(0, 1, 1, 2), x_zero=1 if a > 1 else 0,
                    w_zero=(0,) if a < 5 else (1,))  # fmt: skip
    able = [f for f in families_for(work, target) if f.name != "reference"]
    assert able
    for candidate in able:
        check(work, candidate, target)


GEOMETRIES = {
    "stride": {"strides": (2, 3)},
    "dilation": {"dilation": (2, 1), "padding": (2, 1, 2, 1)},
    "asymmetric padding": {"padding": (0, 3, 2, 1)},
    "batch": {"batch": 3, "padding": PAD},
    "pointwise batch": {"batch": 2, "kernel": (1, 1)},
    "pointwise stride": {"kernel": (1, 1), "strides": (2, 2)},
    "dense": {"height": 1, "width": 1, "kernel": (1, 1)},
    "dense of many rows": {"height": 1, "width": 23, "kernel": (1, 1)},
    "prime width": {"width": 13, "padding": PAD, "out_channels": 64},
    "one column": {"width": 3, "padding": (1, 0, 1, 0)},
}
BASE = {
    "batch": 1,
    "height": 7,
    "width": 9,
    "in_channels": 18,
    "out_channels": 24,
    "kernel": (3, 3),
}


def agree(work: ConvWork, target, names: set[str]) -> None:
    """All families give the same integers; the reference once is enough."""
    data = random_data(work)
    wanted = expected(work, *data, ())
    able = families_for(work, target)
    assert {f.name for f in able} == names
    for candidate in able:
        if candidate.name != "reference" or target is AVX2:
            np.testing.assert_array_equal(run_kernel(work, candidate, target, *data), wanted)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_geometries(target, geometry: str) -> None:
    work = ConvWork(**{**BASE, **GEOMETRIES[geometry]}, x=Codes(0, 3), x_zero=1, w=TERNARY)
    agree(work, target, {"bitserial", "dot", "reference"})


@pytest.mark.parametrize("geometry", [k for k, v in GEOMETRIES.items() if "padding" in v])
def test_bipolar_borders(target, geometry: str) -> None:
    work = ConvWork(**{**BASE, **GEOMETRIES[geometry]}, x=BIPOLAR, w=BIPOLAR)
    agree(work, target, {"bitserial", "dot", "reference"})


ZEROS = {
    "asymmetric activations": {"x": U8, "x_zero": 131, "w": S8},
    "signed activations": {"x": S8, "x_zero": -3, "w": Codes(-127, 127)},
    "unsigned weights": {"x": U8, "x_zero": 0, "w": U8},
    "shifted unsigned weights": {"x": U8, "x_zero": 3, "w": U8, "w_zero": (121,)},
    "a zero point for each channel": {"x": U8, "x_zero": 9, "w": U8, "w_zero": tuple(range(24))},
    "bipolar activations": {"x": BIPOLAR, "x_zero": 0, "w": S8},
    "zero point outside of the codes": {"x": Codes(1, 7), "x_zero": 0, "w": Codes(-4, 3)},
    "steps": {"x": Codes(-3, 3, 2), "x_zero": 0, "w": Codes(-3, 3, 2)},
    "steps of three": {"x": Codes(-6, 6, 3), "x_zero": 0, "w": Codes(0, 9, 3)},
    "two channels' zero points, low bits": {
        "x": Codes(0, 3), "x_zero": 2, "w": Codes(0, 3), "w_zero": (1, 2) * 12
    },
}  # fmt: skip


@pytest.mark.parametrize("zeros", ZEROS)
def test_zero_points(target, zeros: str) -> None:
    work = ConvWork(**{**BASE, "kernel": (3, 2)}, padding=(1, 0, 1, 1), **ZEROS[zeros])
    few = work.x.bits * work.w.bits <= 16
    agree(work, target, {"bitserial", "dot", "reference"} if few else {"dot", "reference"})


@pytest.mark.parametrize(("width", "channels"), [(3, 40), (5, 2), (5, 40), (10, 2)])
def test_words_that_stay_in_registers(target, width: int, channels: int) -> None:
    """LLVM 22 lost masks of 32 bytes that were both counted (sums) and broadcast (products)."""
    work = ConvWork(1, 2, width, channels, 33, (1, 1), Codes(0, 1), Codes(1, 2))
    check(work, family("bitserial"), target)


@pytest.mark.parametrize("channels", [3, 16, 33])
@pytest.mark.parametrize("zeros", ["asymmetric activations", "bipolar activations"])
def test_depthwise(target, channels: int, zeros: str) -> None:
    work = ConvWork(
        2, 6, 9, channels, channels, (3, 3), **ZEROS[zeros], padding=PAD, strides=(2, 1),
        groups=channels, epilogue=Epilogue("requantize", S8, 5),
    )  # fmt: skip
    able = families_for(work, target)
    assert {f.name for f in able} == {"dot", "reference"}
    for candidate in able:
        check(work, candidate, target)


def test_depthwise_with_a_zero_point_for_each_channel(target) -> None:
    work = ConvWork(
        1, 5, 6, 20, 20, (3, 3), U8, U8, padding=PAD, groups=20, x_zero=4, w_zero=tuple(range(20))
    )
    for candidate in families_for(work, target):
        check(work, candidate, target)


@pytest.mark.parametrize("w_zero", [(0,), tuple(range(12))])
def test_groups_run_on_the_reference(target, w_zero) -> None:
    work = ConvWork(
        1, 5, 6, 6, 12, (3, 3), U8, S8, padding=PAD, groups=3, x_zero=4, w_zero=w_zero,
        epilogue=Epilogue("threshold", Codes(0, 3), pack=True),
    )  # fmt: skip
    able = families_for(work, target)
    assert [f.name for f in able] == ["reference"]
    check(work, able[0], target)


@pytest.mark.parametrize(
    ("channels", "kernel", "padding", "x_zero"),
    [
        (5, (3, 3), (0, 0, 0, 0), 0),
        (32, (3, 3), PAD, 2),
        (70, (3, 3), PAD, -1),
        (70, (1, 1), (0, 0, 0, 0), 1),
        (64, (1, 1), (0, 0, 0, 0), 0),
    ],
)
def test_activations_in_bit_planes(target, channels, kernel, padding, x_zero) -> None:
    work = ConvWork(1, 5, 7, channels, 16, kernel, Codes(0, 3), BIPOLAR, padding=padding,
                    x_zero=x_zero, x_planes=True)  # fmt: skip
    agree(work, target, {"bitserial", "reference"})


def test_sixteen_bit_activations(target) -> None:
    work = ConvWork(1, 3, 4, 5, 6, (1, 1), Codes(0, 40000), Codes(-300, 300), x_zero=20000)
    for candidate in families_for(work, target):
        check(work, candidate, target)


def test_the_largest_sums_do_not_saturate(target) -> None:
    """Extreme codes everywhere: pairs of products leave 16 bits, sums fill 32."""
    for x_code, w_code in ((255, 127), (255, -128), (0, -128)):
        work = ConvWork(1, 1, 3, 4096, 17, (1, 1), U8, S8, x_zero=128)
        x = np.full((1, 1, 3, 4096), x_code, np.uint8)
        w = np.full((17, 1, 1, 4096), w_code, np.int8)
        found = run_kernel(work, family("dot"), target, x, w)
        np.testing.assert_array_equal(found, expected(work, x, w, ()))


def test_all_chains_of_layers_agree(target) -> None:
    """Planes out of one kernel are planes into the next; codes give the same result."""
    first = ConvWork(
        1, 6, 6, 20, 40, (3, 3), Codes(0, 3), TERNARY, padding=PAD, x_planes=True,
        epilogue=Epilogue("requantize", Codes(0, 3), pack=True),
    )  # fmt: skip
    second = replace(first, in_channels=40, out_channels=10, epilogue=Epilogue())
    x, w1 = random_data(first)
    _, w2 = random_data(second)
    params = random_params(first)
    as_codes = replace(first, x_planes=False, epilogue=Epilogue("requantize", Codes(0, 3)))
    hidden = run_kernel(as_codes, family("dot"), target, x, w1, params)
    wanted = run_kernel(replace(second, x_planes=False), family("dot"), target, hidden, w2)
    for candidate in FAMILIES:
        if candidate.name in ("bitserial", "reference"):
            planes = run_kernel(first, candidate, target, x, w1, params)
            np.testing.assert_array_equal(planes, expected(first, x, w1, params))
            found = run_kernel(second, candidate, target, hidden, w2)
            np.testing.assert_array_equal(found, wanted)


def test_refusals_say_why(target) -> None:
    grouped = ConvWork(1, 5, 6, 6, 12, (3, 3), U8, S8, groups=3)
    wide = ConvWork(1, 5, 6, 6, 12, (3, 3), U8, Codes(-(2**15), 2**15 - 1))
    packed = ConvWork(1, 5, 6, 6, 12, (3, 3), U8, S8, epilogue=Epilogue("affine", pack=True))
    assert "3 channel groups" in str(family("dot").supports(grouped, target))
    assert "64 products" in str(family("bitserial").supports(replace(grouped, groups=1), target))
    assert "[-32768..32767]" in str(family("dot").supports(replace(wide, groups=1), target))
    assert "pack" in str(family("reference").supports(packed, target))
    with pytest.raises(ValueError, match="3 channel groups"):
        family("dot").build(grouped, target, np.zeros(grouped.weight_shape, np.int8))
