"""Write compiled models to disk: a folder with ``lib.so``, ``manifest.json`` and their checksums.

A bundle carries the TVM runtime of the device, a program and its instructions as well, so that the
device needs neither tvm-qnn nor the compiler.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tvm_qnn import device_run
from tvm_qnn._version import __version__
from tvm_qnn.device_run import RUNTIME_LIBRARY
from tvm_qnn.errors import ArtifactError, TargetError
from tvm_qnn.gpu import toolkit
from tvm_qnn.gpu.kernels import Kernels
from tvm_qnn.gpu_run import KERNELS
from tvm_qnn.manifest import (
    FORMAT,
    LIBRARY,
    MANIFEST,
    Manifest,
    checksum,
    parse_manifest,
    read_manifest,
)
from tvm_qnn.targets import Target
from tvm_qnn.targets.device_library import runtime_library
from tvm_qnn.targets.instructions import required_flags
from tvm_qnn.targets.link import linker

__all__ = ["Manifest", "read_manifest", "write_artifact"]

_RUN, _README, _LICENSE = "run.py", "README.txt", "LICENSE.apache-tvm.txt"
_FILES = frozenset({LIBRARY, MANIFEST, RUNTIME_LIBRARY, _RUN, _README, _LICENSE, *KERNELS.values()})

_README_TEXT = """\
{model}, compiled for {target} ({cpu}, {arch}) by tvm-qnn {tvm_qnn} and apache-tvm {tvm}.

On the device, once (Python 3.10 or later):

    python3 -m venv ~/tvm-qnn && ~/tvm-qnn/bin/pip install apache-tvm-ffi=={ffi} numpy

Then, in this folder:

    ~/tvm-qnn/bin/python run.py in.npz out.npz

in.npz holds the inputs by name (numpy.savez), out.npz gets the outputs:

{tensors}

