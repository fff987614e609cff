"""Whatever is wrong with the input: one clear line, exit code 2, and nothing half-written."""

import json
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.conftest import model_of
from tests.networks.models import Graph


@pytest.fixture
def refuse(cli):
    """Run a command that must fail with one line that holds all of the given words."""

    def run(arguments, *words):
        code, out, err = cli(*arguments)
        assert code == 2, (code, out, err)
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in out + err
        for word in words:
            assert word in err, (word, err)
        return err

    return run


def quantized(change=None, opset=21, **values):
    """Return a small model with other parameters of its quantizer, or changed by a function."""
    g = Graph([1, 2, 4, 5])
    scale = g.const(np.float32(values.get("scale", 0.125)))
    zero = g.const(np.uint8(values.get("zero", 128)))
    codes = g.node("QuantizeLinear", ["x", scale, zero])
    x = g.node("DequantizeLinear", [codes, scale, zero])
    y = g.conv(x, g.weights([3, 2, 3, 3]))
    model = model_of(g, y)
    model.opset_import[0].version = opset
    if change is not None:
        change(model.graph)
    return model


def rename_operator(graph):
    graph.node[-1].op_type = "FancyConv"


def scale_from_outside(graph):
    graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, []))
    graph.node[0].input[1] = "s"


def wrong_channels(graph):
    weights = next(t for t in graph.initializer if t.name == graph.node[-2].input[0])
    weights.CopyFrom(numpy_helper.from_array(np.zeros([3, 5, 3, 3], np.int8), weights.name))
    del graph.value_info[:]


def dynamic_width(graph):
    graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    del graph.value_info[:]


def codes_outside(graph):
    """Weights from a codebook of three values, with an index 3."""
    index = np.full([3, 2, 3, 3], 3)
    table = np.array([-0.4, 0.1, 0.5], np.float32)
    graph.initializer.extend(
        [numpy_helper.from_array(index, "index"), numpy_helper.from_array(table, "table")]
    )
    graph.node[-2].CopyFrom(
        helper.make_node("Gather", ["table", "index"], graph.node[-2].output, name="codebook")
    )


MODELS = {
    "zero scale": (quantized(scale=0.0), "c1", "must be positive and finite, found 0.0"),
    "negative scale": (quantized(scale=-0.5), "c1", "positive and finite, found -0.5"),
    "NaN scale": (quantized(scale=np.nan), "c1", "positive and finite, found nan"),
    "infinite scale": (quantized(scale=np.inf), "c1", "positive and finite, found inf"),
    "scale not constant": (quantized(scale_from_outside), "'s'", "not a constant"),
    "unknown operator": (quantized(rename_operator), "FancyConv"),
    "old opset": (quantized(opset=5), "opset 5"),
    "future opset": (quantized(opset=9999), "9999"),
    "shapes that do not fit": (quantized(wrong_channels), "channels"),
    "dynamic shape": (quantized(dynamic_width), "width"),
    "codes outside of their range": (quantized(codes_outside), "codebook", "3"),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("command", ["inspect", "compile"])
def test_models_that_cannot_be_compiled(refuse, tmp_path, case, command):
    model, *words = MODELS[case]
    path, folder = tmp_path / "bad.onnx", tmp_path / "artifact"
    path.write_bytes(model.SerializeToString())
    options = ["-o", folder] if command == "compile" else []
    refuse([command, path, *options], "bad.onnx", *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.onnx"]


@pytest.mark.parametrize("command", ["inspect", "run", "verify"])
def test_files_that_are_no_models(refuse, tiny, tmp_path, command):
    whole = tiny.path.read_bytes()
    contents = {
        "empty.onnx": b"",
        "text.onnx": b"this is no model at all\n" * 20,
        "truncated.onnx": whole[: len(whole) // 2],
        "picture.onnx": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        refuse([command, tmp_path / name], name)
    refuse([command, tmp_path / "missing.onnx"], "missing.onnx", "no such file")
    refuse([command, "zoo:nothing"], "zoo:nothing", "maqd-fashion")


def test_a_folder_is_no_model(refuse, tmp_path):
    refuse(["inspect", tmp_path], str(tmp_path))
    refuse(["run", tmp_path], str(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "toaster"], ["toaster", "rpi4"]),
        (["--lowering", "magic"], ["magic", "bitserial"]),
        (["--batch", "0"], ["batch", "0"]),
        (["--batch", "-3"], ["batch", "-3"]),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "run", "verify"])
def test_options_that_make_no_sense(refuse, tiny, command, options, words):
    refuse([command, tiny.path, *options], *words)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "x.onnx", "--repeat", "0"],
        ["run", "x.onnx", "--threads", "0"],
        ["run", "x.onnx", "--repeat", "many"],
        ["verify", "x.onnx", "--limit", "0"],
        ["compile", "x.onnx"],
        ["inspect"],
        ["inspect", "x.onnx", "--no-such-option"],
        ["nonsense"],
    ],
)
def test_wrong_usage_prints_usage(cli, arguments):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err
    assert "Traceback" not in err


@pytest.fixture
def artifact(cli, tiny, tmp_path):
    folder = tmp_path / "artifact"
    assert cli("compile", tiny.path, "-o", folder, "--lowering", "reference")[0] == 0
    return folder


