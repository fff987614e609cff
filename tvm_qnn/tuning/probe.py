"""Read files of a board over RPC, with a kernel: a round trip that proves the whole chain works.

TVM's server offers no way to read ``/proc``, whose files tell no size. A kernel may call ``open``
and ``read``, though.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tvm import rpc

from tvm_qnn._tvm import tirx, tvm
from tvm_qnn.schedules import ir
from tvm_qnn.targets.link import linker
from tvm_qnn.targets.record import Target

_MOST = 1 << 16
_PATH = 256
_SESSION = 30


def probe_func() -> Any:
    """Return the kernel ``(path uint8 [256], text uint8 [65536], length int32 [1])``."""
    with ir.function("read_file") as finished:
        path = ir.argument("path", (_PATH,), "uint8")
        text = ir.argument("text", (_MOST,), "uint8")
        length = ir.argument("length", (1,), "int32")
        descriptor = ir.alloc((1,), "int32")
        with ir.stage("open", (1,)) as (_,):
            ir.accesses([ir.whole(path)], [ir.whole(descriptor)])
            ir.store(descriptor, tirx.call_extern("int32", "open", path.data, 0), 0)
        with ir.stage("read", (1,)) as (_,):
            ir.accesses([ir.whole(descriptor)], [ir.whole(text), ir.whole(length)])
            size = tirx.const(_MOST, "int64")
            got = tirx.call_extern("int64", "read", descriptor[0], text.data, size)
            ir.store(length, ir.cast(got, "int32"), 0)
        with ir.stage("close", (1,)) as (_,):
            ir.accesses([ir.whole(descriptor)], [ir.whole(descriptor)])
            ir.store(descriptor, tirx.call_extern("int32", "close", descriptor[0]), 0)
    return finished()


def build_probe(target: Target, path: Path) -> Path:
    """Compile the kernel for a target to a shared library."""
    module = tvm.IRModule({"read_file": probe_func()})
    tvm.compile(module, target.tvm()).export_library(str(path), fcompile=linker(target))
    return path


def read_board(path: str, host: str, port: int, key: str, names: Sequence[str]) -> dict[str, str]:
    """Read files of a board with the kernel at ``path``; "" for those that are not there."""
    session = rpc.connect_tracker(host, port).request(key, session_timeout=_SESSION)
    session.upload(path)
    read = reader(session.load_module(Path(path).name), session.cpu(0))
    return {name: read(name) for name in names}


def reader(module: Any, device: Any) -> Callable[[str], str]:
    """Return a function that reads a text file of the machine; "" where there is none."""

    def read(name: str) -> str:
        path = np.zeros(_PATH, np.uint8)
        path[: len(name)] = np.frombuffer(name.encode(), np.uint8)
        tensors = [tvm.runtime.tensor(a, device) for a in (path, np.zeros(_MOST, np.uint8))]
        length = tvm.runtime.tensor(np.zeros(1, np.int32), device)
        module["read_file"](*tensors, length)
        size = max(0, int(length.numpy()[0]))
        text: bytes = tensors[1].numpy()[:size].tobytes()
        return text.decode(errors="replace").strip()

    return read
