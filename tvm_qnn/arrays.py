"""Arrays by name: .npz files, and cutting long ones into the batches of a model."""

from __future__ import annotations

import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.errors import InputError

Array = NDArray[Any]
# What numpy and zipfile raise for damaged files: RuntimeError for encrypted ones, for example.
_DAMAGED = (
    OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError, RuntimeError, MemoryError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape and dtype of an input or an output.

    Attributes:
        name: as in the model file.
        shape: fixed sizes, outermost first.
        dtype: name of the numpy dtype; 4-bit and 2-bit codes are stored as uint8 or int8.
        bounds: lowest and highest integer that means something to the model (words of a dictionary,
            codes of a format), where that is less than the whole dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bounds: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.name!r} {self.dtype} {list(self.shape)}"


def read_npz(path: str | Path) -> dict[str, Array]:
    """Read the arrays of a .npz file (or one .npy array under the name ``input``).

    Raises:
        InputError: if the file is missing or damaged.
    """
    path = Path(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"input": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; write one with numpy.savez(path, name=array)")  # noqa: B904
    except _DAMAGED as error:
        raise InputError(f"{path}: not a readable .npz file ({error})") from None


def write_npz(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to a .npz file, whole or not at all.

    Raises:
        InputError: if the file cannot be written.
    """
    path = Path(path)
    try:
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                _save(file, arrays)
            os.chmod(scratch, 0o644)
            os.replace(scratch, path)
        except BaseException:
            os.unlink(scratch)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def _save(file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """Do what ``numpy.savez`` does, for arrays that are called ``file`` too."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def joined(parts: Sequence[Array]) -> Array:
    """Undo :func:`batches` for one output: join along the first axis, scalars to a vector."""
    return np.concatenate(parts) if parts[0].ndim else np.stack(parts)


def accuracy(scores: Array, labels: Array) -> float:
    """Return the share of rows [N, classes] whose largest score is at the label.

    Raises:
        InputError: if there is not one label for each row.
    """
    if np.ndim(labels) != 1 or len(scores) != len(labels):
        raise InputError(
            f"'labels' of shape {list(np.shape(labels))} for {len(scores)} outputs: give one label "
            "for each, or leave the array out"
        )
    return float((scores.reshape(len(scores), -1).argmax(axis=1) == labels).mean())


def random_arrays(infos: Sequence[TensorInfo], seed: int = 0) -> dict[str, Array]:
    """Return standard normal float32 arrays, and integers of their bounds or whole range."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for info in infos:
        if info.dtype == "float32":
            arrays[info.name] = rng.standard_normal(info.shape).astype(np.float32)
        else:
            ends = np.iinfo(info.dtype)
            low, high = info.bounds or (ends.min, ends.max)
            arrays[info.name] = rng.integers(low, high, info.shape, dtype=info.dtype, endpoint=True)
    return arrays


def batches(infos: Sequence[TensorInfo], arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Cut arrays along the first axis into inputs of exactly the shapes of a model.

    Args:
        infos: the inputs of the model.
        arrays: by name; each holds the same whole number of batches. Other names are ignored.

    Raises:
        InputError: naming the input that is missing or does not fit.
    """
    counts = set()
    for info in infos:
        if info.name not in arrays:
            raise InputError(
                f"input {info.name!r} is missing: found {sorted(arrays)}; "
                f"the model takes {info.dtype} {list(info.shape)}"
            )
        array = arrays[info.name]
        rows = info.shape[0] if info.shape else 1
        if str(array.dtype) != info.dtype:
            raise InputError(
                f"input {info.name!r}: dtype {array.dtype}, {info.dtype} is needed; convert it"
            )
        fits = array.ndim == len(info.shape) and array.shape[1:] == tuple(info.shape[1:])
        if not fits or (array.ndim and (array.shape[0] % rows or not array.shape[0])):
            raise InputError(
                f"input {info.name!r}: shape {list(array.shape)}, {list(info.shape)} or a multiple "
                "of its first dimension is needed"
            )
        if info.bounds is not None:
            _check_bounds(info, array)
        counts.add(array.shape[0] // rows if array.ndim else 1)
    if len(counts) > 1:
        raise InputError(f"the inputs hold different numbers of batches: {sorted(counts)}")
    for i in range(counts.pop() if counts else 1):
        yield {
            info.name: np.ascontiguousarray(
                arrays[info.name][i * info.shape[0] : (i + 1) * info.shape[0]]
                if info.shape
                else arrays[info.name]
            )
            for info in infos
        }


def _check_bounds(info: TensorInfo, array: Array) -> None:
    assert info.bounds is not None
    low, high = info.bounds
    wrong = array[(array < low) | (array > high)]
    if wrong.size:
        raise InputError(
            f"input {info.name!r}: {wrong.flat[0]} lies outside of {low}..{high}, what the model "
            "gives a meaning to; use its own dictionary or format"
        )
