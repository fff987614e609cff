"""Tuning on this machine: a whole model, and what survives when it is interrupted."""

import json
import signal
import time
from dataclasses import replace

import pytest

import tvm_qnn
from tvm_qnn import targets
from tvm_qnn.compiler import read, records
from tvm_qnn.schedules.database import load
from tvm_qnn.tuning import tasks_of
from tvm_qnn.tuning.journal import NAME as JOURNAL
from tvm_qnn.verification import verify

TRIALS = 32


@pytest.fixture(scope="module")
def tuned(network, tmp_path_factory):
    """A database of the network, and what the session found."""
    folder = tmp_path_factory.mktemp("tuned")
    calls = []
    outcome = tvm_qnn.tune(
        network, "host", folder, trials=TRIALS, seed=3,
        report=lambda tunings, done, total: calls.append((done, total)),
    )  # fmt: skip
    return folder, outcome, calls


def test_equal_kernels_are_one_task(network):
    tasks = tasks_of(read(str(network)), targets.get("host"))
    shared = [task for task in tasks if len(task.operators) == 2]
    assert {task.family.name for task in shared} >= {"dot"}
    assert len({(task.work, task.family.name) for task in tasks}) == len(tasks)


def test_session_finds_schedules_that_are_no_slower(tuned):
    _, outcome, calls = tuned
    assert calls[-1][1] == TRIALS
    assert sum(tuning.trials for tuning in outcome.tunings) == TRIALS
    assert all(tuning.failed == 0 for tuning in outcome.tunings)
    assert all(record.gain >= 1 and record.unit == "seconds" for record in outcome.records)
    assert all((record.trace is None) == (record.gain == 1) for record in outcome.records)


def test_tuned_network_is_exact_and_says_that_it_is_tuned(network, tuned):
    folder, _, _ = tuned
    rows = tvm_qnn.inspect(network, "host", database=folder).rows
    gains = [row.gain for row in rows if row.operator == "conv2d"]
    assert len(gains) == 3
    assert min(gains) >= 1
    assert all("measured" in row.why for row in rows if row.operator == "conv2d")
    outcome = verify(network, database=folder)
    assert len(outcome.layers) >= 3
    assert outcome.first_wrong is None


def test_every_trace_is_exact(network, tuned):
    """Each kernel of each family is asked for, so that traces of slower families run, too."""
    folder, outcome, _ = tuned
    for family in {record.family for record in outcome.records}:
        assert verify(network, database=folder, lowering=family).first_wrong is None


def test_database_none_leaves_default_schedules(network, tuned):
    rows = tvm_qnn.inspect(network, "host", database="none").rows
    assert all(row.gain == 0 for row in rows)


def test_records_of_another_kernel_are_passed_over(network, tuned):
    changed = [replace(record, kernel="0" * 16) for record in load(tuned[0])]
    mine = records(type(load(tuned[0]))(changed))
    rows = tvm_qnn.inspect(network, "host", database=mine).rows
    assert all(row.gain == 0 for row in rows)


def test_interrupted_session_goes_on(network, start, tmp_path):
    """Ctrl-C in the middle; what was measured is not measured again."""
    folder = tmp_path / "database"
    command = ["tune", network, "--database", folder, "--trials", str(TRIALS), "--seed", "5"]
    process = start(*command)
    journal = folder / JOURNAL
    _wait(lambda: journal.exists() and len(journal.read_text().splitlines()) > 4, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "--resume goes on from there" in out
    assert "Traceback" not in out
    before = journal.read_text().splitlines()
    assert 4 < len(before) < TRIALS
    assert len(load(folder)) > 0
    process = start(*command, "--resume")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert f"tvm-qnn compile {network} -t host --database {folder} -o DIR" in out
    lines = journal.read_text().splitlines()
    assert lines[: len(before)] == before
    assert len(lines) == TRIALS
    assert len({tuple(json.loads(line)[:3]) for line in lines}) == TRIALS


def _wait(ready, process, seconds=60):
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)
