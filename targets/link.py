"""Turn the object files of a compiled model into a shared library for a target."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm_qnn.device_run import machine_arch
from tvm_qnn.errors import TargetError
from tvm_qnn.targets.record import Target

_COMPILERS = ("cc", "gcc", "clang", "g++", "clang++")

# No build id and no symbol table: the same objects make the same bytes.
_DRIVER_FLAGS = ("-shared", "-fPIC", "-s", "-Wl,--build-id=none", "-Wl,-z,noexecstack")
_LINKER_FLAGS = ("-shared", "-s", "--build-id=none", "-z", "noexecstack")
# A Raspberry Pi 5 runs a kernel with pages of 16 KiB, other boards 64 KiB; one file serves all.
_PAGE_FLAGS = {"aarch64": ("-z", "max-page-size=65536"), "x86_64": ()}

_BINUTILS = {"aarch64": "binutils-aarch64-linux-gnu", "x86_64": "binutils-x86-64-linux-gnu"}


@dataclass(frozen=True)
class Linker:
    """The ``fcompile`` of ``export_library``: links objects into a stripped shared library.

    The objects need no C library to link against: what they do not define themselves (the TVM
    runtime, ``expf``) is in the process that loads them.

    Attributes:
        command: program and flags; ``-o output objects...`` follow.
        triple: LLVM triple of the objects.
    """

    command: tuple[str, ...]
    triple: str
    output_format: ClassVar[str] = "so"

    def get_target_triple(self) -> str:
        """Return the triple for which TVM packs the constants of the executable."""
        return self.triple

    def __call__(self, output: str, objects: Sequence[str], **_options: Any) -> None:
        """Link ``objects`` to ``output``.

        Raises:
            TargetError: if the linker fails.
        """
        command = [*self.command, "-o", output, *objects]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise TargetError(f"linking for {self.triple} with {self.command[0]} failed: {said}")


def linker(target: Target) -> Linker:
    """Return the linker for ``target``: the system's compiler or binutils, else that of ziglang.

    Raises:
        TargetError: if none is installed.
    """
    arch = target.arch
    if arch == machine_arch():
        found = [path for name in _COMPILERS if (path := shutil.which(name))]
        if found:
            return Linker((found[0], *_DRIVER_FLAGS), target.triple)
    flags = (*_LINKER_FLAGS, *_PAGE_FLAGS.get(arch, ()))
    if importlib.util.find_spec("ziglang") is not None:
        return Linker((sys.executable, "-m", "ziglang", "ld.lld", *flags), target.triple)
    gnu = shutil.which(f"{arch}-linux-gnu-ld") or shutil.which("ld.lld")
    if gnu:
        return Linker((gnu, *flags), target.triple)
    package = "gcc" if arch == machine_arch() else _BINUTILS.get(arch, "lld")
    raise TargetError(
        f"target {target.name}: no linker for {target.triple}; "
        f"pip install 'tvm-qnn[cross]' or apt-get install {package}"
    )
