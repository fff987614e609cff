"""The TVM runtime library of a device, for bundles."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tvm_qnn.device_run import RUNTIME_LIBRARY, installed_runtime, machine_arch
from tvm_qnn.errors import TargetError


def cache_folder() -> Path:
    """Return where downloads are kept: ``$XDG_CACHE_HOME/tvm-qnn``, by default in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tvm-qnn"


def runtime_library(arch: str) -> tuple[Path, Path]:
    """Return ``libtvm_runtime.so`` for ``arch`` and its licence, of the installed TVM version.

    Those of this machine's architecture come from the installed apache-tvm, others from the wheel
    for that architecture (about 100 MB), downloaded once.

    Raises:
        TargetError: if the download fails.
    """
    local = installed_runtime()
    if arch == machine_arch() and local is not None:
        return local, local.parents[1] / "LICENSE"
    version = importlib.metadata.version("apache-tvm")
    folder = cache_folder() / f"apache-tvm-{version}-{arch}"
    if not folder.is_dir():
        _download(version, arch, folder)
    return folder / RUNTIME_LIBRARY, folder / "LICENSE"


def _download(version: str, arch: str, folder: Path) -> None:
    """Fill ``folder`` from the wheel for ``arch``; it appears complete or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as scratch:
            wheel = _wheel(version, arch, Path(scratch))
            unpacked = Path(scratch) / "unpacked"
            unpacked.mkdir()
            with zipfile.ZipFile(wheel) as archive:
                for name in (f"tvm/lib/{RUNTIME_LIBRARY}", "tvm/LICENSE"):
                    with (
                        archive.open(name) as source,
                        open(unpacked / Path(name).name, "wb") as copy,
                    ):
                        shutil.copyfileobj(source, copy)
            if not folder.is_dir():
                unpacked.rename(folder)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise TargetError(
            f"the TVM runtime for {arch} cannot be kept in {folder}: {error}"
        ) from error


def _wheel(version: str, arch: str, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--platform", f"manylinux_2_28_{arch}"]
    command += ["--dest", str(scratch), f"apache-tvm=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["no wheel"]
        raise TargetError(
            f"the TVM runtime for {arch} cannot be downloaded ({lines[0].strip()}): connect to the "
            f"package index, or compile without a bundle and copy {RUNTIME_LIBRARY} of "
            f"apache-tvm=={version} for {arch} next to lib.so"
        )
    return wheels[0]
