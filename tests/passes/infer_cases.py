"""Running infer_quantization on a module of a few bindings."""

import numpy as np

from tests.passes.relax_modules import UINT8, call_of, module, outputs
from tvm_qnn.ops import attrs_of, codes_of
from tvm_qnn.passes.infer_quantization import infer_quantization
from tvm_qnn.passes.rewrite import constant
from tvm_qnn.spec import QType

SHAPE = [1, 2, 3, 4]
HALVES = QType(UINT8, (0.5,), (10,))


def run(body, shape=SHAPE, dtype="float32"):
    before = module(shape, body, dtype)
    return before, infer_quantization(before)


def values(count=24, shape=SHAPE):
    return (np.arange(count, dtype=np.float32).reshape(shape) - count // 2) * 0.375


def unchanged(before, after, x=None):
    for a, b in zip(outputs(before, x), outputs(after, x), strict=True):
        assert a.dtype == b.dtype
        assert (a == b).all()


def type_of(mod):
    """Return codes, scale and zero point of the only dequantize."""
    call = call_of(mod, "qnn.dequantize")
    scale, zero = (constant(a).reshape(-1).tolist() for a in call.args[1:])
    return codes_of(attrs_of(call)), scale, zero
