"""Run a module of the ``qnn`` dialect by its numpy definitions, one operator after the other.

Integers come from :mod:`tvm_qnn.spec` alone. What is not a ``qnn.*`` operator either moves data,
which numpy does, or is a float operator, which plain TVM computes for this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn import spec
from tvm_qnn._tvm import Target, relax, tvm
from tvm_qnn.ops import attrs_of, codes_of, is_op, shape_of
from tvm_qnn.ops.fixed import format_of
from tvm_qnn.spec import QType

Array = NDArray[Any]


def evaluate(mod: Any, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Evaluate ``main`` of a module.

    Args:
        mod: a module of Relax and ``qnn.*`` operators (after ``fold_epilogues``, say).
        inputs: arrays by the names of the parameters.

    Returns:
        The value of every binding by the name of its variable, in order; under the key ``""`` the
        list of outputs.
    """
    main = mod["main"]
    values: dict[Any, Any] = {p: np.asarray(inputs[str(p.name)]) for p in main.params}
    named: dict[str, Any] = {}

    def value(expr: Any) -> Any:
        if isinstance(expr, relax.Var):
            return values[expr]
        if isinstance(expr, relax.Tuple):
            return [value(e) for e in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return value(expr.tuple_value)[expr.index]
        if isinstance(expr, tvm.ir.GenericConst):
            return expr.value.numpy()
        return expr

    for block in main.body.blocks:
        for binding in block.bindings:
            bound = binding.value
            if isinstance(bound, relax.Call):
                result = evaluate_call(bound, [value(a) for a in bound.args])
            else:
                result = value(bound)
            values[binding.var] = named[str(binding.var.name)] = result
    outputs = value(main.body.body)
    named[""] = outputs if isinstance(outputs, list) else [outputs]
    return named


def evaluate_call(call: Any, args: list[Any]) -> Any:
    """Evaluate one operator on arrays."""
    name = call.op.name if hasattr(call.op, "name") else ""
    if name in _DEFINITIONS:
        return _DEFINITIONS[name](attrs_of(call), *args)
    if is_op(call, "relax.reshape", "relax.flatten", "relax.expand_dims", "relax.squeeze"):
        return args[0].reshape(shape_of(call))
    if name == "relax.permute_dims":
        axes = [int(a) for a in call.attrs.axes] if call.attrs.axes else None
        return np.ascontiguousarray(args[0].transpose(axes))
    if name == "relax.concat":
        return np.concatenate(args[0], axis=int(call.attrs.axis))
    return _plain_tvm(call, args)


def _qtype(a: dict[str, Any], scale: Array, zero: Array) -> QType:
    return QType.of_arrays(codes_of(a), scale, zero, a["axis"])


def _activations(a: dict[str, Any], x: Array) -> Array:
    """Return the codes of activations that may come as bit planes."""
    if a["x_layout"] == "planes":
        return spec.unpack_planes(x, a["channels"], codes_of(a, "x_"))
    return x


def _conv2d(a: dict[str, Any], x: Array, w: Array) -> Array:
    x = _activations(a, x)
    return spec.conv2d(x, w, x_zero=a["x_zero"], w_zero=a["w_zero"], **_geometry(a))


def _geometry(a: dict[str, Any]) -> dict[str, Any]:
    return {
        "strides": tuple(a["strides"]),
        "padding": tuple(a["padding"]),
        "dilation": tuple(a["dilation"]),
        "groups": a["groups"],
    }


def _pool(a: dict[str, Any]) -> dict[str, Any]:
    return {"strides": tuple(a["strides"]), "padding": tuple(a["padding"])}


def _add(a: dict[str, Any], x: Array, y: Array) -> Array:
    return spec.add(
        x, y, a_mul=a["a_mul"], b_mul=a["b_mul"], offset=a["offset"], codes=codes_of(a),
        zero=a["zero"], rounding=a["rounding"],
    )  # fmt: skip


def _lookup(a: dict[str, Any], q: Array, table: Array) -> Array:
    rows = tuple(tuple(float(v) for v in row) for row in np.atleast_2d(table))
    return spec.dequantize(q, QType(codes_of(a), axis=a["axis"], codebook=rows))


_DEFINITIONS: dict[str, Callable[..., Any]] = {
    "qnn.quantize": lambda a, x, s, z: spec.quantize(x, _qtype(a, s, z), a["rounding"]),
    "qnn.dequantize": lambda a, q, s, z: spec.dequantize(q, _qtype(a, s, z)),
    "qnn.lookup": _lookup,
    "qnn.conv2d": _conv2d,
    "qnn.dense": lambda a, x, w: spec.dense(
        _activations(a, x), w, x_zero=a["x_zero"], w_zero=a["w_zero"]
    ),
    "qnn.pack": lambda a, x: spec.pack_planes(x, codes_of(a)),
    "qnn.codebook_conv2d": lambda a, x, w, table: spec.codebook_conv2d(
        x, w, table, x_zero=a["x_zero"], **_geometry(a)
    ),
    "qnn.affine": lambda a, acc, mul, add: spec.affine(acc, mul, add),
    "qnn.requantize": lambda a, acc, mul, add: spec.requantize(
        acc, mul, add, codes_of(a), a["zero"], a["rounding"]
    ),
    "qnn.threshold": lambda a, acc, t, falling: spec.threshold(acc, t, falling, codes_of(a)),
    "qnn.add": _add,
    "qnn.max_pool2d": lambda a, x: spec.max_pool2d(
        x, tuple(a["kernel"]), lowest=a["lo"], dilation=tuple(a["dilation"]), **_pool(a)
    ),
    "qnn.sum_pool2d": lambda a, x: spec.sum_pool2d(
        x, tuple(a["kernel"]), x_zero=a["zero"], **_pool(a)
    ),
    "qnn.fixed_convert": lambda a, x: spec.fixed_convert(x, format_of(a, "src_"), format_of(a)),
    "qnn.fixed_bag": lambda a, table, words: spec.fixed_bag(table, words, format_of(a)),
    "qnn.fixed_valid": lambda a, words: spec.fixed_valid(words),
    "qnn.fixed_dense": lambda a, w, k: spec.fixed_dense(w, k, format_of(a), bool(a["binary"])),
    "qnn.fixed_similarity": lambda a, memory, key: spec.fixed_similarity(
        memory, key, format_of(a), bool(a["binary"])
    ),
    "qnn.fixed_hamming": lambda a, memory, key: spec.hamming_similarity(
        memory, key, format_of(a), a["alpha"]
    ),
    "qnn.fixed_softmax": lambda a, scores, used: spec.fixed_softmax(scores, used, format_of(a)),
    "qnn.fixed_read": lambda a, p, memory: spec.fixed_read(p, memory, format_of(a)),
    "qnn.fixed_add": lambda a, x, y: spec.fixed_add(x, y, format_of(a)),
    "qnn.fixed_output": lambda a, w, k: spec.fixed_output(w, k, format_of(a)),
}


def _plain_tvm(call: Any, args: list[Any]) -> Any:
    """Compute a float operator by a module of its own, compiled by TVM for this machine."""
    builder = relax.BlockBuilder()
    params: list[Any] = []
    arrays: list[Array] = []

    def operand(expr: Any, given: Any) -> Any:
        if isinstance(given, np.ndarray):
            kind = relax.TensorType(given.shape, str(given.dtype))
            params.append(relax.Var(f"x{len(params)}", kind))
            arrays.append(given)
            return params[-1]
        if isinstance(given, list) and any(isinstance(g, np.ndarray) for g in given):
            return relax.Tuple([operand(None, g) for g in given])
        return expr

    operands = [operand(e, g) for e, g in zip(call.args, args, strict=True)]
    with builder.function("main", params):
        builder.emit_func_output(
            builder.emit(relax.Call(call.op, operands, call.attrs, call.ty_args))
        )
    executable = tvm.compile(builder.get(), Target("llvm"))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(a) for a in arrays])
    return [r.numpy() for r in result] if isinstance(call.ty, relax.TupleType) else result.numpy()
