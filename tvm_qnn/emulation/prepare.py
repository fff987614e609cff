"""Prepare the userland of an emulated 64-bit ARM board: ``tvm-qnn targets --prepare-emulation``.

It unpacks Python of the ``arm64`` port of this machine's own Debian release, and the AArch64 wheels
of numpy and apache-tvm-ffi, into a cache folder (or the folder given), and fetches the TVM runtime
for bundles. About 130 MB; no root, no chroot, and nothing of this system is changed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tvm_qnn.emulation.userland import missing, wanted
from tvm_qnn.errors import TargetError
from tvm_qnn.targets.device_library import runtime_library

_DEBIAN_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
_PLATFORMS = [f"manylinux{tag}_aarch64" for tag in ("2014", "_2_24", "_2_27", "_2_28")]


def prepare(folder: Path) -> None:
    """Make ``folder`` a complete userland, unless it is; concurrent callers wait for the first.

    Raises:
        TargetError: if this is no Debian system, or a download fails.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise TargetError(
                f"emulation needs {tool}, which Debian and its children have; "
                "run the bundle on the board instead"
            )
    try:
        _prepare(folder)
    except subprocess.CalledProcessError as error:
        raise TargetError(
            f"emulation cannot be prepared: {' '.join(error.cmd[:1])} failed with exit code "
            f"{error.returncode}; check the network and the space in {folder.parent}"
        ) from None


def _prepare(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runtime_library("aarch64")
        if missing(folder) is None:
            return
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            new = Path(scratch) / "new"
            _unpack_debian(new / "root", Path(scratch))
            _install_wheels(new / "root")
            (new / "ready.json").write_text(json.dumps(wanted()), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            new.rename(folder)


def _unpack_debian(root: Path, scratch: Path) -> None:
    """Download and unpack Debian packages with a package state that is apart from the system's."""
    state = scratch / "apt"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Debug::NoLocking": "1",
        "Dir::Cache": str(state),
        "Dir::Cache::archives": str(state / "archives"),
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::State::lists": str(state / "lists"),
        "Dir::State::status": str(state / "status"),
    }
    apt = ["apt-get", "-qq"] + [f"-o{key}={value}" for key, value in settings.items()]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "--yes", "--download-only", "install", *_DEBIAN_PACKAGES], check=True)
    root.mkdir(parents=True)
    for package in sorted((state / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    for name in ("doc", "man", "locale"):
        shutil.rmtree(root / "usr" / "share" / name, ignore_errors=True)


def _install_wheels(root: Path) -> None:
    python = next((root / "usr" / "bin").glob("python3.*")).name.removeprefix("python")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [f"--platform={platform}" for platform in _PLATFORMS]
    command += [f"--target={root / 'site'}", f"apache-tvm-ffi=={wanted()['apache-tvm-ffi']}"]
    # Constraints for this machine's packages do not apply to another architecture.
    environment = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
    subprocess.run([*command, "numpy>=1.26", "typing-extensions>=4.5"], check=True, env=environment)
