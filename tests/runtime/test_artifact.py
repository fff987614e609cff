import json
import os
import shutil

import numpy as np
import pytest

import tvm_qnn
from tests.small_models import DENSE_FIELDS
from tvm_qnn import targets
from tvm_qnn.artifact import read_manifest, write_artifact
from tvm_qnn.errors import ArtifactError
from tvm_qnn.manifest import TensorInfo


def edit(folder, change):
    file = folder / "manifest.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def refuse(folder, *words):
    with pytest.raises(ArtifactError) as caught:
        read_manifest(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_what_was_written_is_read(artifact):
    manifest = read_manifest(artifact)
    assert manifest.model == "dense"
    assert manifest.inputs == (TensorInfo("x", (3, 64), "int8"),)
    assert manifest.outputs == (TensorInfo("y/0:out", (3, 3), "int32"),)
    assert manifest.prepared == 1
    assert manifest.quantization == [{"operator": "dense", "bits": 1}]
    assert manifest.kernels == [{"name": "qdense_w1a8_reference"}]
    assert manifest.target["name"] == "host"
    assert manifest.target["features"] == sorted(targets.host().features)
    assert set(manifest.versions) == {"tvm-qnn", "apache-tvm", "apache-tvm-ffi"}
    assert manifest.sizes == {"weights": 24, "lib.so": (artifact / "lib.so").stat().st_size}
    assert sorted(os.listdir(artifact)) == ["lib.so", "manifest.json"]


def test_writing_twice_gives_the_same_bytes(host_dense, artifact, tmp_path):
    again = write_artifact(host_dense, DENSE_FIELDS, tmp_path / "again", targets.host())
    for name in ("lib.so", "manifest.json"):
        assert (again / name).read_bytes() == (artifact / name).read_bytes()


def test_the_folder_obeys_the_umask(host_dense, tmp_path):
    before = os.umask(0o027)
    try:
        folder = write_artifact(host_dense, DENSE_FIELDS, tmp_path / "a", targets.host())
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    "lost", ["model", "inputs", "outputs", "prepared", "quantization", "sha256", "target", "sizes"]
)
def test_a_missing_entry_is_named(artifact, lost):
    edit(artifact, lambda data: data.pop(lost))
    refuse(artifact, lost, "compile")


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("inputs", [], "inputs"),
        ("inputs", [{"name": "x", "shape": [-1], "dtype": "int8"}], "shape"),
        ("inputs", [{"name": "x", "shape": [True], "dtype": "int8"}], "shape"),
        ("inputs", [{"name": "x", "shape": 3, "dtype": "int8"}], "shape"),
        ("inputs", [{"name": "x", "shape": [3], "dtype": "object"}], "object"),
        ("inputs", [{"name": "", "shape": [3], "dtype": "int8"}], "name"),
        ("inputs", [{"shape": [3], "dtype": "int8"}], "name"),
        ("inputs", [{"name": "x", "shape": [3], "dtype": "int8"}] * 2, "same name"),
        ("inputs", [{"name": "x", "shape": [3], "dtype": "int8", "bounds": [3]}], "no interval"),
        ("inputs", [{"name": "x", "shape": [3], "dtype": "int8", "bounds": [2, 1]}], "interval"),
        ("inputs", [{"name": "x", "shape": [3], "dtype": "int8", "bounds": [0, 1.5]}], "interval"),
        ("outputs", ["y"], "record"),
        ("prepared", -1, "prepared"),
        ("prepared", "1", "prepared"),
        ("kernels", {}, "kernels"),
        ("target", "rpi4", "target"),
        ("versions", {}, "apache-tvm"),
        ("sha256", {}, "lib.so"),
        ("sha256", {"lib.so": "", "../secret": ""}, "other folders"),
    ],
)
def test_a_wrong_entry_is_named(artifact, key, value, word):
    edit(artifact, lambda data: data.update({key: value}))
    refuse(artifact, word)


@pytest.mark.parametrize("found", [0, 2, "1", True, None])
def test_another_format_version_is_refused(artifact, found):
    edit(artifact, lambda data: data.update(format=found))
    refuse(artifact, "format version", "compile the model again")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe\x00", b'{"format": 1}'])
def test_a_damaged_manifest_is_refused(artifact, content):
    (artifact / "manifest.json").write_bytes(content)
    refuse(artifact)


