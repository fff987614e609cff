"""Labelled images; Fashion-MNIST and MNIST from their official IDX files. Never downloads."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_qnn.errors import QnnError

FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}
ORIGINS = {
    "fashion-mnist": "the repository zalandoresearch/fashion-mnist, folder data/fashion",
    "mnist": "Yann LeCun's page 'The MNIST database of handwritten digits'",
}
# Of the uncompressed files.
CHECKSUMS = {
    "fashion-mnist": {
        "train_images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train_labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "test_images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "test_labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "mnist": {
        "train_images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train_labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "test_images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "test_labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
}


class DataError(QnnError):
    """A data set is missing or damaged."""


@dataclass(frozen=True)
class Images:
    """A labelled set of images.

    Attributes:
        name: Name of the data set, such as "fashion-mnist".
        train_images: ``[N, C, H, W]`` uint8.
        train_labels: ``[N]`` uint8, class numbers.
        test_images: Like ``train_images``.
        test_labels: Like ``train_labels``.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load(folder: Path) -> Images:
    """Load Fashion-MNIST or MNIST, whichever set the four checksums name.

    Args:
        folder: Folder that holds the four official ``*-ubyte.gz`` files.

    Returns:
        60,000 training and 10,000 test images.

    Raises:
        DataError: A file is missing, differs from the official one, or belongs to the other set.
    """
    blobs = {key: _read(folder / name) for key, name in FILES.items()}
    digests = {key: _digest(blob) for key, blob in blobs.items()}
    matches = {
        name: [key for key in FILES if digests[key] == sums[key]]
        for name, sums in CHECKSUMS.items()
    }
    best = max(matches, key=lambda name: len(matches[name]))
    wrong = [key for key in FILES if key not in matches[best]]
    if wrong:
        raise DataError(
            f"{folder / FILES[wrong[0]]}: SHA-256 {digests[wrong[0]][:16]}... is not that of the "
            f"official {best if matches[best] else 'Fashion-MNIST or MNIST'} file; fetch it again "
            f"from {_origins(best if matches[best] else None)}"
        )
    arrays = {key: read_idx(blob, FILES[key]) for key, blob in blobs.items()}
    return Images(
        best,
        arrays["train_images"][:, None],
        arrays["train_labels"],
        arrays["test_images"][:, None],
        arrays["test_labels"],
    )


def read_idx(blob: bytes, name: str) -> np.ndarray:
    """Decode a gzip-compressed IDX file of unsigned bytes.

    Args:
        blob: The compressed file.
        name: What to call the file in an error.

    Returns:
        uint8 array with as many axes as the file says.

    Raises:
        DataError: The file is no gzip, no IDX of unsigned bytes, or has another length than its
            header says.
    """
    try:
        raw = gzip.decompress(blob)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: not a gzip file ({error}); fetch the official file") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{name}: not an IDX file of unsigned bytes; fetch the official file")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", raw[3], 4))
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise DataError(
            f"{name}: the header says {shape}, the file holds {values.size} values; "
            "fetch the official file"
        )
    return values.reshape(shape)


def _digest(blob: bytes) -> str:
    """SHA-256 of what a gzip file holds, since mirrors compress anew; a damaged one's as it is."""
    try:
        return hashlib.sha256(gzip.decompress(blob)).hexdigest()
    except (OSError, EOFError, zlib.error):
        return hashlib.sha256(blob).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot read ({error.strerror}); --data needs the folder with "
            f"{', '.join(FILES.values())} from {_origins(None)}"
        ) from error


def _origins(name: str | None) -> str:
    return ORIGINS[name] if name else " or ".join(ORIGINS.values())
