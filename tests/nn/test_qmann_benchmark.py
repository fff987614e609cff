"""benchmarks/qmann.py: finished runs are kept, more seeds are added, the table is merged."""

import csv
import sys

import pytest

pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

import qmann_cases as cases

from benchmarks import qmann
from tvm_qnn.nn.qmann import babi
from tvm_qnn.nn.qmann import state as qmann_state


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on a few questions, with a table of its own; returns the rows of the table."""
    task = babi.encode(1, "1k", cases.learnable(40), cases.learnable(20, seed=1))
    monkeypatch.setattr(babi, "load", lambda folder, number: task)
    monkeypatch.setattr(qmann, "CSV", tmp_path / "qmann.csv")
    trained = []
    real = qmann.train

    def counted(cfg, recipe, task, seeds, **options):
        trained.append(seeds)
        return real(cfg, recipe, task, seeds, **options)

    monkeypatch.setattr(qmann, "train", counted)

    def run(*arguments):
        trained.clear()
        common = ("--data", "x", "--out", str(tmp_path / "out"), "--tasks", "1", "--epochs", "2")
        monkeypatch.setattr(sys, "argv", ["qmann", *common, *arguments])
        qmann.main()
        with qmann.CSV.open(newline="") as file:
            return list(csv.DictReader(file)), list(trained)

    return run


def test_runs_are_added_never_repeated(command, tmp_path):
    rows, trained = command("--runs", "2", "--configs", "mann8,mann8-es")
    # One training answers with and without early stopping.
    assert trained == [[0, 1]]
    assert [(row["config"], row["seed"]) for row in rows] == [
        ("mann8", "0"), ("mann8", "1"), ("mann8-es", "0"), ("mann8-es", "1"),
    ]  # fmt: skip
    assert all(row["epochs"] == "2" for row in rows)
    again, trained = command("--runs", "2", "--configs", "mann8,mann8-es")
    assert (again, trained) == (rows, [])
    more, trained = command("--runs", "3", "--configs", "mann8,float")
    # The other networks come first where they stand first in the options.
    assert trained == [[2], [0, 1, 2]]
    assert [row["config"] for row in more] == ["float"] * 3 + ["mann8"] * 3 + ["mann8-es"] * 2
    assert rows[0] in more
    network = qmann_state.load_trained(tmp_path / "out" / "models" / "task01-mann8-seed1.npz")
    assert f"{100 * network.record['test_error']:.1f}" == f"{float(rows[1]['test_error']):.1f}"
    assert not list((tmp_path / "out" / "state").glob("*"))


def test_unknown_configurations_are_named(command):
    with pytest.raises(SystemExit, match="no configuration 'mann4'"):
        command("--configs", "mann4")
