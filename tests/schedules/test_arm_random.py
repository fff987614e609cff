"""Random convolutions on emulated boards: every family that takes one equals ``spec``."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.schedules.arm_works import label, run_all
from tests.schedules.test_random import works
from tvm_qnn import targets
from tvm_qnn.estimate import programs
from tvm_qnn.schedules import FAMILIES

LACKING = programs.missing()
pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(LACKING is not None, reason=LACKING or ""),
]


@pytest.mark.parametrize("board", ["rpi3", "rpi4", "rpi5"])
@settings(
    max_examples=2,
    deadline=None,
    # A program of many kernels takes seconds: a failure names its work and is not shrunk.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(drawn=st.lists(works(), min_size=6, max_size=6))
def test_random_works_on_emulated_boards(board, drawn):
    target = targets.get(board)
    for family in FAMILIES:
        able = [work for work in drawn if family.supports(work, target) is None]
        if not able:
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcomes = run_all(family.name, able, target, Path(folder))
        for work, outcome in zip(able, outcomes, strict=True):
            np.testing.assert_array_equal(
                outcome.output, outcome.inputs.expected, err_msg=f"{family.name} {label(work)}"
            )
