"""``tvm-qnn train qmann``: options reach the network, runs resume, files are whole."""

import csv

import pytest

pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

import qmann_cases as cases
import typer
from typer.testing import CliRunner

from tvm_qnn.errors import QnnError
from tvm_qnn.nn.cli.qmann import qmann
from tvm_qnn.nn.qmann import babi
from tvm_qnn.nn.qmann import state as qmann_state

app = typer.Typer()
app.command()(qmann)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def small_task(monkeypatch):
    """A few questions in place of the official files, whose checksums no small set can have."""
    task = babi.encode(1, "1k", cases.learnable(40), cases.learnable(20, seed=1))
    monkeypatch.setattr(babi, "load", lambda folder, number: task)
    return task


def test_train_resume_and_export(small_task, tmp_path):
    onnx = pytest.importorskip("onnx")
    out, file = tmp_path / "run", tmp_path / "net.onnx"
    arguments = (
        "--data", "x", "--out", out, "--task", 1, "--format", "Q3.4", "--binary", "--control",
        "--epochs", 12, "--seed", 3, "--no-early-stopping", "--export", file, "--batch", 2,
    )  # fmt: skip
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert "training on 1k" in done.output
    found = qmann_state.load_trained(out / "trained.npz")
    cfg = found.config
    assert (str(cfg.format), cfg.similarity, cfg.binary, cfg.control) == (
        "Q3.4", "hamming", True, True,
    )  # fmt: skip
    assert (cfg.read_gradient, cfg.embedding, cfg.hops) == ("float", 60, 3)
    assert (found.record["epoch"], found.record["seed"], found.record["slots"]) == (12, 3, 3)
    assert f"{100 * found.record['test_error']:.1f} %" in done.output
    with (out / "metrics.csv").open(newline="") as rows:
        assert [row["epoch"] for row in csv.DictReader(rows)] == [str(i) for i in range(1, 13)]
    onnx.checker.check_model(onnx.load(file))
    assert isinstance(run(*arguments).exception, QnnError)
    again = run(*arguments, "--resume")
    assert again.exit_code == 0, again.output
    assert f"{100 * found.record['test_error']:.1f} %" in again.output


def test_early_stopping_answers_with_the_best_epoch(small_task, tmp_path):
    done = run("--data", "x", "--out", tmp_path, "--format", "float", "--epochs", 3)
    assert done.exit_code == 0, done.output
    found = qmann_state.load_trained(tmp_path / "trained.npz")
    assert found.config.format is None
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = rows[found.record["epoch"] - 1]
    assert float(chosen["validation_error"]) == min(float(row["validation_error"]) for row in rows)
    assert found.record["validation_error"] == float(chosen["validation_error"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--format", "int8"), "no fixed-point format"),
        (("--format", "Q9.9"), "--format Q9.9"),
        (("--format", "float", "--similarity", "hamming"), "need a fixed-point format"),
        (("--format", "Q0.7", "--control"), "at least 1 bit on either side"),
        (("--similarity", "hamming-code", "--export", "x.onnx"), "for training only"),
    ],
)
def test_options_that_do_not_go_together(small_task, tmp_path, options, reason):
    error = run("--data", "x", "--out", tmp_path / "run", *options).exception
    assert isinstance(error, QnnError)
    assert reason in str(error)
    assert "\n" not in str(error)
    assert not (tmp_path / "run").exists()


def test_missing_data_is_one_line(tmp_path):
    error = run("--data", tmp_path, "--out", tmp_path / "run").exception
    assert isinstance(error, babi.DataError)
    assert "--data needs the folder" in str(error)
