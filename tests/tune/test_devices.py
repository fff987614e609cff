"""Devices: candidates that fail are told apart and do not harm their neighbours."""

import pytest

from tests.tune.candidates import CRASHING, GOOD, HANGING, WRONG, jobs_of
from tvm_qnn import targets
from tvm_qnn.errors import TargetError
from tvm_qnn.tuning import device as devices
from tvm_qnn.tuning.device import open_device


def test_failures_on_this_machine_are_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "TIMEOUT", 5.0)
    with open_device("host", targets.get("host")) as host:
        results = host.measure(
            jobs_of([GOOD, WRONG, CRASHING, GOOD, HANGING, GOOD], tmp_path), rounds=2
        )
    assert [result.cost is not None for result in results] == [
        True, False, False, True, False, True,
    ]  # fmt: skip
    errors = [result.error for result in results]
    assert errors[0] == ""
    assert "4 of 4 results differ" in errors[1]
    assert "crashed" in errors[2]
    assert "measure: not done after 5 s" in errors[4]
    assert all(result.cost > 0 for result in results if result.cost is not None)


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("host", "rpi4", "--device estimate"),
        ("gpu", "host", "give host, estimate or rpc://HOST:PORT/KEY"),
        ("rpc://somewhere", "rpi4", "write rpc://HOST:PORT/KEY"),
        ("rpc://127.0.0.1:1/rpi4", "rpi4", "no tracker answers"),
        ("estimate", "host", "no model of host"),
    ],
)
def test_devices_that_cannot_measure_say_why(name, target, words):
    with (
        pytest.raises(TargetError, match=words),
        open_device(name, targets.get(target)),
    ):
        pass
