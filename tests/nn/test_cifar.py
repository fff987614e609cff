"""CIFAR-10: the same images from every form, every kind of damage one clear line."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tvm_qnn.nn import cifar, datasets
from tvm_qnn.nn.data import DataError

Image = pytest.importorskip("PIL.Image", reason="needs tvm-qnn[torch]")
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cifar10"


@pytest.fixture
def records(monkeypatch):
    """Small batches whose checksums pass for the official ones."""
    monkeypatch.setattr(cifar, "IMAGES", 4)
    rng = np.random.default_rng(0)
    made = {batch: rng.integers(0, 10, (4, 3073)).astype(np.uint8) for batch in cifar.CHECKSUMS}
    sums = {batch: hashlib.sha256(rows.tobytes()).hexdigest() for batch, rows in made.items()}
    monkeypatch.setattr(cifar, "CHECKSUMS", sums)
    return made


def write_binary(folder, records):
    folder.mkdir(exist_ok=True)
    for batch, rows in records.items():
        (folder / f"{batch}.bin").write_bytes(rows.tobytes())


def write_sheets(folder, records):
    for batch, rows in records.items():
        pixels = rows[:, 1:].reshape(4, 3, 1024).transpose(0, 2, 1)
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{batch}.png")
    labels = [
        int(v) for batch, rows in records.items() if batch != "test_batch" for v in rows[:, 0]
    ]
    (folder / cifar.LABELS[0]).write_text(json.dumps(labels))
    (folder / cifar.LABELS[1]).write_text(json.dumps(records["test_batch"][:, 0].tolist()))


def write_archive(folder, records):
    with tarfile.open(folder / cifar.ARCHIVE, "w:gz") as packed:
        for batch, rows in records.items():
            member = tarfile.TarInfo(f"{cifar.FOLDER}/{batch}.bin")
            member.size = rows.nbytes
            packed.addfile(member, io.BytesIO(rows.tobytes()))


@pytest.mark.parametrize("form", ["binary", "unpacked", "sheets", "archive"])
def test_every_form_gives_the_same_images(records, tmp_path, form):
    match form:
        case "binary":
            write_binary(tmp_path, records)
        case "unpacked":
            write_binary(tmp_path / cifar.FOLDER, records)
        case "sheets":
            write_sheets(tmp_path, records)
        case "archive":
            write_archive(tmp_path, records)
    images = datasets.load(tmp_path)
    assert images.name == "cifar-10"
    assert images.train_images.shape == (20, 3, 32, 32)
    assert images.train_labels[4:8].tolist() == records["data_batch_2"][:, 0].tolist()
    expected = records["test_batch"][2, 1:].reshape(3, 32, 32)
    assert images.test_images[2].tolist() == expected.tolist()


def test_missing_batch_says_where_to_get_it(records, tmp_path):
    write_binary(tmp_path, records)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_4.bin: not there.*Krizhevsky") as caught:
        datasets.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test_batch.bin", b"abc", "is not that of the official test_batch"),
        ("data_batch_1.png", b"no image", "not a sheet"),
        (cifar.LABELS[0], b"{}", "not a list of"),
        (cifar.LABELS[1], b"[1, 2, 300, 4]", "not a list of"),
        (cifar.ARCHIVE, b"no archive", "cannot unpack data_batch_1.bin"),
    ],
)
def test_damage_is_named(records, tmp_path, file, content, message):
    writer = {"bin": write_binary, "gz": write_archive}.get(file.rsplit(".")[-1], write_sheets)
    writer(tmp_path, records)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        datasets.load(tmp_path)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_archive_without_a_batch(records, tmp_path):
    write_archive(tmp_path, {"data_batch_1": records["data_batch_1"]})
    with pytest.raises(DataError, match=r"cannot unpack data_batch_2\.bin"):
        datasets.load(tmp_path)


@pytest.mark.skipif(not SHARED.exists(), reason="the CIFAR-10 files are not beside the project")
def test_official_images():
    images = datasets.load(SHARED)
    assert np.bincount(images.train_labels).tolist() == [5000] * 10
    assert images.train_labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert images.train_images[0, :, 0, 0].tolist() == [59, 62, 63]
    # The published mean of the red channel.
    assert abs(images.train_images[:, 0].mean() / 255 - 0.49139968) < 1e-8
