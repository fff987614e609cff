"""CIFAR-10 from its official binary version, or from PNG sheets of the same pixels. No downloads.

A batch is 10,000 records of 3,073 bytes: the label, then 1,024 red, green and blue bytes each. The
SHA-256 of these bytes is checked, whichever form they come in.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np

from tvm_qnn.errors import QnnError
from tvm_qnn.nn.data import DataError, Images

ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
ORIGIN = f"Alex Krizhevsky's page 'The CIFAR-10 dataset' ({ARCHIVE}, the binary version)"
CHECKSUMS = {
    "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
# The spelling is that of the files which go with the PNG sheets.
LABELS = ("train_lables.json", "test_lables.json")
IMAGES = 10_000
PIXELS = 32 * 32


def found_in(folder: Path) -> bool:
    """Tell whether a folder looks like CIFAR-10 in one of the forms that :func:`load` takes."""
    names = [ARCHIVE, FOLDER, *(f"{batch}{end}" for batch in CHECKSUMS for end in (".bin", ".png"))]
    return any((folder / name).exists() for name in names)


def load(folder: Path) -> Images:
    """Load CIFAR-10.

    Args:
        folder: Holds the official archive, its unpacked folder or ``.bin`` files, or the sheets
            ``data_batch_1.png`` ... ``test_batch.png`` (row r is image r) with the two label files.

    Returns:
        50,000 training and 10,000 test images ``[N, 3, 32, 32]``.

    Raises:
        DataError: A file is missing or damaged.
        QnnError: PNG sheets are given and Pillow is not installed.
    """
    records = []
    for batch, checksum in CHECKSUMS.items():
        source, blob = _read(folder, batch)
        digest = hashlib.sha256(blob).hexdigest()
        if digest != checksum:
            raise DataError(
                f"{source}: SHA-256 {digest[:16]}... of its records is not that of the official "
                f"{batch}; fetch it again from {ORIGIN}"
            )
        records.append(np.frombuffer(blob, np.uint8).reshape(IMAGES, 1 + 3 * PIXELS))
    train, test = np.concatenate(records[:-1]), records[-1]

    def images(rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, 32, 32)

    return Images("cifar-10", images(train), train[:, 0].copy(), images(test), test[:, 0].copy())


def _read(folder: Path, batch: str) -> tuple[Path, bytes]:
    """Return where a batch was found, and its records."""
    for path in (folder / f"{batch}.bin", folder / FOLDER / f"{batch}.bin"):
        if path.exists():
            return path, _bytes(path)
    if (folder / f"{batch}.png").exists():
        return folder / f"{batch}.png", _from_sheet(folder, batch)
    archive = folder / ARCHIVE
    if not archive.exists():
        raise DataError(f"{folder / batch}.bin: not there; --data needs the files of {ORIGIN}")
    try:
        with tarfile.open(archive) as packed:
            member = packed.extractfile(f"{FOLDER}/{batch}.bin")
            assert member is not None
            return archive, member.read()
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{archive}: cannot unpack {batch}.bin ({reason}); fetch it again from {ORIGIN}"
        ) from error


def _from_sheet(folder: Path, batch: str) -> bytes:
    """Return the records of a PNG sheet and its labels."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise QnnError("Pillow is missing; run: pip install 'tvm-qnn[torch]'") from error
    path = folder / f"{batch}.png"
    try:
        with Image.open(io.BytesIO(_bytes(path))) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        planes = pixels.reshape(IMAGES, PIXELS, 3).transpose(0, 2, 1).reshape(IMAGES, 3 * PIXELS)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a sheet of 10,000 images ({error})") from error
    path = folder / LABELS[batch == "test_batch"]
    first = 0 if batch == "test_batch" else IMAGES * (int(batch[-1]) - 1)
    try:
        labels = np.array(json.loads(_bytes(path))[first : first + IMAGES], np.uint8)
        return np.concatenate([labels[:, None], planes], axis=1).tobytes()
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise DataError(f"{path}: not a list of {IMAGES:,} labels a batch ({error})") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror}); needed: {ORIGIN}") from error
