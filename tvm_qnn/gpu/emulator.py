"""Run programs for CUDA on this machine: exact integers, meaningless times.

The CUDA source of every module of kernels is compiled by g++ with ``emulator.h``, and the result
takes the place of the binary for the GPU. Everything around the kernels (launches, memory, the
virtual machine) is what a GPU machine runs, with the CPU as the device.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm_ffi

from tvm_qnn._tvm import tvm
from tvm_qnn.gpu.kernels import Kernels, captured
from tvm_qnn.gpu.source import rewrite, waits
from tvm_qnn.targets.record import Target

_CPU = 1
_HERE = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O1", "-w", "-fPIC", "-fsanitize=alignment,bounds")
_TAGS = {f"{kind}.{axis}": (kind, axis) for kind in ("blockIdx", "threadIdx") for axis in "xyz"}


def missing() -> str | None:
    """Return what lacks to emulate a GPU, None if nothing."""
    return None if shutil.which("g++") else "g++ is not installed (Debian: g++)"


def on_cpu(target: Target) -> Any:
    """Return the ``tvm.target.Target`` of a GPU whose tensors lie in the memory of the CPU."""
    return tvm.target.Target({**target.tvm().export(), "target_device_type": _CPU})


@contextmanager
def emulated(target: Target) -> Iterator[Any]:
    """Build kernels for a GPU as code for this machine.

    Yields:
        the ``tvm.target.Target`` to build for, whose tensors lie in the memory of the CPU.
    """
    assert target.gpu is not None
    shared = target.gpu.shared_bytes
    device = on_cpu(target)
    with captured(lambda kernels: compile_kernels(kernels, shared)), device:
        yield device


def compile_kernels(kernels: Kernels, most_shared: int) -> Any:
    """Compile CUDA source for this machine.

    Args:
        kernels: as TVM generates them.
        most_shared: bytes of shared memory that a block may use.

    Returns:
        a TVM module with the kernels as functions of (arguments, launch parameters).

    Raises:
        RuntimeError: if g++ does not take it.
        UnknownInstructionError: for inline PTX that is not emulated.
    """
    wait = waits(kernels.source)
    code = "\n".join(
        [
            '#include "emulator.h"',
            rewrite(kernels.source),
            *(
                _wrapper(name, len(arguments), parameters, wait, most_shared)
                for name, (arguments, parameters) in kernels.functions.items()
            ),
        ]
    )
    folder = Path(tempfile.mkdtemp(prefix="tvm-qnn-gpu-"))
    try:
        unit, compiled, library = (folder / f"kernels.{end}" for end in ("cpp", "o", "so"))
        unit.write_text(code, encoding="utf-8")
        paths = [_HERE, *map(Path, tvm_ffi.libinfo.include_paths())]
        include = [part for path in paths for part in ("-I", str(path))]
        _run(["g++", *_FLAGS, *include, "-c", str(unit), "-o", str(compiled)])
        # Without -fsanitize: the checks call functions of emulator.h.
        _run(["g++", "-shared", "-o", str(library), str(compiled)])
        return tvm.runtime.load_module(str(library))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the emulated kernels do not compile:\n{done.stderr[:3000]}")


def _wrapper(name: str, count: int, parameters: list[str], wait: bool, most_shared: int) -> str:
    """Return the function that host code calls to launch a kernel of ``count`` arguments."""
    given = ", ".join(f"emu::Argument{{args[{i}]}}" for i in range(count))
    lines = [
        f'extern "C" int __tvm_ffi_{name}(void*, const TVMFFIAny* args, int, TVMFFIAny* result) {{',
        "  emu::Dim grid, size; emu::block.dynamic_bytes = 0;",
    ]
    for place, tag in enumerate(parameters, count):
        to = "emu::block.dynamic_bytes"
        if tag in _TAGS:
            kind, axis = _TAGS[tag]
            to = f"{'grid' if kind == 'blockIdx' else 'size'}.{axis}"
        lines.append(f"  {to} = args[{place}].v_int64;")
    lines += [
        f"  const char* error = emu::launch(grid, size, {int(wait)}, {most_shared}, "
        f"[&] {{ {name}({given}); }});",
        "  result->type_index = kTVMFFINone; result->v_int64 = 0;",
        "  if (!error) return 0;",
        f'  std::string message = std::string("{name}: ") + error;',
        '  TVMFFIErrorSetRaisedFromCStr("RuntimeError", message.c_str());',
        "  return -1;",
        "}",
    ]
    return "\n".join(lines)
