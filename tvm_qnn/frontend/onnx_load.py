"""Reading ONNX files and tensors, with every way in which they can be damaged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, external_data_helper, numpy_helper

from tvm_qnn.errors import ModelError
from tvm_qnn.frontend.record import MAX_ELEMENTS, Refused, plain, quoted, reason_of
from tvm_qnn.spec import Codes


def _by_name(**kinds: Any) -> dict[int, Any]:
    # Older releases of onnx lack the narrowest types.
    return {
        getattr(TensorProto, name): value
        for name, value in kinds.items()
        if hasattr(TensorProto, name)
    }


CODES: dict[int, Codes] = _by_name(
    UINT2=Codes(0, 3),
    INT2=Codes(-2, 1),
    UINT4=Codes(0, 15),
    INT4=Codes(-8, 7),
    UINT8=Codes(0, 255),
    INT8=Codes(-128, 127),
    UINT16=Codes(0, 65535),
    INT16=Codes(-32768, 32767),
    INT32=Codes(-(2**31), 2**31 - 1),
)
"""Element types that quantized tensors may have, and the codes that they hold."""

STORAGE: dict[int, str] = {
    **{kind: codes.dtype for kind, codes in CODES.items()},
    **_by_name(FLOAT="float32", INT64="int64", BOOL="bool"),
}
"""Dtype in the module of every supported element type."""


def type_name(kind: int) -> str:
    """Return the ONNX name of an element type, such as "uint4"."""
    known = kind in TensorProto.DataType.values()
    return TensorProto.DataType.Name(kind).lower() if known else f"element type {kind}"


def read(path: Path) -> ModelProto:
    """Read an ONNX file; external data stays on disk until its tensors are read.

    Raises:
        ModelError: The file is missing, unreadable, empty, or not an ONNX model.
    """
    shown = plain(path)
    try:
        if path.is_dir():
            raise ModelError(f"{shown}: is a directory; give the path of an .onnx file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{shown}: no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{shown}: cannot be read ({plain(reason)})") from None
    if not data:
        raise ModelError(f"{shown}: the file is empty; copy or export the model again")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(
            f"{shown}: is not an ONNX model, or is truncated; copy or export the model again"
        ) from None
    if not (model.HasField("graph") or model.opset_import):
        raise ModelError(f"{shown}: is not an ONNX model (it holds no graph)")
    return model


def array_of(tensor: TensorProto, folder: Path | None) -> NDArray[np.generic]:
    """Return the values of a tensor, codes of 2 and 4 bits widened to int8 or uint8.

    Args:
        tensor: Initializer or attribute.
        folder: Where its external data may lie; None for a model that did not come from a file.

    Raises:
        Refused: The tensor is damaged, its data is missing, or its type is not supported.
    """
    dims = list(tensor.dims)
    kind = tensor.data_type
    if kind not in STORAGE:
        advice = "; convert the model to float32" if "float" in type_name(kind) else ""
        raise Refused(f"holds {type_name(kind)} values, which are not supported{advice}")
    if any(d < 0 for d in dims) or math.prod(dims) > MAX_ELEMENTS:
        raise Refused(f"shape {plain(dims)}: dimensions must be positive, at most 2**31-1 elements")
    if tensor.HasField("segment"):
        raise Refused("is stored in segments, which are not supported")
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor = _with_external_data(tensor, folder)
    _check_stored(tensor, math.prod(dims))
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:
        # to_array raises many types for damaged tensors, each of which means the same to a user.
        raise Refused(f"damaged tensor ({reason_of(error)})") from None
    if list(array.shape) != dims:
        raise Refused(f"damaged tensor (shape {list(array.shape)}, {dims} declared)")
    return np.ascontiguousarray(array.astype(STORAGE[kind])).reshape(dims)


def _check_stored(tensor: TensorProto, count: int) -> None:
    """Refuse a tensor whose data is not as long as its shape, or holds codes out of range."""
    kind = tensor.data_type
    bits = {"bool": 8}.get(STORAGE[kind]) or np.dtype(STORAGE[kind]).itemsize * 8
    if kind in CODES and CODES[kind].bits < 8:
        bits = CODES[kind].bits
    if tensor.HasField("raw_data"):
        need, found = (count * bits + 7) // 8, len(tensor.raw_data)
        unit = "bytes"
    else:
        fields = {"float32": tensor.float_data, "int64": tensor.int64_data}
        values = fields.get(STORAGE[kind], tensor.int32_data)
        need, found = (count if bits >= 8 else (count * bits + 7) // 8), len(values)
        unit = "values"
        if kind in CODES and bits >= 8 and found and not CODES[kind].contains(values):
            raise Refused(f"holds codes outside of {CODES[kind]}, the range of {type_name(kind)}")
    if need != found:
        raise Refused(f"damaged tensor ({found} {unit} where its shape needs {need})")


def _with_external_data(tensor: TensorProto, folder: Path | None) -> TensorProto:
    """Return a copy of ``tensor`` with its external data read."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise Refused(
            f"its data lies in the external file {quoted(location)}; give the path of the model "
            "file, or load it with onnx.load"
        )
    try:
        offset, length = (int(entries.get(key) or 0) for key in ("offset", "length"))
        base = folder.resolve()
        path = (base / location).resolve()
        inside = location and path.is_relative_to(base)
        size = path.stat().st_size if inside and path.is_file() else -1
    except (ValueError, OSError) as error:
        raise Refused(f"external data {quoted(location)}: {plain(error)}") from None
    if not inside:
        raise Refused(f"external data {quoted(location)} lies outside of the folder of the model")
    if size < 0:
        raise Refused(f"external data file {quoted(location)} is missing next to the model")
    if offset < 0 or length < 0 or offset + length > size:
        raise Refused(f"external data file {quoted(location)} is truncated ({size} bytes)")
    loaded = TensorProto()
    loaded.CopyFrom(tensor)
    try:
        external_data_helper.load_external_data_for_tensor(loaded, str(base))
    except Exception as error:
        # The helper checks links and paths once more, and raises its own types.
        raise Refused(f"external data {quoted(location)}: {reason_of(error)}") from None
    loaded.data_location = TensorProto.DEFAULT
    return loaded