def test_inputs_that_do_not_fit(refuse, artifact, tiny, tmp_path):
    x, file = tiny.value, tmp_path / "in.npz"
    results = tmp_path / "out.npz"
    for arrays, *words in (
        ({"y": x}, "'x' is missing", "'y'", "float32 [1, 2, 4, 5]"),
        ({"x": x.astype(np.float64)}, "'x'", "float64", "float32"),
        ({"x": x.astype(np.uint8)}, "'x'", "uint8", "float32"),
        ({"x": x.astype(">f4")}, "'x'", ">f4", "float32"),
        ({"x": x[:, :, :3]}, "'x'", "[1, 2, 3, 5]", "[1, 2, 4, 5]"),
        ({"x": x[0]}, "'x'", "[2, 4, 5]", "[1, 2, 4, 5]"),
        ({"x": x[:0]}, "'x'", "[0, 2, 4, 5]"),
        ({"x": np.float32(3)}, "'x'", "[]"),
        ({"x": x, "labels": np.int64(1)}, "'labels'", "[]"),
        ({"x": x, "labels": np.zeros([1, 1], int)}, "'labels'", "[1, 1]"),
        ({"x": x, "labels": np.zeros(2, int)}, "'labels'", "[2]"),
    ):
        np.savez(file, **arrays)
        refuse(["run", artifact, "-i", file, "-o", tmp_path / "no.npz"], *words)
    refuse(["verify", tiny.path, "-i", tmp_path / "none.npz"], "none.npz", "no such file")
    refuse(["run", artifact, "-i", tiny.inputs, "-o", tmp_path / "no" / "o.npz"], "o.npz")
    assert not results.exists()


def test_files_that_hold_no_arrays(refuse, artifact, tiny, tmp_path):
    whole, file = tiny.inputs.read_bytes(), tmp_path / "in.npz"
    rng = np.random.default_rng(0)
    contents = [b"", b"PK\x03\x04", whole[:-30], whole[:200], b"\x93NUMPY\x01\x00", b"text\n" * 30]
    for _ in range(40):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] ^= 1 << int(rng.integers(8))
        contents.append(bytes(damaged))
    from tvm_qnn.arrays import read_npz
    from tvm_qnn.errors import InputError

    refused = 0
    for content in contents:
        file.write_bytes(content)
        try:
            read_npz(file)
        except InputError:
            refused += 1
    assert refused >= 6
    np.savez(file, x=np.array([{"a": 1}], object))
    refuse(["run", artifact, "-i", file], "in.npz", "not a readable .npz file")
    refuse(["run", artifact, "-i", tmp_path], str(tmp_path))


def test_expectations_that_do_not_fit(refuse, tiny, tmp_path):
    file = tmp_path / "expected.npz"
    common = ["verify", tiny.path, "--lowering", "reference", "--expect", file, "-i", tiny.inputs]
    np.savez(file, other=tiny.expected)
    refuse(common, "expected.npz", tiny.output, "other")
    np.savez(file, **{tiny.output: tiny.expected[:1]})
    refuse(common, "expected.npz", tiny.output, "[1, 3, 4, 5]", "[3, 3, 4, 5]")
    refuse(["verify", tiny.path, "--expect", file], "--input")


def change_manifest(folder, **changes):
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    for key, value in changes.items():
        data[key] = value if not isinstance(value, dict) else {**data[key], **value}
    path.write_text(json.dumps(data))


def test_damaged_artifacts(refuse, artifact):
    library, manifest = artifact / "lib.so", artifact / "manifest.json"
    good, text = library.read_bytes(), manifest.read_text()
    library.write_bytes(good[: len(good) // 2])
    refuse(["run", artifact], str(artifact), "lib.so")
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    library.write_bytes(flipped)
    refuse(["run", artifact], str(artifact), "lib.so")
    library.unlink()
    refuse(["run", artifact], str(artifact), "lib.so")
    library.write_bytes(good)
    manifest.write_text(text[: len(text) // 2])
    refuse(["run", artifact], str(artifact), "manifest.json")
    manifest.unlink()
    refuse(["run", artifact], str(artifact), "manifest.json")


def test_artifacts_of_other_versions_and_machines(refuse, artifact):
    text = (artifact / "manifest.json").read_text()
    change_manifest(artifact, versions={"apache-tvm": "0.1"})
    refuse(["run", artifact], str(artifact), "0.1")
    (artifact / "manifest.json").write_text(text)
    change_manifest(artifact, format=999)
    refuse(["run", artifact], str(artifact), "999")


def test_an_artifact_for_a_board_does_not_run_here(cli, refuse, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "board"
    code, _, err = cli("compile", tiny.path, "-o", folder, "--target", "rpi4")
    if code and re.search("linker|ziglang", err):
        pytest.skip(err)
    assert code == 0
    refuse(["run", folder], str(folder), "aarch64")
    monkeypatch.setenv("PATH", "")
    refuse(["verify", tiny.path, "--target", "rpi4"], "rpi4", "qemu")


def test_output_folders_that_cannot_be_written(refuse, tiny, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("mine")
    refuse(["compile", tiny.path, "-o", blocker], str(blocker))
    refuse(["compile", tiny.path, "-o", blocker / "below"], str(blocker))
    refuse(["compile", tiny.path, "-o", "/proc/nowhere/a"], "/proc/nowhere")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    refuse(["compile", tiny.path, "-o", mine], str(mine))
    assert blocker.read_text() == "mine"
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine"]


def test_messages_name_the_file_and_survive_markup(refuse, tmp_path):
    path = tmp_path / "my[bold]model[red].onnx"
    refuse(["inspect", path], "my[bold]model[red].onnx")
    model = quantized()
    model.graph.node[-1].name = "conv[/red]"
    model.graph.node[-1].op_type = "Nope"
    onnx.save(model, path)
    refuse(["inspect", path], "conv[/red]", "Nope")
