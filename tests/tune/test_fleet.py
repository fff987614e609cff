"""A tracker and servers on the loopback: two at once, one that vanishes, kernels that crash."""

import os
import signal
import threading

import pytest

from tests.tune.candidates import CRASHING, GOOD, HANGING, WRONG, jobs_of
from tests.tune.servers import HOST, boards_of, free_port, wait_for
from tvm_qnn import targets
from tvm_qnn.errors import TargetError
from tvm_qnn.tuning import device as devices
from tvm_qnn.tuning import tune
from tvm_qnn.tuning.device import open_device

pytestmark = pytest.mark.xdist_group("fleet")
KEY = "pc"


@pytest.fixture
def boards(tracker, start):
    """Port of a tracker with two boards, and their processes."""
    servers = [
        start("device", "serve", "--tracker", f"{HOST}:{tracker}", "--key", KEY,
              "--port", free_port())
        for _ in range(2)
    ]  # fmt: skip
    wait_for(lambda: boards_of(tracker, KEY) == 2)
    return tracker, servers


def test_boards_are_listed_and_checked(boards, start):
    port, _ = boards
    listed, _ = start("device", "list", "--tracker", f"{HOST}:{port}").communicate()
    assert listed.count(KEY) >= 2
    assert f"{KEY}: 2 free, 0 sessions waiting" in listed
    doctor = start("doctor", "--device", f"rpc://{HOST}:{port}/{KEY}")
    out, _ = doctor.communicate(timeout=60)
    assert doctor.returncode == 0, out
    assert f"ok boards: 2 of key {KEY}" in out
    assert "ok kernel round trip: works: Linux" in out
    doctor = start("doctor", "--device", f"rpc://{HOST}:{port}/toaster")
    out, _ = doctor.communicate(timeout=60)
    assert doctor.returncode == 1
    assert f"none of key toaster; it knows {KEY}" in out
    assert "tvm-qnn device serve" in out
    doctor = start("doctor", "-t", "rpi4", "--device", f"rpc://{HOST}:{port}/{KEY}")
    out, _ = doctor.communicate(timeout=60)
    assert doctor.returncode == 1
    assert "!! kernel round trip: fails" in out
    assert "is its processor aarch64" in out


def test_doctor_does_not_wait_for_a_busy_board_forever(tracker, start, monkeypatch):
    from tvm import rpc

    from tvm_qnn.tuning import doctor

    start("device", "serve", "--tracker", f"{HOST}:{tracker}", "--key", KEY, "--port", free_port())
    wait_for(lambda: boards_of(tracker, KEY) == 1)
    monkeypatch.setattr(doctor, "_PATIENCE", 5)
    busy = rpc.connect_tracker(HOST, tracker).request(KEY)
    checks = list(doctor.check_boards(targets.get("host"), f"rpc://{HOST}:{tracker}/{KEY}"))
    assert "not done after 5 s" in checks[-1].found
    assert checks[-1].fatal
    del busy


def test_board_outlives_kernels_that_crash_or_hang(boards, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "TIMEOUT", 5.0)
    with open_device(f"rpc://{HOST}:{boards[0]}/{KEY}", targets.get("host")) as device:
        modules = [GOOD, CRASHING, WRONG, GOOD, CRASHING, HANGING, GOOD]
        results = device.measure(jobs_of(modules, tmp_path))
        wait_for(lambda: boards_of(boards[0], KEY) == 2)
        again = device.measure(jobs_of([GOOD, GOOD], tmp_path), rounds=2)
    right = [module is GOOD for module in modules]
    assert [result.cost is not None for result in results] == right, results
    assert all(result.cost for result in again), again


def test_session_goes_on_when_a_board_vanishes(network, boards, tmp_path, monkeypatch):
    """One of two boards is killed in the middle; then the other, and the session says so."""
    monkeypatch.setattr(devices, "TIMEOUT", 8.0)
    port, servers = boards
    folder = tmp_path / "database"
    seen = []

    def report(tunings, done, total):
        seen.append(done)
        if done == total // 2 or (len(seen) > 1 and seen[-2] < total // 2 < done):
            os.killpg(servers[0].pid, signal.SIGKILL)

    outcome = tune(
        network, "host", folder, device=f"rpc://{HOST}:{port}/{KEY}", trials=32, report=report
    )
    assert sum(tuning.trials for tuning in outcome.tunings) >= 32
    assert sum(tuning.failed for tuning in outcome.tunings) == 0
    assert boards_of(port, KEY) == 1
    assert all(record.device == f"{KEY} over RPC" for record in outcome.records)
    threading.Timer(2.0, os.killpg, (servers[1].pid, signal.SIGKILL)).start()
    with pytest.raises(TargetError, match=r"the last board is gone.*--resume"):
        tune(network, "host", folder, device=f"rpc://{HOST}:{port}/{KEY}", trials=400, seed=1)