{runtime} is the runtime of Apache TVM, whose licence is in {license}.
"""


def write_artifact(
    executable: Any,
    manifest_fields: dict[str, Any],
    folder: str | Path,
    target: Target,
    bundle: bool = False,
    kernels: Kernels | None = None,
) -> Path:
    """Link an executable and write it as an artifact, whole or not at all.

    The same executable and fields give the same bytes. An artifact that is there is replaced.

    Args:
        executable: ``VMExecutable`` with the functions ``prepare`` and ``main``, built for
            ``target``.
        manifest_fields: ``model``, ``inputs``, ``outputs`` (records of ``name``, ``shape``,
            ``dtype``) and ``prepared`` (count); ``quantization``, ``kernels`` and ``sizes`` (bytes
            by name) as the compiler likes.
        folder: where to write; its parent must exist.
        target: the device.
        bundle: add what a device needs to run it without tvm-qnn.
        kernels: what a GPU runs; they are compiled where this machine can.

    Returns:
        ``folder``.

    Raises:
        ArtifactError: if the folder cannot be written, or holds something else.
        TargetError: if there is no linker for the target, or no TVM runtime for a bundle.
        ValueError: if the fields are incomplete.
    """
    manifest = _manifest(manifest_fields, target)
    check_output(folder)
    if target.gpu is not None and bundle:
        raise TargetError(
            f"target {target.name}: bundles are for boards; on the GPU machine "
            "pip install 'tvm-qnn[cuda]' and tvm-qnn run"
        )
    place = Path(os.path.realpath(folder))
    link = linker(target)
    runtime = runtime_library(target.arch) if bundle else None
    try:
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            executable.export_library(str(new / LIBRARY), fcompile=link)
            if kernels is not None:
                manifest["target"]["gpu"] = _write_kernels(new, kernels, target)
            if runtime is not None:
                _add_device_files(new, manifest, *runtime)
            _write_manifest(new, manifest)
            _swap(new, place, Path(scratch) / "old")
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error
    return Path(folder)


def check_output(folder: str | Path) -> None:
    """Refuse a folder that an artifact cannot be written to, before the work of building it.

    Raises:
        ArtifactError: its parent is missing or not writable, or it holds anything but an artifact.
    """
    place = Path(os.path.realpath(folder))
    if not place.parent.is_dir():
        raise _unwritable(folder, "No such directory")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise _unwritable(folder, "Permission denied")
    _check_replaceable(place)


def _unwritable(folder: str | Path, reason: str | None) -> ArtifactError:
    parent = Path(os.path.realpath(folder)).parent
    return ArtifactError(
        f"artifact {folder}: cannot be written ({reason}); "
        f"{parent} must exist, be writable and have space"
    )


def _write_kernels(folder: Path, kernels: Kernels, target: Target) -> dict[str, Any]:
    """Write the kernels of a GPU and return what the manifest says about them."""
    assert target.gpu is not None
    form = toolkit.form(target.gpu)
    (folder / KERNELS[form]).write_bytes(toolkit.compile_kernels(kernels.source, target.gpu))
    return {"arch": target.gpu.arch, "form": form, "functions": kernels.functions}


def _manifest(fields: dict[str, Any], target: Target) -> dict[str, Any]:
    known = {"model", "inputs", "outputs", "prepared", "quantization", "kernels", "sizes"}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"unknown manifest fields {unknown}")
    data: dict[str, Any] = {
        "format": FORMAT,
        "model": None,
        "versions": {
            "tvm-qnn": __version__,
            "apache-tvm": version("apache-tvm"),
            "apache-tvm-ffi": version("apache-tvm-ffi"),
        },
        "target": {
            "name": target.name,
            "triple": target.triple,
            "cpu": target.cpu,
            "arch": target.arch,
            "features": sorted(target.features),
            "flags": sorted(required_flags(target)),
        },
        "inputs": None,
        "outputs": None,
        "prepared": None,
        "quantization": [],
        "kernels": [],
        "sizes": {},
        **fields,
    }
    # What is written must be what can be read: numpy numbers and tuples become JSON here.
    plain: dict[str, Any] = json.loads(json.dumps(data, default=_plain))
    parse_manifest({**plain, "sha256": {LIBRARY: ""}})
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a manifest cannot hold {type(value).__name__}")


def _check_replaceable(place: Path) -> None:
    """Refuse to write over anything but an artifact or an empty folder."""
    if not place.exists():
        return
    if not place.is_dir():
        raise ArtifactError(f"artifact {place}: a file of that name exists; choose another name")
    found = {entry.name for entry in place.iterdir()}
    other = sorted(found - _FILES) or ([] if MANIFEST in found else sorted(found))
    if other:
        raise ArtifactError(
            f"artifact {place}: the folder holds other files ({other[0]}), which would be lost; "
            "choose another folder or move them"
        )


def _add_device_files(folder: Path, manifest: dict[str, Any], runtime: Path, license: Path) -> None:
    shutil.copyfile(runtime, folder / RUNTIME_LIBRARY)
    shutil.copyfile(license, folder / _LICENSE)
    shutil.copyfile(device_run.__file__, folder / _RUN)
    tensors = [
        f"    {kind} {item['name']}: {item['dtype']} {item['shape']}"
        for kind, key in (("input ", "inputs"), ("output", "outputs"))
        for item in manifest[key]
    ]
    text = _README_TEXT.format(
        model=manifest["model"],
        target=manifest["target"]["name"],
        cpu=manifest["target"]["cpu"],
        arch=manifest["target"]["arch"],
        tvm_qnn=manifest["versions"]["tvm-qnn"],
        tvm=manifest["versions"]["apache-tvm"],
        ffi=manifest["versions"]["apache-tvm-ffi"],
        tensors="\n".join(tensors),
        runtime=RUNTIME_LIBRARY,
        license=_LICENSE,
    )
    (folder / _README).write_text(text, encoding="utf-8")


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    files = sorted(folder.iterdir())
    sizes = {**manifest["sizes"], **{file.name: file.stat().st_size for file in files}}
    complete = {**manifest, "sizes": sizes, "sha256": {f.name: checksum(f) for f in files}}
    (folder / MANIFEST).write_text(json.dumps(complete, indent=1) + "\n", encoding="utf-8")


def _swap(new: Path, place: Path, old: Path) -> None:
    """Put ``new`` in its place; what was there goes to ``old``, or comes back on failure."""
    if not place.exists():
        new.rename(place)
        return
    place.rename(old)
    try:
        new.rename(place)
    except BaseException:
        old.rename(place)
        raise
