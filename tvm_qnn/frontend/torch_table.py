"""Which ATen operators are imported, and how."""

from __future__ import annotations

from tvm_qnn._tvm import relax
from tvm_qnn.frontend import torch_ops as ops
from tvm_qnn.frontend import torch_quant as quant

ALIASES = {
    "_assert_tensor_metadata.default", "alias.default", "clone.default", "contiguous.default",
    "detach.default", "detach_.default", "lift_fresh_copy.default",
}  # fmt: skip
"""Operators that change nothing."""

_OP, _NN = relax.op, relax.op.nn

CONVERTERS = {
    **{f"{k}.{t}": ops.binary(op) for t in ("Tensor", "Scalar", "Tensor_mode") for k, op in {
        "add": _OP.add, "sub": _OP.subtract, "mul": _OP.multiply, "div": _OP.divide,
    }.items()},
    **{f"{k}.{t}": ops.comparison(op) for t in ("Tensor", "Scalar") for k, op in {
        "eq": _OP.equal, "ne": _OP.not_equal, "gt": _OP.greater, "ge": _OP.greater_equal,
        "lt": _OP.less, "le": _OP.less_equal,
    }.items()},
    **{f"{k}.default": ops.binary(op) for k, op in {
        "maximum": _OP.maximum, "minimum": _OP.minimum,
    }.items()},
    **{f"{k}.default": ops.unary(op) for k, op in {
        "abs": _OP.abs, "ceil": _OP.ceil, "exp": _OP.exp, "floor": _OP.floor, "log": _OP.log,
        "neg": _OP.negative, "relu": _NN.relu, "rsqrt": _OP.rsqrt, "sigmoid": _OP.sigmoid,
        "sign": _OP.sign, "silu": _NN.silu, "sqrt": _OP.sqrt, "square": _OP.square,
        "tanh": _OP.tanh, "trunc": _OP.trunc,
    }.items()},
    **dict.fromkeys(
        ("clamp.default", "clamp_max.default", "clamp_min.default", "hardtanh.default"), ops.clamp
    ),
    **dict.fromkeys(
        ("conv1d.default", "conv1d.padding", "conv2d.default", "conv2d.padding", "conv3d.default",
         "conv3d.padding", "convolution.default"), ops.conv,
    ),
    **dict.fromkeys(
        ("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default", "max_pool1d.default",
         "max_pool2d.default", "max_pool3d.default", "max_pool2d_with_indices.default"), ops.pool,
    ),
    **dict.fromkeys(
        ("_unsafe_view.default", "flatten.using_ints", "reshape.default", "squeeze.default",
         "squeeze.dim", "squeeze.dims", "unflatten.int", "unsqueeze.default", "view.default"),
        ops.reshape,
    ),
    **dict.fromkeys(("permute.default", "t.default", "transpose.int"), ops.permute),
    **dict.fromkeys(("mean.default", "mean.dim"), ops.reduction(_OP.mean)),
    **dict.fromkeys(("sum.default", "sum.dim_IntList"), ops.reduction(_OP.sum)),
    **dict.fromkeys(("amax.default", ), ops.reduction(_OP.max)),
    **dict.fromkeys(("amin.default", ), ops.reduction(_OP.min)),
    **dict.fromkeys(("bmm.default", "matmul.default", "mm.default"), ops.matmul),
    **dict.fromkeys(("_to_copy.default", "to.dtype"), ops.to),
    **dict.fromkeys(("constant_pad_nd.default", "pad.default"), ops.pad),
    **dict.fromkeys(("where.self", "where.Scalar", "where.ScalarOther", "where.ScalarSelf"),
                    ops.where),
    **dict.fromkeys(
        ("quantize_per_channel.default", "quantize_per_tensor.default"), quant.quantize
    ),
    **dict.fromkeys(
        ("dequantize_per_channel.default", "dequantize_per_tensor.default"), quant.dequantize
    ),
    "adaptive_avg_pool1d.default": ops.adaptive_avg_pool,
    "adaptive_avg_pool2d.default": ops.adaptive_avg_pool,
    "_native_batch_norm_legit_no_training.default": ops.batch_norm,
    "addmm.default": ops.addmm,
    "batch_norm.default": ops.batch_norm,
    "cat.default": ops.cat,
    "dropout.default": ops.dropout,
    "expand.default": ops.expand,
    "gelu.default": ops.gelu,
    "leaky_relu.default": ops.leaky_relu,
    "linear.default": ops.linear,
    "relu6.default": ops.relu6,
    "round.decimals": ops.round_half_even,
    "round.default": ops.round_half_even,
    "select.int": ops.select,
    "slice.Tensor": ops.slice_axis,
    "softmax.int": ops.softmax,
}  # fmt: skip
"""Operators by name; those that are missing here are decomposed by torch, or refused."""
