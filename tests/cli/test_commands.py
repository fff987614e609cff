"""The commands as users type them, on good input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tvm_qnn import __version__

TOOL = Path(sys.executable).parent / "tvm-qnn"


def test_inspect_prints_a_table(cli, tiny):
    code, out, err = cli("inspect", tiny.path)
    assert (code, err) == (0, "")
    for word in ("conv9", "qconv2d_w2a8", "multiply-accumulates", "bytes of weights", "2-bit"):
        assert word in out
    assert "Every operator that could be an integer operator is one." in out


def test_inspect_prints_json(cli, tiny):
    code, out, err = cli("inspect", tiny.path, "--json", "--target", "rpi4")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["model"] == "tiny.onnx"
    assert data["target"] == "rpi4"
    assert data["refusals"] == []
    conv = next(row for row in data["rows"] if row["operator"] == "conv2d")
    assert (conv["weight_bits"], conv["activation_bits"]) == (2, 8)
    assert conv["macs"] == 3 * 4 * 5 * 2 * 9
    assert conv["weight_bytes"] == (3 * 2 * 9 * 2 + 7) // 8


def test_inspect_of_the_float_lowering_shows_float_kernels(cli, tiny):
    code, out, _ = cli("inspect", tiny.path, "--lowering", "float", "--json")
    assert code == 0
    conv = next(row for row in json.loads(out)["rows"] if row["operator"] == "nn.conv2d")
    assert (conv["kernel"], conv["weight_bits"]) == ("float", 32)
    code, _, err = cli("verify", tiny.path, "--lowering", "float")
    assert code == 2
    assert "'float' has no integers" in err


def test_inspect_names_what_stays_float(cli, floating):
    code, out, _ = cli("inspect", floating.path)
    assert code == 0
    assert "Stays float:" in out
    assert "sigmoid7[b]" in out
    row = next(line for line in out.splitlines() if line.split()[:1] == ["sigmoid7[b]"])
    assert row.split()[-2:] == ["float", "float"]


def test_compile_run_and_verify(cli, tiny, tmp_path):
    folder, results = tmp_path / "tiny.q", tmp_path / "out.npz"
    code, out, err = cli("compile", tiny.path, "-o", folder)
    assert (code, err) == (0, "")
    assert "lib.so" in out
    assert sorted(p.name for p in folder.iterdir()) == ["lib.so", "manifest.json"]
    code, out, err = cli("run", folder, "-i", tiny.inputs, "-o", results, "--repeat", "2")
    assert (code, err) == (0, "")
    assert "ran 3 batches" in out
    assert "latency median" in out
    assert "(2 runs, 1 thread)" in out
    with np.load(results) as got:
        assert got.files == [tiny.output]
        assert (got[tiny.output] == tiny.expected).all()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_run_compiles_a_model_on_the_spot(cli, tiny, tmp_path):
    code, out, _ = cli("run", tiny.path, "--lowering", "reference", "--repeat", "1")
    assert code == 0
    assert "ran 1 batch of random numbers" in out


def test_verify_compares_with_definitions_and_with_a_file(cli, tiny, tmp_path):
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, **{tiny.output: tiny.expected})
    code, out, err = cli("verify", tiny.path, "-i", tiny.inputs, "--expect", good)
    assert (code, err) == (0, "")
    assert "integers equal their definition" in out
    assert "100.00% of elements are equal" in out
    wrong = tiny.expected.copy()
    wrong.flat[0] += 1
    np.savez(bad, **{tiny.output: wrong})
    code, out, err = cli("verify", tiny.path, "-i", tiny.inputs, "--expect", bad)
    assert (code, err) == (1, "")
    assert "integers equal their definition" in out
    assert "100.00%" not in out


def test_names_that_only_onnx_allows(cli, floating, tmp_path):
    expected = tmp_path / "expected.npz"
    np.savez(expected, **{floating.output: floating.expected})
    code, out, err = cli("verify", floating.path, "-i", floating.inputs, "--expect", expected)
    assert (code, err) == (0, "")
    assert "sigmoid7[b]" in out
    assert "100.00% but for float32 rounding" in out
    np.savez(expected, **{floating.output: floating.expected + 1e-3})
    assert cli("verify", floating.path, "-i", floating.inputs, "--expect", expected)[0] == 1


def test_inputs_may_be_one_npy_array(cli, named_input, tmp_path):
    np.save(tmp_path / "x.npy", named_input.value)
    results = tmp_path / "out.npz"
    code, _, err = cli(
        "run", named_input.path, "-i", tmp_path / "x.npy", "-o", results, "--repeat", "1"
    )
    assert (code, err) == (0, "")
    with np.load(results) as got:
        assert np.abs(got["file"] - named_input.expected[:1]).max() == 0


def test_labels_give_the_accuracy(cli, tiny, tmp_path):
    rows = tiny.expected.reshape(len(tiny.expected), -1).argmax(axis=1)
    with np.load(tiny.inputs) as stored:
        np.savez(tmp_path / "in.npz", x=stored["x"], labels=np.where(np.arange(3) < 2, rows, -1))
    code, out, _ = cli("run", tiny.path, "-i", tmp_path / "in.npz", "--repeat", "1")
    assert code == 0
    assert "accuracy 66.67%" in out


@pytest.mark.parametrize("command", ["targets", "zoo"])
def test_lists(cli, command):
    code, table, err = cli(command)
    assert (code, err) == (0, "")
    code, out, err = cli(command, "--json")
    assert (code, err) == (0, "")
    names = [row["name"] for row in json.loads(out)]
    assert len(names) == len(set(names)) > 0
    assert ("host" in names) == (command == "targets")
    for name in names:
        assert name in table.replace("\n", "")


def test_the_zoo_round_trip(cli, tmp_path):
    folder, results = tmp_path / "fashion", tmp_path / "scores.npz"
    assert cli("inspect", "zoo:maqd-fashion")[0] == 0
    assert cli("compile", "zoo:maqd-fashion", "-o", folder)[0] == 0
    code, out, err = cli("run", folder, "-i", "zoo.npz", "-o", results)
    assert code == 2
    assert "zoo.npz: no such file" in err
    from tvm_qnn import zoo

    samples = zoo.samples("maqd-fashion")
    np.savez(tmp_path / "in.npz", **samples)
    code, out, err = cli("run", folder, "-i", tmp_path / "in.npz", "-o", results, "--repeat", "1")
    assert (code, err) == (0, "")
    accuracy = float(out.split("accuracy ")[1].split("%")[0])
    assert accuracy > 80
    session = onnxruntime.InferenceSession(str(zoo.path("maqd-fashion")))
    name = session.get_inputs()[0].name
    with np.load(results) as got:
        (scores,) = (got[k] for k in got.files)
    rows = [session.run(None, {name: image[None]})[0] for image in samples[name]]
    labels = np.concatenate(rows).argmax(axis=1)
    assert (scores.argmax(axis=1) == labels).mean() > 0.98
    assert cli("verify", "zoo:maqd-fashion", "--limit", "2")[0] == 0


def test_the_installed_script(tiny, tmp_path):
    assert TOOL.is_file()
    done = subprocess.run([TOOL, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"tvm-qnn {__version__}", "")
    command = [TOOL, "inspect", "missing.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: missing.onnx: ")
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_is_no_error(tiny):
    head = shutil.which("true")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"'{TOOL}' targets --json | '{head}'"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""


def test_help_is_short_and_quick_to_find(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for command in ("inspect", "compile", "run", "verify", "targets", "zoo", "demo", "train"):
        assert command in out


def test_python_in_the_checkout_finds_all_of_the_package():
    root = Path(__file__).resolve().parents[2]
    code = "import tvm_qnn.passes, tvm_qnn; print(tvm_qnn.inspect('zoo:maqd-fashion').macs)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 20_000_000
