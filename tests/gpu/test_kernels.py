"""Every family for CUDA gives the integers of ``spec``: emulated threads, barriers, fragments."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.gpu.emulation import check_emulated
from tests.schedules.helpers import families_for
from tests.schedules.test_random import works
from tvm_qnn import targets
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import family
from tvm_qnn.spec import Codes

A100, ANY = targets.get("cuda-sm80"), targets.get("cuda")
# Kernels that share small work among many processors have the smallest tiles.
SM80 = replace(A100, gpu=replace(A100.gpu, processors=1))
U8, S8, U2, S2 = Codes(0, 255), Codes(-128, 127), Codes(0, 3), Codes(-2, 1)
CONV = ConvWork(1, 6, 7, 64, 40, (3, 3), U8, S8, padding=(1, 1, 1, 1), x_zero=3)
DEPTHWISE = replace(CONV, out_channels=64, groups=64)
WIDE = ConvWork(
    2,
    9,
    33,
    96,
    96,
    (3, 3),
    S8,
    Codes(-8, 7),
    padding=(1, 1, 1, 1),
    groups=96,
    x_zero=-2,
    epilogue=Epilogue("requantize", U8),
)
TO_PLANES = Epilogue("threshold", U2, pack=True)

FEW = settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def depthwise(channels, **changes):
    return replace(
        DEPTHWISE, in_channels=channels, out_channels=channels, groups=channels, **changes
    )


CASES = {
    "bytes": (replace(CONV, epilogue=Epilogue("requantize", U8)), ("mma", "dot", "reference")),
    "signed bytes": (replace(CONV, x=S8, x_zero=-2), ("mma", "dot")),
    "planes": (
        replace(CONV, x=U2, w=S2, x_zero=0, x_planes=True,
                epilogue=Epilogue("threshold", U2, pack=True)),
        ("bmma", "bitserial"),
    ),
    "three by two planes": (
        replace(CONV, x=Codes(0, 7), w=S2, x_zero=5, in_channels=33), ("bmma", "bitserial"),
    ),
    "bipolar": (
        replace(CONV, x=Codes(-1, 1, 2), w=Codes(-1, 1, 2), x_zero=0), ("bmma", "bitserial"),
    ),
    "four bits of weights": (
        replace(CONV, w=Codes(-8, 7), epilogue=Epilogue("requantize", U8)), ("unpack", "mma"),
    ),
    "four bits": (
        ConvWork(1, 5, 6, 40, 33, (3, 3), Codes(0, 15), Codes(-8, 7), padding=(1, 1, 1, 1),
                 x_zero=3, epilogue=Epilogue("requantize", Codes(0, 15))),
        ("mma4",),
    ),
    "four signed bits": (
        ConvWork(1, 1, 20, 37, 40, (1, 1), Codes(-8, 7), S2, x_zero=-1), ("mma4",),
    ),
    "one bit of weights": (
        ConvWork(1, 1, 20, 256, 48, (1, 1), S8, Codes(-1, 1, 2), x_zero=5), ("unpack",),
    ),
    "zeros of weights": (
        ConvWork(1, 1, 20, 128, 40, (1, 1), U8, S2, w_zero=tuple(i % 3 - 1 for i in range(40)),
                 epilogue=Epilogue("threshold", U2, pack=True)),
        ("unpack",),
    ),
    "many rows": (
        ConvWork(1, 1, 300, 256, 96, (1, 1), U2, S2, epilogue=Epilogue("requantize", U2)),
        ("mma", "bmma", "dot", "bitserial"),
    ),
    "one row": (ConvWork(1, 1, 1, 100, 10, (1, 1), U8, S8), ("mma", "dot", "gemv")),
    "a row of bits": (
        ConvWork(1, 1, 1, 4100, 70, (1, 1), S8, Codes(-1, 1, 2), x_zero=7), ("gemv",),
    ),
    "rows of two bits": (
        ConvWork(1, 1, 3, 1024, 40, (1, 1), Codes(0, 3), S2,
                 epilogue=Epilogue("threshold", U2, pack=True)),
        ("gemv",),
    ),
    "rows of four bits": (
        ConvWork(1, 1, 8, 96, 33, (1, 1), U8, Codes(-8, 7), epilogue=Epilogue("requantize", U8)),
        ("gemv",),
    ),
    "rows of three bits": (
        ConvWork(1, 1, 2, 600, 17, (1, 1), S8, Codes(-4, 3), w_zero=tuple(range(17))), ("gemv",),
    ),
    "depthwise": (DEPTHWISE, ("dot", "reference")),
    "depthwise, tiles wider than rows": (WIDE, ("dot",)),
    "depthwise, tiles that fit": (replace(WIDE, width=32), ("dot",)),
    "depthwise, zeros of channels": (
        replace(WIDE, width=32, w_zero=tuple(range(-48, 48)), strides=(2, 1)), ("dot",),
    ),
    "depthwise to planes": (replace(WIDE, width=32, epilogue=TO_PLANES), ("dot",)),
    "depthwise, odd, to planes": (
        depthwise(33, w_zero=tuple(range(33)), epilogue=TO_PLANES), ("dot",),
    ),
    "depthwise, 7 channels": (
        depthwise(7, strides=(2, 2), dilation=(2, 1), padding=(2, 0, 1, 3)), ("dot",),
    ),
    "depthwise, no pad code": (
        depthwise(20, x=Codes(-1, 1, 2), w=Codes(-1, 1, 2), x_zero=0, padding=(2, 1, 0, 1),
                  epilogue=Epilogue("affine")),
        ("dot",),
    ),
    "depthwise, zero outside of the codes": (
        depthwise(12, x=Codes(-7, 8, 3), x_zero=-9, dilation=(1, 2), w_zero=(-5,),
                  epilogue=Epilogue("threshold", Codes(0, 40))),
        ("dot",),
    ),
    "depthwise, long rows": (
        depthwise(516, height=1, width=40, kernel=(1, 31), padding=(0, 15, 0, 15)), ("dot",),
    ),
    "more thresholds than a kernel unrolls": (
        replace(CONV, epilogue=Epilogue("threshold", Codes(0, 40))), ("dot", "reference"),
    ),
    "depthwise, many taps": (depthwise(5, x=Codes(-300, 99), kernel=(7, 7)), ("dot",)),
    "depthwise, channels of a last block": (
        depthwise(131 * 4, height=2, width=2, kernel=(2, 2), epilogue=Epilogue("requantize", U8)),
        ("dot",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("work", "name"),
    [
        pytest.param(work, name, id=f"{key}-{name}")
        for key, (work, ns) in CASES.items()
        for name in ns
    ],
)
def test_families(work, name):
    check_emulated(work, family(name), SM80)


@pytest.mark.parametrize(("channels", "outputs"), [(1, 129), (7, 31), (31, 7), (129, 1), (128, 64)])
def test_awkward_channels(channels, outputs):
    work = ConvWork(
        1, 4, 5, channels, outputs, (3, 3), U2, S2, padding=(1, 1, 1, 1),
        epilogue=Epilogue("requantize", U2, pack=True),
    )  # fmt: skip
    for name in ("bmma", "mma", "bitserial", "dot"):
        check_emulated(work, family(name), SM80)


@FEW
@given(work=works(), seed=st.integers(0, 9))
def test_random_works(work, seed):
    able = families_for(work, SM80)
    assert "reference" in [f.name for f in able]
    for candidate in able:
        check_emulated(work, candidate, SM80, seed)


@FEW
@given(work=works(), seed=st.integers(0, 9))
def test_random_depthwise_works(work, seed):
    channels = work.in_channels + 1
    zeros = tuple(work.w_zero[i % len(work.w_zero)] for i in range(channels))
    same = {"in_channels": channels, "out_channels": channels, "groups": channels}
    check_emulated(replace(work, **same, w_zero=zeros, x_planes=False), family("dot"), SM80, seed)


def test_depthwise_work_of_any_size_has_its_kernel():
    for work in (DEPTHWISE, replace(DEPTHWISE, height=112, width=112)):
        assert [f.name for f in families_for(work, A100)] == ["dot", "reference"]
    assert [f.name for f in families_for(replace(DEPTHWISE, groups=32), A100)] == ["reference"]


def test_chips_without_tensor_cores_leave_them_out():
    work, _ = CASES["bytes"]
    assert [f.name for f in families_for(work, ANY)] == ["dot", "reference"]
    refused = family("mma").supports(work, ANY)
    assert refused is not None
    assert refused.reason == "sm_75 has no tensor cores for s8"
    assert family("mma").supports(work, targets.host()) is not None
    check_emulated(work, family("dot"), ANY)
