"""What an artifact says about itself: ``manifest.json``, read with full checks.

An artifact is a folder with ``lib.so``, ``manifest.json`` and, in a bundle, what a device needs to
run it. The Relax VM executable in ``lib.so`` holds two functions: ``prepare()`` returns a tuple of
tensors, the weights unpacked from the dense bit streams that are its constants; ``main(*inputs,
*prepared)`` returns one tensor or a tuple.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_qnn.arrays import TensorInfo
from tvm_qnn.errors import ArtifactError

FORMAT = 1
LIBRARY = "lib.so"
MANIFEST = "manifest.json"

_INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES = _INTEGERS | {"bool", "float16", "float32", "float64"}


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says about an artifact.

    Attributes:
        model: name of the model.
        versions: of ``tvm-qnn``, ``apache-tvm`` and ``apache-tvm-ffi`` that made it.
        target: ``name``, ``triple``, ``cpu``, ``arch``, ``features`` (for kernels) and ``flags``
            (instruction sets by their names in /proc/cpuinfo) of the device.
        inputs: what ``main`` takes.
        outputs: what ``main`` returns.
        prepared: number of tensors that ``prepare`` returns.
        quantization: one record for each operator, as the compiler gave it.
        kernels: one record for each kernel, as the compiler gave it.
        sizes: in bytes, of the files and of what else the compiler counted.
        sha256: checksums of all files but the manifest.
    """

    model: str
    versions: dict[str, str]
    target: dict[str, Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    prepared: int
    quantization: list[dict[str, Any]]
    kernels: list[dict[str, Any]]
    sizes: dict[str, int]
    sha256: dict[str, str]


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check the manifest of an artifact and the checksums of its files.

    Raises:
        ArtifactError: if the folder or a file is missing or damaged, or of another format version.
    """
    folder = Path(folder)
    data = _read_json(folder)
    try:
        manifest = parse_manifest(data)
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(
            f"artifact {folder}: {MANIFEST} is not valid ({what}); compile the model again"
        ) from None
    for name, expected in manifest.sha256.items():
        _check_file(folder, name, expected)
    return manifest


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_json(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        problem = "it is a file, not a folder" if folder.exists() else "there is no such folder"
        raise ArtifactError(f"artifact {folder}: {problem}; give the folder that compile wrote")
    file = folder / MANIFEST
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"artifact {folder}: it has no {MANIFEST}; give the folder that compile wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"artifact {folder}: {MANIFEST} cannot be read ({error}); compile or copy it again"
        ) from None
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT or isinstance(found, bool):
        raise ArtifactError(
            f"artifact {folder}: format version {found!r} where this tvm-qnn reads {FORMAT}; "
            "compile the model again with this version"
        )
    return dict(data)


def _check_file(folder: Path, name: str, expected: str) -> None:
    try:
        found = checksum(folder / name)
    except OSError as error:
        raise ArtifactError(
            f"artifact {folder}: {name} cannot be read ({error.strerror}); copy all of its files"
        ) from None
    if found != expected:
        raise ArtifactError(
            f"artifact {folder}: {name} is damaged or was changed (its SHA-256 is not that of the "
            "manifest); compile or copy it again"
        )


def parse_manifest(data: dict[str, Any]) -> Manifest:
    """Check the contents of a manifest.

    Raises:
        KeyError: if an entry is missing.
        TypeError: if one is of the wrong kind.
        ValueError: if one is wrong.
    """
    target = _mapping(data, "target")
    for key in ("name", "triple", "cpu", "arch"):
        _expect(isinstance(target[key], str), f"target.{key} is no text")
    for key in ("features", "flags"):
        _expect(_all(target[key], lambda v: isinstance(v, str)), f"target.{key} is no list")
    versions, sizes, sha256 = (_mapping(data, key) for key in ("versions", "sizes", "sha256"))
    _expect("apache-tvm" in versions, "versions lacks apache-tvm")
    _expect(LIBRARY in sha256, f"sha256 lacks {LIBRARY}")
    _expect(all(Path(n).name == n for n in sha256), "sha256 names files in other folders")
    for records in ("quantization", "kernels"):
        _expect(_all(data[records], lambda v: isinstance(v, dict)), f"{records} is no list")
    _expect(isinstance(data["model"], str), "model is no text")
    _expect(_is_size(data["prepared"]), "prepared is no count")
    _expect(all(_is_size(size) for size in sizes.values()), "sizes are no counts")
    return Manifest(
        model=data["model"],
        versions={name: str(version) for name, version in versions.items()},
        target=target,
        inputs=_tensors(data, "inputs"),
        outputs=_tensors(data, "outputs"),
        prepared=data["prepared"],
        quantization=data["quantization"],
        kernels=data["kernels"],
        sizes=sizes,
        sha256=sha256,
    )


def _tensors(data: dict[str, Any], key: str) -> tuple[TensorInfo, ...]:
    _expect(isinstance(data[key], list) and len(data[key]) > 0, f"{key} is no list of tensors")
    infos = [_tensor_info(item) for item in data[key]]
    _expect(len({info.name for info in infos}) == len(infos), f"two {key} have the same name")
    return tuple(infos)


def _tensor_info(item: Any) -> TensorInfo:
    _expect(isinstance(item, dict), "a tensor is no record")
    name, shape, dtype = item["name"], item["shape"], str(item["dtype"])
    _expect(isinstance(name, str) and name != "", "a tensor has no name")
    _expect(_all(shape, _is_size), f"the shape of {name!r} is no list of sizes")
    _expect(dtype in DTYPES, f"{name!r} has dtype {dtype}, none of {sorted(DTYPES)}")
    bounds = item.get("bounds")
    _expect(bounds is None or _is_interval(bounds), f"the bounds of {name!r} are no interval")
    bounds = None if bounds is None else (int(bounds[0]), int(bounds[1]))
    return TensorInfo(name, tuple(int(size) for size in shape), dtype, bounds)


def _mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    _expect(isinstance(data[key], dict), f"{key} is no record")
    return dict(data[key])


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _all(values: Any, check: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and all(check(value) for value in values)


def _is_interval(value: Any) -> bool:
    whole = _all(value, lambda v: isinstance(v, int) and not isinstance(v, bool))
    return whole and len(value) == 2 and value[0] <= value[1]


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
