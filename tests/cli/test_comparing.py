"""``compare`` and ``diff`` as users type them."""

import dataclasses
import json

import pytest

from tvm_qnn import targets
from tvm_qnn.schedules.reference import Reference


def test_compare_prints_a_table_and_writes_what_is_asked_for(cli, tiny, tmp_path):
    figures, folder = tmp_path / "figures.json", tmp_path / "report"
    code, out, err = cli(
        "compare", tiny.path, "--lowering", "auto,reference", "--limit", "0", "--json", figures,
        "--report", folder,
    )  # fmt: skip
    assert (code, err) == (0, "")
    for word in ("tiny.onnx", "host", "reference", "measured here", "bound by", "index.html"):
        assert word in out
    (run,) = json.loads(figures.read_text())["runs"]
    assert [v["lowering"] for v in run["variants"]] == ["auto", "reference"]
    assert str(tmp_path) not in figures.read_text()
    assert json.loads((folder / "report.json").read_text())["runs"] == [run]

    code, out, _ = cli(
        "compare", tiny.path, "--limit", "0", "--with", figures, "--json", tmp_path / "both.json"
    )
    assert code == 0
    assert f"earlier run of {run['when']}" in out
    assert json.loads((tmp_path / "both.json").read_text())["runs"][1] == run


def test_a_narrow_terminal_leaves_columns_out_and_says_so(cli, tiny, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    code, out, _ = cli("compare", tiny.path, "--limit", "0")
    assert code == 0
    assert "no room for:" in out
    assert "measured here" in out


def test_what_stays_float_is_named(cli, floating):
    code, out, _ = cli("compare", floating.path, "--limit", "0")
    assert code == 0
    assert "Stays float:" in out
    assert "sigmoid7[b]" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--targets", "host,tpu"], "unknown target 'tpu': choose one of host"),
        (["--targets", ","], "--targets ',': give names with commas"),
        (["--lowering", "best"], "choose one of auto"),
        (["--baseline", "other"], "onnxruntime is the only one"),
        (["--device", "rpi4"], "write TARGET=rpc://HOST:PORT/KEY"),
        (["-t", "rpi4", "--device", "rpi4=board"], "write rpc://HOST:PORT/KEY"),
        (["-t", "rpi4", "--device", "rpi4=rpc://127.0.0.1:1/b"], "no tracker answers"),
        (["--with", "missing.json"], "missing.json: cannot be read"),
        (["--labels", "missing.npy"], "labels need the inputs"),
        (["--input", "missing.npz"], "missing.npz: no such file"),
        (["--database", "missing"], "missing: no such database"),
    ],
)
def test_compare_refuses_with_one_line(cli, tiny, options, words):
    code, _, err = cli("compare", tiny.path, "--limit", "0", *options)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_without_matplotlib_a_report_says_what_to_install(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    code, _, err = cli("compare", tiny.path, "--report", tmp_path / "report")
    assert code == 2
    assert "pip install 'tvm-qnn[plot]'" in err
    assert not (tmp_path / "report").exists()
    assert cli("compare", tiny.path, "--limit", "0")[0] == 0


def test_diff_of_equal_targets(cli, tiny, tmp_path):
    shown = tmp_path / "diff.npz"
    code, out, err = cli("diff", tiny.path, "-t", "host,host", "-i", tiny.inputs, "-o", shown)
    assert (code, err) == (0, "")
    assert out.startswith("equal: ")
    assert f"3 inputs ({tiny.inputs})" in " ".join(out.split())
    assert not shown.exists()


def test_diff_writes_the_input_that_shows_a_difference(cli, tiny, tmp_path, monkeypatch):
    build, named = Reference.build, targets.get

    def wrong(self, work, target, weights, trace=None):
        if target.name == "crooked":
            work = dataclasses.replace(work, x_zero=work.x_zero + 1)
        return build(self, work, target, weights, trace)

    def get(name):
        if name == "crooked":
            return dataclasses.replace(targets.host(), name="crooked")
        return named(name)

    monkeypatch.setattr(Reference, "build", wrong)
    monkeypatch.setattr(targets, "get", get)
    shown = tmp_path / "diff.npz"
    options = ("-t", "host,crooked", "--lowering", "reference", "-o", shown)
    code, out, _ = cli("diff", tiny.path, *options, "-i", tiny.inputs)
    assert code == 1
    assert "first difference: " in out
    assert "crooked" in out
    code, again, _ = cli("diff", tiny.path, *options, "-i", shown)
    assert code == 1
    assert again == out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-t", "host"], "give two targets"),
        (["-t", "host,rpi4,rpi5"], "give two targets"),
        (["-t", "host,tpu"], "unknown target 'tpu'"),
        (["-t", "host,host", "--lowering", "float"], "no integers to compare"),
        (["-t", "host,host", "-i", "missing.npz"], "missing.npz: no such file"),
    ],
)
def test_diff_refuses_with_one_line(cli, tiny, options, words):
    code, _, err = cli("diff", tiny.path, *options)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
