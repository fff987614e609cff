"""Compile PrimFuncs to a static AArch64 program and run it under qemu-user."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import tvm
from tvm_qnn.targets.record import Target

DRIVER = Path(__file__).with_name("driver.c")
EXITS = {
    2: "a kernel rejected its arguments",
    3: "a kernel wrote beyond a tensor",
    4: "bad call file",
    -4: "illegal instruction",
    -11: "segmentation fault: a kernel went far beyond a tensor",
}


class EmulationError(RuntimeError):
    """An emulated program did not end well.

    Attributes:
        code: exit status, or minus the signal that ended the program (-4: illegal instruction).
    """

    def __init__(self, code: int, output: str) -> None:
        self.code = code
        super().__init__(f"{EXITS.get(code, f'exit status {code}')}: {output.strip()[-500:]}")


@dataclass(frozen=True)
class Call:
    """A call of one function of a program; the last argument is written."""

    function: str
    arguments: tuple[NDArray[Any], ...]


def linker() -> list[str] | None:
    """Return a command that links static AArch64 programs: gcc, else zig; None without either."""
    if shutil.which("aarch64-linux-gnu-gcc"):
        return ["aarch64-linux-gnu-gcc"]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    return None


def qemu() -> str | None:
    """Return the qemu-user program, None where it is not installed."""
    return shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def missing() -> str | None:
    """Return what this machine lacks to run AArch64 programs, None if nothing."""
    if qemu() is None:
        return "qemu-aarch64 is not installed (Debian: qemu-user)"
    if linker() is None:
        return "no AArch64 linker (pip: ziglang; Debian: gcc-aarch64-linux-gnu)"
    return None


def compile_object(functions: dict[str, Any], target: Target, path: Path) -> Path:
    """Compile PrimFuncs, named by the keys, into one object file at ``path``."""
    module = tvm.IRModule(
        {name: func.with_attr("global_symbol", name) for name, func in functions.items()}
    )
    tvm.compile(module, target.tvm()).mod.write_to_file(str(path))
    return path


def assembly(func: Any, target: Target) -> str:
    """Return the assembly of one PrimFunc."""
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return str(tvm.compile(module, target.tvm()).mod.inspect_source("asm"))


def link(objects: Sequence[Path], functions: Sequence[str], program: Path) -> Path:
    """Link object files and the driver into a static program that can call ``functions``."""
    command = linker()
    if command is None:
        raise RuntimeError(missing())
    declared = "".join(f"int __tvm_ffi_{name}(void);\n" for name in functions)
    rows = ", ".join(f"__tvm_ffi_{name}" for name in functions)
    table = program.with_suffix(".table.c")
    table.write_text(f"{declared}int (*const kernel_table[])(void) = {{{rows}}};\n")
    subprocess.run(
        [*command, "-static", "-O1", "-w", "-o", str(program), str(DRIVER), str(table)]
        + [str(o) for o in objects]
        + ["-lm"],
        check=True,
    )
    return program


def run(
    program: Path,
    functions: Sequence[str],
    calls: Sequence[Call],
    cpu: str,
    flags: Sequence[str] = (),
) -> list[NDArray[Any]]:
    """Run calls one after another and return the last argument of each.

    A numpy array that occurs in several calls is one tensor: what one call writes, the next reads.

    Args:
        program: made by :func:`link` with the same ``functions``.
        functions: names in the order of the program's table.
        calls: what to run.
        cpu: ``-cpu`` of qemu-user.
        flags: further flags of qemu-user.

    Raises:
        EmulationError: if the program ends with an error or by a signal.
    """
    tensors: dict[int, NDArray[Any]] = {}
    for call in calls:
        tensors.update((id(a), a) for a in call.arguments)
    place = {key: i for i, key in enumerate(tensors)}
    parts = [struct.pack("<q", len(tensors)), *(_describe(a) for a in tensors.values())]
    parts.append(struct.pack("<q", len(calls)))
    for call in calls:
        row = [functions.index(call.function), len(call.arguments)]
        row += [place[id(a)] for a in call.arguments]
        parts.append(struct.pack(f"<{len(row)}q", *row))
    request, reply = program.with_suffix(".calls"), program.with_suffix(".results")
    request.write_bytes(b"".join(parts))
    done = subprocess.run(
        [str(qemu()), "-cpu", cpu, *flags, str(program), str(request), str(reply)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise EmulationError(done.returncode, done.stderr)
    data, offset, results = reply.read_bytes(), 0, []
    for call in calls:
        like = call.arguments[-1]
        results.append(np.frombuffer(data, like.dtype, like.size, offset).reshape(like.shape))
        offset += like.nbytes
    return results


def _describe(array: NDArray[Any]) -> bytes:
    """Return the record of one tensor that the driver reads."""
    code = {"i": 0, "u": 1, "f": 2, "b": 6}[array.dtype.kind]
    head = [code, array.dtype.itemsize * 8, array.ndim, *array.shape, array.nbytes]
    return struct.pack(f"<{len(head)}q", *head) + np.ascontiguousarray(array).tobytes()
