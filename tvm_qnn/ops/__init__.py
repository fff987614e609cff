"""The quantized Relax operators (``qnn.*``)."""

from tvm_qnn.ops import build, fixed
from tvm_qnn.ops.dialect import (
    OPERATORS,
    attrs_of,
    code_attrs,
    codes_of,
    is_op,
    make,
    shape_of,
)

__all__ = [
    "OPERATORS",
    "attrs_of",
    "build",
    "code_attrs",
    "codes_of",
    "fixed",
    "is_op",
    "make",
    "shape_of",
]
