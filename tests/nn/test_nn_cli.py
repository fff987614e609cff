"""``tvm-qnn train ...``: options reach the run, and every user error is one line."""

import json
import sys

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs tvm-qnn[torch]")
pytest.importorskip("onnxruntime", reason="needs tvm-qnn[onnx]")

from typer.testing import CliRunner

from tvm_qnn.errors import QnnError
from tvm_qnn.nn import data, datasets
from tvm_qnn.nn.cli import app
from tvm_qnn.nn.data import Images


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("network", ["vgg", "resnet"])
def test_networks_for_colour_images_train_and_export(few_images, tmp_path, network):
    file = tmp_path / "net.onnx"
    done = run(
        "maqd", "--network", network, "--data", "x", "--out", tmp_path / "run", "--epochs", 1,
        "--weight-states", 5, "--first-states", 15, "--no-bfloat16", "--export", file,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}
    first = "conv1" if network == "vgg" else "stem"
    assert arrays[f"{first}_weight_codes"].max() > 2
    assert arrays["linear_weight_codes"].max() <= 2
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (record["recipe"]["optimizer"], record["recipe"]["bfloat16"]) == ("muon", False)


def test_few_states_start_from_full_precision(few_images, tmp_path):
    shape = ("maqd", "--network", "vgg", "--channels", "8,8", "--data", "x", "--epochs", 1)
    full, out = tmp_path / "full", tmp_path / "run"
    first = run(*shape, "--weight-states", 0, "--out", full)
    assert first.exit_code == 0, first.output
    done = run(*shape, "--out", out, "--pretrained", full)
    assert done.exit_code == 0, done.output
    record = json.loads((out / "metrics.json").read_text())["network"]
    assert (record["precision"], record["channels"]) == ("maqd", [8, 8])
    other = run(*shape[:4], "8,9", *shape[5:], "--out", tmp_path / "x", "--pretrained", full)
    assert isinstance(other.exception, QnnError)
    assert "neither this network nor its full-precision twin" in str(other.exception)
    more = run(*shape, "--out", tmp_path / "more", "--pretrained", out)
    assert more.exit_code == 0, more.output
    assert json.loads((tmp_path / "more" / "metrics.json").read_text())["recipe"]["cutout"] == 8


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--weight-states", 1), "0 stands for float"),
        (("--weight-states", 0), "no full-precision twin"),
        (("--last-states", 7), "one number of states"),
        (("--channels", "8,8"), "for --network vgg"),
        (("--network", "vgg", "--channels", "8,x"), "32,64,128,128"),
        (("--network", "vgg", "--weight-states", 0, "--pretrained", "x"), "leave --weight-states"),
        (("--network", "vgg", "--pretrained", "nowhere"), "no checkpoint there"),
    ],
)
def test_options_that_do_not_go_together(few_images, tmp_path, options, text):
    result = run("maqd", "--data", "x", "--out", tmp_path / "run", *options)
    assert isinstance(result.exception, QnnError)
    assert text in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_train_resume_export_publish(few_images, tmp_path):
    out, file, zoo = tmp_path / "run", tmp_path / "net.onnx", tmp_path / "zoo"
    first = run("maqd", "--data", "x", "--out", out, "--epochs", 1, "--seed", 4, "--export", file)
    assert first.exit_code == 0, first.output
    assert json.loads((out / "metrics.json").read_text())["recipe"]["seed"] == 4
    assert onnx.load(file).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    again = run("maqd", "--data", "x", "--out", out, "--epochs", 1, "--seed", 4)
    assert isinstance(again.exception, QnnError)
    assert "--resume" in str(again.exception)
    resumed = run(
        "maqd", "--data", "x", "--out", out, "--epochs", 1, "--seed", 4, "--resume", "--export",
        file, "--batch", 3,
    )  # fmt: skip
    assert resumed.exit_code == 0, resumed.output
    assert onnx.load(file).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3

    zoo.mkdir()
    (zoo / "zoo.json").write_text('{"other": {"name": "other"}}')
    published = run(
        "publish",
        "--run",
        out,
        "--data",
        "x",
        "--zoo",
        zoo,
        "--name",
        "maqd-new",
        "--remark",
        "The best of 3.",
    )
    assert published.exit_code == 0, published.output
    assert "0 of 16 labels differ" in published.output
    records = json.loads((zoo / "zoo.json").read_text())
    assert set(records) == {"other", "maqd-new"}
    record = records["maqd-new"]
    assert record["recipe"].endswith("--epochs 1 --seed 4 --weight-states 3 --activation-states 4")
    assert record["protocol"].endswith("for every image. The best of 3.")
    assert record["size_bytes"] == (zoo / record["file"]).stat().st_size
    with np.load(zoo / record["samples_file"]) as stored:
        assert stored["image"].tolist() == few_images.test_images.tolist()
        assert stored["labels"].tolist() == few_images.test_labels.tolist()


def test_interrupted_run_says_how_to_go_on(few_images, tmp_path, monkeypatch):
    from tvm_qnn.nn import checkpoint

    whole = checkpoint.save

    def save_then_stop(*arguments):
        whole(*arguments)
        raise KeyboardInterrupt

    arguments = ("maqd", "--data", "x", "--out", tmp_path, "--epochs", 2)
    monkeypatch.setattr(checkpoint, "save", save_then_stop)
    stopped = run(*arguments)
    assert stopped.exit_code == 130
    assert "--resume" in stopped.output
    monkeypatch.setattr(checkpoint, "save", whole)
    assert run(*arguments, "--resume").exit_code == 0
    assert len(json.loads((tmp_path / "metrics.json").read_text())["epochs"]) == 2


def test_mnist_is_not_mirrored(few_images, tmp_path, monkeypatch):
    digits = Images("mnist", *(getattr(few_images, key) for key in data.FILES))
    monkeypatch.setattr(datasets, "load", lambda folder: digits)
    out = tmp_path / "run"
    trained = run("maqd", "--data", "x", "--out", out, "--epochs", 1)
    assert trained.exit_code == 0, trained.output
    assert json.loads((out / "metrics.json").read_text())["recipe"]["flip"] is False


def test_missing_data_is_one_line(tmp_path):
    result = run("maqd", "--data", tmp_path, "--out", tmp_path / "run", "--epochs", 1)
    assert isinstance(result.exception, QnnError)
    assert "zalandoresearch" in str(result.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", ["torch", "onnxruntime"])
def test_missing_package_names_the_extra(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    extra = {"torch": "torch", "onnxruntime": "onnx"}[module]
    result = run("publish", "--run", tmp_path, "--data", tmp_path, "--zoo", tmp_path, "--name", "x")
    assert isinstance(result.exception, QnnError)
    assert f"pip install 'tvm-qnn[{extra}]'" in str(result.exception)
