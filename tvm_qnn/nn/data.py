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
CHECKSUMS = {
    "fashion-mnist": {
        "train_images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train_labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "test_images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "test_labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    "mnist": {
        "train_images": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train_labels": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "test_images": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "test_labels": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
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
    digests = {key: hashlib.sha256(blob).hexdigest() for key, blob in blobs.items()}
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
