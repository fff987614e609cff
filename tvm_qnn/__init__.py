"""Exact integer compilation of low-bit neural networks with Apache TVM.

The calls that most programs need::

    artifact = tvm_qnn.compile("model.onnx", target="rpi4", output="model-rpi4")
    program = tvm_qnn.load("model-rpi4")
    table = tvm_qnn.inspect("model.onnx")
    tvm_qnn.tune("model.onnx", target="rpi4", database="tuned", device="estimate")

They are loaded on first use: ``import tvm_qnn`` needs no compiler, nor does ``tvm_qnn.runtime``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_qnn._version import __version__
from tvm_qnn.errors import QnnError

if TYPE_CHECKING:
    from tvm_qnn.compiler import Artifact, compile, inspect
    from tvm_qnn.runtime import Program, load
    from tvm_qnn.tuning import tune
    from tvm_qnn.verification import verify

__all__ = [
    "Artifact",
    "Program",
    "QnnError",
    "__version__",
    "compile",
    "inspect",
    "load",
    "tune",
    "verify",
]

# In a checkout, passes, schedules and targets lie beside this folder; installed, inside of it.
if not (Path(__file__).parent / "passes").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[1]))

_HOMES = {
    "Artifact": "compiler",
    "compile": "compiler",
    "inspect": "compiler",
    "Program": "runtime",
    "load": "runtime",
    "tune": "tuning",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"tvm_qnn.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tvm_qnn' has no attribute {name!r}")
