"""``tvm-qnn train mqnn``: options reach the network, and a run starts from another."""

import json

import onnx
import pytest

pytest.importorskip("torch", reason="needs tvm-qnn[torch]")
pytest.importorskip("onnxruntime", reason="needs tvm-qnn[onnx]")

from typer.testing import CliRunner

from tvm_qnn.errors import QnnError
from tvm_qnn.nn.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_full_precision_then_levels_then_export_then_zoo(few_images, tmp_path):
    full, out, file = tmp_path / "full", tmp_path / "run", tmp_path / "net.onnx"
    first = run("mqnn", "--data", "x", "--out", full, "--states", 0, "--epochs", 2)
    assert first.exit_code == 0, first.output
    arguments = (
        "mqnn", "--data", "x", "--out", out, "--pretrained", full, "--states", 5, "--thresholds",
        "learned", "--per-channel", "--activation-bits", 4, "--epochs", 1, "--seed", 3,
        "--export", file, "--batch", 2,
    )  # fmt: skip
    tuned = run(*arguments)
    assert tuned.exit_code == 0, tuned.output
    network = json.loads((out / "metrics.json").read_text())["network"]
    assert {key: network[key] for key in ("states", "thresholds", "per_channel")} == {
        "states": 5,
        "thresholds": "learned",
        "per_channel": True,
    }
    assert network["activation_bits"] == 4
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}
    assert arrays["conv2_weight_codebook"].shape == (32, 5)
    assert isinstance(run(*arguments).exception, QnnError)
    assert run(*arguments, "--resume").exit_code == 0

    zoo = tmp_path / "zoo"
    published = run("publish", "--run", out, "--data", "x", "--zoo", zoo, "--name", "mqnn-test")
    assert published.exit_code == 0, published.output
    record = json.loads((zoo / "zoo.json").read_text())["mqnn-test"]
    assert record["weights"] == "5 free values a channel, every layer"
    assert "--states 5 --thresholds learned --per-channel" in record["recipe"]


def test_one_state_and_foreign_runs_are_one_clear_line(few_images, tmp_path):
    refused = run("mqnn", "--data", "x", "--out", tmp_path, "--states", 1)
    assert isinstance(refused.exception, QnnError)
    assert "at least 2 levels" in str(refused.exception)
    missing = run("mqnn", "--data", "x", "--out", tmp_path, "--pretrained", tmp_path)
    assert isinstance(missing.exception, QnnError)
    assert "no checkpoint" in str(missing.exception)
