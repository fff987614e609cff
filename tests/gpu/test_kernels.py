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

SM80, ANY = targets.get("cuda-sm80"), targets.get("cuda")
U8, S8, U2, S2 = Codes(0, 255), Codes(-128, 127), Codes(0, 3), Codes(-2, 1)
CONV = ConvWork(1, 6, 7, 64, 40, (3, 3), U8, S8, padding=(1, 1, 1, 1), x_zero=3)
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
    "more thresholds than a kernel unrolls": (
        replace(CONV, epilogue=Epilogue("threshold", Codes(0, 40))), ("dot", "reference"),
    ),
    "depthwise": (replace(CONV, out_channels=64, groups=64), ("reference",)),
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


@settings(
    max_examples=6, deadline=None, phases=[Phase.generate], derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(work=works(), seed=st.integers(0, 9))
def test_random_works(work, seed):
    able = families_for(work, SM80)
    assert "reference" in [f.name for f in able]
    for candidate in able:
        check_emulated(work, candidate, SM80, seed)


def test_chips_without_tensor_cores_leave_them_out():
    work, _ = CASES["bytes"]
    assert [f.name for f in families_for(work, ANY)] == ["dot", "reference"]
    refused = family("mma").supports(work, ANY)
    assert refused is not None
    assert refused.reason == "sm_75 has no tensor cores for s8"
    assert family("mma").supports(work, targets.host()) is not None
    check_emulated(work, family("dot"), ANY)
