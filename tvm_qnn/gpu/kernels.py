"""The CUDA kernels of a program: their source and how host code launches them.

TVM hands every module of kernels to the global function ``target.build.cuda``. Here it is replaced
while a program is built, so that the kernels can be compiled, stored and emulated on machines that
have neither a GPU nor its driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tvm_ffi

from tvm_qnn._tvm import tvm

_BUILD = "target.build.cuda"


@dataclass
class Kernels:
    """Kernels in CUDA C++.

    Attributes:
        source: as TVM generates it.
        functions: for each kernel the dtypes of its arguments, and what host code passes after
            them: extents of the grid and the block, bytes of dynamic shared memory.
    """

    source: str = ""
    functions: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)


@contextmanager
def captured(make: Callable[[Kernels], Any] | None = None) -> Iterator[Kernels]:
    """Take the kernels out of the programs that are built meanwhile.

    Args:
        make: from the kernels of a module to the runtime module that host code finds them in; None
            leaves the program without kernels.

    Yields:
        all kernels that were built.
    """
    build = tvm_ffi.get_global_func(_BUILD)
    found = Kernels()

    def take(mod: Any, target: Any) -> Any:
        kernels = Kernels(build(mod, target).inspect_source("cuda"), _functions(mod))
        found.source += kernels.source
        found.functions |= kernels.functions
        return None if make is None else make(kernels)

    tvm_ffi.register_global_func(_BUILD, take, override=True)
    try:
        # Copies to shared memory that schedules overlap with work are those of cp.async.
        with tvm.transform.PassContext(config={"tirx.use_async_copy": True}):
            yield found
    finally:
        tvm_ffi.register_global_func(_BUILD, build, override=True)


def _functions(mod: Any) -> dict[str, tuple[list[str], list[str]]]:
    return {
        str(func.attrs["global_symbol"]): (
            [_argument(param) for param in func.params],
            [str(tag) for tag in func.attrs["tirx.kernel_launch_params"]],
        )
        for func in mod.functions.values()
    }


def _argument(param: Any) -> str:
    """Return the dtype of an argument; pointers are handles."""
    dtype = getattr(param.ty, "dtype", None)
    return "handle" if dtype is None or "handle" in str(dtype) else str(dtype)
