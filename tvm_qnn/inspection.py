"""What becomes of each operator: the table that ``tvm-qnn inspect`` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tvm_qnn.frontend import Imported
from tvm_qnn.ops import attrs_of, codes_of, is_op, shape_of
from tvm_qnn.ops.fixed import FIXED_OPERATORS
from tvm_qnn.ops.fixed_work import fixed_work
from tvm_qnn.passes.epilogues import taken_epilogues
from tvm_qnn.passes.rewrite import calls
from tvm_qnn.passes.workloads import (
    CODEBOOK,
    CONVOLUTIONS,
    codebook_work_of,
    work_of,
)
from tvm_qnn.schedules.family import Refusal
from tvm_qnn.spec import packed_bytes
from tvm_qnn.targets import Target

MOVES = frozenset(
    f"relax.{name}" for name in ("reshape", "permute_dims", "squeeze", "expand_dims", "flatten")
)
"""What only moves data, and has no row."""


@dataclass(frozen=True)
class Row:
    """One operator.

    Attributes:
        name: node of the source.
        operator: what it is.
        shape: of its result; NHWC inside of the integer part.
        weight_bits: bits of a packed weight, 0 without weights, 32 for float.
        activation_bits: bits of an input code, 32 for float.
        codebook: number of representation values of M-ary weights, 0 for others.
        macs: multiply-accumulates.
        weight_bytes: bytes of the weights in the artifact.
        kernel: name of the kernel, or ``float``.
        epilogue: what the kernel does to its accumulators before it stores them.
        why: why this kernel.
        gain: how many times faster than by its default schedule; 0 where it is not tuned.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    weight_bits: int
    activation_bits: int
    codebook: int
    macs: int
    weight_bytes: int
    kernel: str
    epilogue: str
    why: str
    gain: float = 0.0


@dataclass(frozen=True)
class Inspection:
    """The operators of a model on a target, and what stays float.

    Attributes:
        model: name of the model.
        target: name of the target.
        rows: the operators in order, data movement left out.
        refusals: what stays float, why, and what would help.
        float_weight_bytes: bytes of the same weights in float32.
        notes: what else the import tells, one line each.
    """

    model: str
    target: str
    rows: tuple[Row, ...]
    refusals: tuple[Refusal, ...]
    float_weight_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Bytes of all packed weights."""
        return sum(row.weight_bytes for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all operators."""
        return sum(row.macs for row in self.rows)


def inspect_module(
    mod: Any, refusals: Sequence[Refusal], imported: Imported, target: Target
) -> Inspection:
    """Read the table off a module after ``plan_layout`` (or a float module)."""
    rows: list[Row] = []
    weights = 0
    seen: set[bytes] = set()
    epilogues = taken_epilogues(mod)
    taken = {name for name, _ in epilogues.values()}
    for name, call in calls(mod):
        row, count = _row(source_name(name, imported), call, seen)
        if row is None or name in taken:
            continue
        if name in epilogues:
            row = replace(row, epilogue=_describe(epilogues[name][1]))
        rows.append(row)
        weights += count
    named = tuple(Refusal(source_name(r.node, imported), r.reason, r.remedy) for r in refusals)
    return Inspection(imported.name, target.name, tuple(rows), named, 4 * weights, imported.notes)


def source_name(name: str, imported: Imported) -> str:
    """Return the node of the source that a binding of any phase comes from.

    The passes name what they add after the binding that it belongs to, with a suffix.
    """
    tried = name
    while tried and tried not in imported.names:
        tried = tried.rpartition("_")[0]
    return imported.names.get(tried, name)


def _describe(epilogue: Any) -> str:
    if is_op(epilogue, "qnn.affine"):
        return "float"
    return f"{codes_of(attrs_of(epilogue)).bits}-bit {epilogue.op.name[4:]}"


def _row(name: str, call: Any, seen: set[bytes]) -> tuple[Row | None, int]:
    """Return the row of a call, or None for data movement, and its number of weights.

    ``seen`` collects the weights of memory operators, which several hops share.
    """
    operator = call.op.name if hasattr(call.op, "name") else "call"
    shape = tuple(shape_of(call)) if hasattr(call.ty, "shape") else ()
    if is_op(call, *CONVOLUTIONS):
        attrs = attrs_of(call)
        work = work_of(call)
        count = math.prod(work.weight_shape)
        row = Row(
            name, work.kind, shape, work.w.bits, work.x.bits, 0, work.macs,
            packed_bytes(count, work.w.bits), work.name(attrs.get("kernel", "")), "",
            attrs.get("why", ""), attrs.get("gain", 0.0),
        )  # fmt: skip
        return row, count
    if is_op(call, CODEBOOK):
        attrs = attrs_of(call)
        book = codebook_work_of(call)
        conv, values = book.conv, book.values
        count = math.prod(conv.weight_shape)
        row = Row(
            name, conv.kind, shape, conv.w.bits, conv.x.bits, values, conv.macs,
            packed_bytes(count, conv.w.bits) + 4 * values * book.rows,
            book.name(attrs.get("kernel", "")), "", attrs.get("why", ""), attrs.get("gain", 0.0),
        )  # fmt: skip
        return row, count
    if operator in MOVES or operator == "qnn.pack":
        return None, 0
    if is_op(call, *FIXED_OPERATORS):
        return _fixed_row(name, call, seen)
    if operator.startswith("qnn."):
        attrs = attrs_of(call)
        bits = codes_of(attrs).bits if "lo" in attrs else 32
        return Row(name, operator[4:], shape, 0, bits, 0, 0, 0, operator, "", ""), 0
    dtype = str(getattr(call.ty, "dtype", "float32"))
    if not dtype.startswith("float"):
        bits = np.dtype(dtype).itemsize * 8
        plain = operator.removeprefix("relax.")
        return Row(name, plain, shape, 0, bits, 0, 0, 0, operator, "", ""), 0
    macs, count = _float_macs(call)
    row = Row(
        name, operator.removeprefix("relax."), shape, 32 if count else 0, 32, 0, macs, 4 * count,
        "float", "", "",
    )  # fmt: skip
    return row, count


def _fixed_row(name: str, call: Any, seen: set[bytes]) -> tuple[Row, int]:
    work = fixed_work(call)
    key = b"" if work.weights is None else work.weights.tobytes()
    stored = key not in seen
    seen.add(key)
    row = Row(
        name, call.op.name[4:], tuple(shape_of(call)), work.weight_bits, work.activation_bits, 0,
        work.macs, work.weight_bytes if stored else 0,
        attrs_of(call).get("kernel", call.op.name), "", "",
    )  # fmt: skip
    return row, work.weights.size if stored and work.weights is not None else 0


def _float_macs(call: Any) -> tuple[int, int]:
    """Return the multiply-accumulates and the weights of a float convolution or product."""
    if is_op(call, "relax.nn.conv2d"):
        out, w = shape_of(call), shape_of(call.args[1])
        return out[0] * out[2] * out[3] * w[0] * w[1] * w[2] * w[3], w[0] * w[1] * w[2] * w[3]
    if is_op(call, "relax.matmul") and len(shape_of(call.args[1])) == 2:
        out, w = shape_of(call), shape_of(call.args[1])
        return math.prod(out) * w[0], w[0] * w[1]
    return 0, 0