def test_every_truncation_of_the_manifest_is_refused(artifact):
    whole = (artifact / "manifest.json").read_bytes()
    for length in range(0, len(whole) - 2, 97):
        (artifact / "manifest.json").write_bytes(whole[:length])
        refuse(artifact, "manifest.json", "compile")


@pytest.mark.parametrize("change", ["flip", "truncate", "append", "remove"])
def test_a_changed_library_is_refused(artifact, change):
    library = artifact / "lib.so"
    data = bytearray(library.read_bytes())
    if change == "flip":
        data[len(data) // 2] ^= 1
    elif change == "truncate":
        data = data[:-1]
    elif change == "append":
        data += b"\0"
    library.unlink()
    if change != "remove":
        library.write_bytes(data)
    refuse(artifact, "lib.so", "copy")


def test_no_folder_a_file_and_an_empty_folder_are_refused(tmp_path):
    refuse(tmp_path / "none", "no such folder")
    refuse(tmp_path, "no manifest.json")
    file = tmp_path / "model.onnx"
    file.touch()
    refuse(file, "a file")


def test_an_artifact_is_replaced_also_a_damaged_one(host_dense, artifact):
    (artifact / "manifest.json").write_text("{")
    (artifact / "lib.so").unlink()
    write_artifact(host_dense, {**DENSE_FIELDS, "model": "new"}, artifact, targets.host())
    assert read_manifest(artifact).model == "new"
    assert os.listdir(artifact.parent) == [artifact.name]


def test_an_empty_folder_is_filled_and_a_link_followed(host_dense, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_artifact(host_dense, DENSE_FIELDS, tmp_path / "link", targets.host())
    assert (tmp_path / "link").is_symlink()
    assert read_manifest(tmp_path / "real").model == "dense"


@pytest.mark.parametrize(
    "names", [["notes.txt"], ["lib.so"], ["manifest.json", "lib.so", "in.npz"]]
)
def test_other_files_are_never_lost(host_dense, tmp_path, names):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)
    with pytest.raises(ArtifactError, match="other files"):
        write_artifact(host_dense, DENSE_FIELDS, folder, targets.host())
    assert {f.name: f.read_text() for f in folder.iterdir()} == {name: name for name in names}
    assert os.listdir(tmp_path) == ["mine"]


def test_a_file_in_the_way_is_refused(host_dense, tmp_path):
    file = tmp_path / "model.q"
    file.write_text("mine")
    with pytest.raises(ArtifactError, match="another name"):
        write_artifact(host_dense, DENSE_FIELDS, file, targets.host())
    assert file.read_text() == "mine"


@pytest.mark.parametrize("parent", ["missing", "file", "/proc"])
def test_where_nothing_can_be_written_is_one_line(host_dense, tmp_path, parent):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be written") as caught:
        write_artifact(host_dense, DENSE_FIELDS, tmp_path / parent / "model.q", targets.host())
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def test_the_folder_is_refused_before_the_model_is_read(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be written"):
        tvm_qnn.compile(tmp_path / "missing.onnx", output=tmp_path / "missing" / "model.q")


def test_a_failing_export_leaves_the_old_artifact(artifact):
    class Broken:
        def export_library(self, file, fcompile):
            shutil.copyfile("/dev/null", file)
            raise RuntimeError("no code")

    before = {f.name: f.read_bytes() for f in artifact.iterdir()}
    with pytest.raises(RuntimeError, match="no code"):
        write_artifact(Broken(), DENSE_FIELDS, artifact, targets.host())
    assert {f.name: f.read_bytes() for f in artifact.iterdir()} == before
    assert os.listdir(artifact.parent) == [artifact.name]


@pytest.mark.parametrize(
    "change",
    [{"prepared": None}, {"inputs": []}, {"colour": "red"}, {"kernels": [{"a": object()}]}],
)
def test_the_compiler_cannot_write_what_cannot_be_read(host_dense, tmp_path, change):
    with pytest.raises((ValueError, TypeError)):
        write_artifact(host_dense, {**DENSE_FIELDS, **change}, tmp_path / "a", targets.host())
    assert os.listdir(tmp_path) == []


def test_numpy_values_in_records_are_plain_after_reading(host_dense, tmp_path):
    records = [{"scale": np.float32(0.5), "zero": np.arange(3, dtype=np.uint8)}]
    fields = {**DENSE_FIELDS, "quantization": records}
    folder = write_artifact(host_dense, fields, tmp_path / "a", targets.host())
    assert read_manifest(folder).quantization == [{"scale": 0.5, "zero": [0, 1, 2]}]
