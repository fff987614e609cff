"""The meaning of every quantized operator: types and readable numpy definitions, no tvm."""

from tvm_qnn.spec.convert import (
    ROUNDINGS,
    affine,
    dequantize,
    quantize,
    requantize,
    threshold,
    thresholds_of,
)
from tvm_qnn.spec.layers import (
    add,
    codebook_conv2d,
    conv2d,
    dense,
    max_pool2d,
    output_size,
    sum_pool2d,
)
from tvm_qnn.spec.pack import (
    pack_planes,
    pack_stream,
    packed_bytes,
    unpack_planes,
    unpack_stream,
)
from tvm_qnn.spec.qtype import Codes, QType

__all__ = [
    "ROUNDINGS",
    "Codes",
    "QType",
    "add",
    "affine",
    "codebook_conv2d",
    "conv2d",
    "dense",
    "dequantize",
    "max_pool2d",
    "output_size",
    "pack_planes",
    "pack_stream",
    "packed_bytes",
    "quantize",
    "requantize",
    "sum_pool2d",
    "threshold",
    "thresholds_of",
    "unpack_planes",
    "unpack_stream",
]
