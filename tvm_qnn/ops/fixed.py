"""The ``qnn.fixed_*`` Relax operators: fixed-point numbers and memory networks on them.

Each is defined by the function of :mod:`tvm_qnn.spec.fixed` that it names. A format is written as
the attributes ``integer`` and ``fraction``; every tensor of codes is int8 or int16, as its format
says. ``N`` is the batch, ``L`` the slots, ``E`` the internal dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_qnn._tvm import relax
from tvm_qnn.ops.dialect import Attrs, Infer, make, register, shape_of
from tvm_qnn.spec import FixedPoint
from tvm_qnn.spec.fixed import hamming_shift


def format_of(attrs: Attrs, prefix: str = "") -> FixedPoint:
    """Read the format that ``integer`` and ``fraction`` (with a prefix) describe."""
    return FixedPoint(attrs[f"{prefix}integer"], attrs[f"{prefix}fraction"])


def format_attrs(fmt: FixedPoint, prefix: str = "") -> Attrs:
    """Undo :func:`format_of`."""
    return {f"{prefix}integer": fmt.integer, f"{prefix}fraction": fmt.fraction}


def convert(x: Any, src: FixedPoint, dst: FixedPoint) -> Any:
    """Bring codes from one format into another: ``qnn.fixed_convert``."""
    return make("qnn.fixed_convert", [x], **format_attrs(src, "src_"), **format_attrs(dst))


def bag(table: Any, words: Any, fmt: FixedPoint) -> Any:
    """Sum the rows of a table [V, E] at words [..., W]: ``qnn.fixed_bag``, [..., E]."""
    return make("qnn.fixed_bag", [table, words], **format_attrs(fmt))


def valid(words: Any) -> Any:
    """Tell which slots of words [..., W] hold a sentence: ``qnn.fixed_valid``, bool [...]."""
    return make("qnn.fixed_valid", [words])


def dense(w: Any, k: Any, fmt: FixedPoint, binary: bool = False) -> Any:
    """Multiply weights [O, E] with keys [..., E]: ``qnn.fixed_dense``, [..., O]."""
    return make("qnn.fixed_dense", [w, k], **format_attrs(fmt), binary=int(binary))


def similarity(memory: Any, key: Any, fmt: FixedPoint, binary: bool = False) -> Any:
    """Dot product of a key [N, E] with slots [N, L, E]: ``qnn.fixed_similarity``, [N, L]."""
    return make("qnn.fixed_similarity", [memory, key], **format_attrs(fmt), binary=int(binary))


def hamming(memory: Any, key: Any, fmt: FixedPoint, alpha: int = -3) -> Any:
    """Bounded similarity of a key [N, E] with slots [N, L, E]: ``qnn.fixed_hamming``, [N, L]."""
    return make("qnn.fixed_hamming", [memory, key], **format_attrs(fmt), alpha=alpha)


def softmax(scores: Any, used: Any, fmt: FixedPoint) -> Any:
    """Integer softmax of scores [N, L] over the used slots, bool [N, L]: ``qnn.fixed_softmax``."""
    return make("qnn.fixed_softmax", [scores, used], **format_attrs(fmt))


def read(p: Any, memory: Any, fmt: FixedPoint) -> Any:
    """Sum slots [N, L, E] with weights [N, L]: ``qnn.fixed_read``, [N, E]."""
    return make("qnn.fixed_read", [p, memory], **format_attrs(fmt))


def add(a: Any, b: Any, fmt: FixedPoint) -> Any:
    """Add codes, saturated: ``qnn.fixed_add``."""
    return make("qnn.fixed_add", [a, b], **format_attrs(fmt))


def output(w: Any, k: Any, fmt: FixedPoint) -> Any:
    """Float output layer, weights [A, E] and keys [N, E]: ``qnn.fixed_output``, float32 [N, A]."""
    return make("qnn.fixed_output", [w, k], **format_attrs(fmt))


def _shape(expr: Any, rank: int | None, what: str, *dtypes: str) -> list[int]:
    """Return the shape of an argument of that rank (any but 0 for None) and one of the dtypes."""
    shape, dtype = shape_of(expr), str(expr.ty.dtype)
    if dtype not in dtypes:
        raise TypeError(f"{what} of dtype {dtype} where {' or '.join(dtypes)} is needed")
    if len(shape) != rank if rank is not None else not shape:
        raise TypeError(f"{what} of shape {shape}, {rank or 'at least 1'} dimensions are needed")
    return shape


def _same(found: Sequence[int], needed: Sequence[int], what: str) -> None:
    if list(found) != list(needed):
        raise TypeError(f"{what}: {list(found)} and {list(needed)} do not fit")


def _sum_fits(count: int, fmt: FixedPoint) -> None:
    if not fmt.sum_fits(count):
        raise TypeError(
            f"sums of {count} numbers of {fmt} can reach {count * fmt.limit}, beyond int32"
        )


def _tensor(shape: Sequence[int], dtype: str) -> Any:
    return relax.TensorType([int(d) for d in shape], dtype)


def _infer_convert(call: Any, a: Attrs) -> Any:
    src, dst = format_of(a, "src_"), format_of(a)
    if str(call.args[0].ty.dtype) != src.dtype:
        raise TypeError(f"codes of dtype {call.args[0].ty.dtype}, {src} is stored as {src.dtype}")
    return _tensor(shape_of(call.args[0]), dst.dtype)


def _infer_bag(call: Any, a: Attrs) -> Any:
    fmt = format_of(a)
    table = _shape(call.args[0], 2, "a table", fmt.dtype)
    words = _shape(call.args[1], None, "words", "int32")
    _sum_fits(words[-1], fmt)
    return _tensor([*words[:-1], table[1]], fmt.dtype)


def _infer_valid(call: Any, a: Attrs) -> Any:
    return _tensor(_shape(call.args[0], None, "words", "int32")[:-1], "bool")


def _infer_dense(call: Any, a: Attrs) -> Any:
    fmt = format_of(a)
    w = _shape(call.args[0], 2, "weights", fmt.dtype)
    k = _shape(call.args[1], None, "keys", fmt.dtype)
    _same(k[-1:], w[1:], "columns of the keys and of the weights")
    _sum_fits(w[1], fmt)
    return _tensor([*k[:-1], w[0]], fmt.dtype)


def _infer_similarity(call: Any, a: Attrs) -> Any:
    fmt = format_of(a)
    memory = _shape(call.args[0], 3, "a memory", fmt.dtype)
    key = _shape(call.args[1], 2, "keys", fmt.dtype)
    _same(key, [memory[0], memory[2]], "keys and the slots of a memory")
    _sum_fits(memory[2], fmt)
    return _tensor(memory[:2], fmt.dtype)


def _infer_hamming(call: Any, a: Attrs) -> Any:
    hamming_shift(format_of(a), a["alpha"])
    return _infer_similarity(call, a)


def _infer_softmax(call: Any, a: Attrs) -> Any:
    fmt = format_of(a)
    scores = _shape(call.args[0], 2, "scores", fmt.dtype)
    _same(_shape(call.args[1], 2, "used slots", "bool"), scores, "used slots and scores")
    return _tensor(scores, fmt.dtype)


def _infer_read(call: Any, a: Attrs) -> Any:
    fmt = format_of(a)
    p = _shape(call.args[0], 2, "weights of slots", fmt.dtype)
    memory = _shape(call.args[1], 3, "a memory", fmt.dtype)
    _same(p, memory[:2], "weights of slots and a memory")
    _sum_fits(memory[1], fmt)
    return _tensor([memory[0], memory[2]], fmt.dtype)


def _infer_add(call: Any, a: Attrs) -> Any:
    fmt = format_of(a)
    first, second = (_shape(arg, None, "codes", fmt.dtype) for arg in call.args)
    _same(first, second, "shapes of a sum")
    return _tensor(first, fmt.dtype)


def _infer_output(call: Any, a: Attrs) -> Any:
    w = _shape(call.args[0], 2, "weights", "float32")
    k = _shape(call.args[1], 2, "keys", format_of(a).dtype)
    _same(k[1:], w[1:], "columns of the keys and of the weights")
    return _tensor([k[0], w[0]], "float32")


FIXED_OPERATORS: dict[str, tuple[Infer, str]] = {
    "qnn.fixed_convert": (_infer_convert, "spec.fixed_convert(x, src, fmt)"),
    "qnn.fixed_bag": (_infer_bag, "spec.fixed_bag(table, words, fmt)"),
    "qnn.fixed_valid": (_infer_valid, "spec.fixed_valid(words)"),
    "qnn.fixed_dense": (_infer_dense, "spec.fixed_dense(w, k, fmt, binary)"),
    "qnn.fixed_similarity": (_infer_similarity, "spec.fixed_similarity(memory, key, fmt, binary)"),
    "qnn.fixed_hamming": (_infer_hamming, "spec.hamming_similarity(memory, key, fmt, alpha)"),
    "qnn.fixed_softmax": (_infer_softmax, "spec.fixed_softmax(scores, valid, fmt)"),
    "qnn.fixed_read": (_infer_read, "spec.fixed_read(p, memory, fmt)"),
    "qnn.fixed_add": (_infer_add, "spec.fixed_add(a, b, fmt)"),
    "qnn.fixed_output": (_infer_output, "spec.fixed_output(w, k, fmt)"),
}

for _name, (_infer, _doc) in FIXED_OPERATORS.items():
    register(_name, _infer, _doc)
