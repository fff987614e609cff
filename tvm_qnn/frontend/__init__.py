"""Importers: an ONNX file, a Relax module or a ``torch.export`` program becomes a Relax module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvm_qnn._tvm import tvm
from tvm_qnn.errors import ModelError
from tvm_qnn.frontend.record import Imported, TensorInfo

__all__ = ["Imported", "TensorInfo", "import_model"]


def import_model(model: Any, *, batch: int | None = None) -> Imported:
    """Import a trained network.

    Args:
        model: Path of an ONNX file, ``onnx.ModelProto``, Relax ``IRModule`` or
            ``torch.export.ExportedProgram``.
        batch: Batch size for ONNX inputs whose first dimension is symbolic.

    Returns:
        The network in its own terms: float operators, ``qnn.quantize``, ``qnn.dequantize`` and
        ``qnn.lookup``; see :class:`Imported`.

    Raises:
        ModelError: The model is missing, damaged or invalid.
        UnsupportedError: The model is valid but cannot be imported; lists everything in the way.
    """
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ModelError(f"batch size {batch!r}: must be a positive integer")
    if isinstance(model, tvm.IRModule):
        from tvm_qnn.frontend.relax import import_relax

        return import_relax(model)
    kind = type(model)
    if kind.__name__ == "ExportedProgram" and kind.__module__.split(".")[0] == "torch":
        from tvm_qnn.frontend.torch import import_torch

        return import_torch(model)
    from onnx import ModelProto

    from tvm_qnn.frontend.onnx_import import import_onnx
    from tvm_qnn.frontend.onnx_load import read

    if isinstance(model, str | Path):
        path = Path(model)
        return import_onnx(read(path), name=path.name, folder=path.parent, batch=batch)
    if isinstance(model, ModelProto):
        return import_onnx(model, name=model.graph.name or "model", folder=None, batch=batch)
    raise ModelError(
        f"cannot import an object of type {kind.__module__}.{kind.__qualname__}: give the path of "
        "an ONNX file, an onnx.ModelProto, a Relax IRModule or a torch.export.ExportedProgram"
    )
