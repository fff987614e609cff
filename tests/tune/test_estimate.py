"""Tuning without a board: cycles of a model of it, the same in every session."""

import pytest

import tvm_qnn
from tvm_qnn import targets
from tvm_qnn.errors import TargetError
from tvm_qnn.estimate import kernels
from tvm_qnn.tuning import tune
from tvm_qnn.tuning.device import open_device


@pytest.fixture
def tools():
    if lacking := kernels.missing():
        pytest.skip(lacking)


@pytest.mark.usefixtures("tools")
def test_sessions_of_one_seed_are_equal(network, tmp_path):
    found = [
        tune(network, "rpi4", tmp_path / name, device="estimate", trials=14, seed=2).records
        for name in ("first", "second")
    ]
    assert found[0] == found[1]
    assert {record.unit for record in found[0]} == {"cycles"}
    assert all("llvm-mca" in record.device and record.gain >= 1 for record in found[0])
    rows = tvm_qnn.inspect(network, "rpi4", database=tmp_path / "first").rows
    assert all("cycles estimated" in row.why for row in rows if row.operator == "conv2d")


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with (
        pytest.raises(TargetError, match=r"--device estimate: qemu-aarch64.* is not installed"),
        open_device("estimate", targets.get("rpi4")),
    ):
        pass
