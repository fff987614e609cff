"""The one place that imports from tvm what tvm renames between versions."""

from __future__ import annotations

import inspect
import linecache
import sys
import types

import tvm
import tvm.relax.script.parser.entry
import tvm.script.parser.ir.entry
import tvm.tirx.script.parser.entry
from tvm import relax, s_tir, te, tirx
from tvm.ir.transform import PassContext
from tvm.target import Target

__all__ = [
    "PassContext",
    "Target",
    "relax",
    "s_tir",
    "te",
    "tirx",
    "tvm",
]


def _light_stack(context: int = 1) -> list[inspect.FrameInfo]:
    """Do what ``inspect.stack`` does, with source lines for the nearest frames only."""
    frame = sys._getframe(1)
    found: list[inspect.FrameInfo] = []
    while frame is not None:
        code = frame.f_code
        near = len(found) < 4
        lines = [linecache.getline(code.co_filename, frame.f_lineno)] if near else None
        found.append(
            inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, lines, 0)
        )
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _speed_up_decorators() -> None:
    """Make TVMScript decorators cheap.

    Each ``@T.prim_func`` calls ``inspect.stack()``, which looks through all loaded modules for each
    frame: importing ``tvm.s_tir.tensor_intrin`` takes 17 s so, and 2 s with the stack above.
    """
    shim = types.ModuleType("inspect")
    shim.__dict__.update(vars(inspect))
    shim.__dict__["stack"] = _light_stack
    for module in (
        tvm.tirx.script.parser.entry,
        tvm.script.parser.ir.entry,
        tvm.relax.script.parser.entry,
    ):
        module.inspect = shim


_speed_up_decorators()
