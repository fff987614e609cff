"""IDX files: official ones load, every kind of damage is one clear line."""

import gzip
import hashlib
import struct

import numpy as np
import pytest

from tvm_qnn.nn import data
from tvm_qnn.nn.data import DataError


def idx(array):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A complete small data set whose checksums pass for the official ones."""
    rng = np.random.default_rng(0)
    sums = {}
    for key, name in data.FILES.items():
        shape = (5, 28, 28) if "images" in key else (5,)
        blob = idx(rng.integers(0, 10, shape))
        (tmp_path / name).write_bytes(blob)
        sums[key] = hashlib.sha256(gzip.decompress(blob)).hexdigest()
    monkeypatch.setitem(data.CHECKSUMS, "mnist", sums)
    return tmp_path


def test_loads_the_set_that_the_checksums_name(folder):
    images = data.load(folder)
    assert images.name == "mnist"
    assert images.train_images.shape == images.test_images.shape == (5, 1, 28, 28)
    assert images.test_labels.dtype == np.uint8


def test_files_compressed_anew_are_official_too(folder):
    path = folder / data.FILES["train_images"]
    other = gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=7)
    assert other != path.read_bytes()
    path.write_bytes(other)
    assert data.load(folder).name == "mnist"


def test_missing_file_says_where_to_get_it(folder):
    (folder / data.FILES["test_labels"]).unlink()
    with pytest.raises(DataError, match=r"t10k-labels.*zalandoresearch/fashion-mnist") as caught:
        data.load(folder)
    assert "\n" not in str(caught.value)


def test_missing_folder_says_where_to_get_it(tmp_path):
    with pytest.raises(DataError, match="--data needs the folder"):
        data.load(tmp_path / "nowhere")


def test_damaged_file_is_named(folder):
    path = folder / data.FILES["train_images"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train-images.*official mnist file.*LeCun"):
        data.load(folder)


def test_foreign_files_are_named(folder):
    for name in data.FILES.values():
        (folder / name).write_bytes(idx(np.zeros(3)))
    with pytest.raises(DataError, match="official Fashion-MNIST or MNIST file"):
        data.load(folder)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 4)])
def test_idx_round_trip(shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    assert data.read_idx(idx(array), "x").tolist() == array.tolist()


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (b"no gzip", "not a gzip file"),
        (idx(np.zeros((4, 4)))[:20], "not a gzip file"),
        (gzip.compress(b"", mtime=0), "not an IDX file"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", mtime=0), "not an IDX file"),
        (gzip.compress(b"\0\0\x08\x03\0\0", mtime=0), "not an IDX file"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc", mtime=0), r"\(5,\), the file holds 3 values"),
    ],
)
def test_bad_idx_is_refused(blob, reason):
    with pytest.raises(DataError, match=reason):
        data.read_idx(blob, "x")
