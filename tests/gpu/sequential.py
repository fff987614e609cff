"""Scheduled kernels for CUDA as plain CPU programs, before any CUDA code is generated.

Threads become loops, one after the other, and memory of threads, warps and blocks becomes plain
memory. That checks what a schedule does to the loops, with bounds, and nothing about threads.
Tensor core intrinsics are left out: TVM compares each with the loops that it stands for when it
puts it in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm_ffi
from tvm.s_tir import SBlock
from tvm.tirx import BufferStore, For, ForKind, SeqStmt, is_buffer_var

from tvm_qnn._tvm import s_tir, tirx, tvm
from tvm_qnn.schedules import cuda_code
from tvm_qnn.schedules.ir import STATIC_ATTRS

_DROPPED = {
    "pragma_auto_unroll_max_step", "pragma_unroll_explicit", "buffer_dim_align",
    "software_pipeline_stage", "software_pipeline_order", "software_pipeline_async_stages",
}  # fmt: skip


@contextmanager
def without_intrinsics() -> Iterator[None]:
    """Leave the loops of tensor core instructions in kernels that are built meanwhile."""
    tensorize = s_tir.Schedule.tensorize
    s_tir.Schedule.tensorize = lambda self, loop, intrinsic: None
    try:
        yield
    finally:
        s_tir.Schedule.tensorize = tensorize


def sequential(func: Any) -> Any:
    """Return a scheduled kernel for CUDA as one for a CPU."""
    plain: dict[Any, Any] = {}

    def memory(var: Any) -> Any:
        if var in plain:
            return plain[var]
        if not is_buffer_var(var) or var.ty.storage_scope in ("", "global"):
            return var
        t = var.ty
        kind = tirx._ffi_api.BufferType(
            "global", t.dtype, t.shape, t.strides, t.elem_offset, t.data_alignment,
            t.offset_factor, t.layout, (), None,
        )  # fmt: skip
        plain[var] = tirx._ffi_api.BufferVar(var.name, kind, None)
        return plain[var]

    def loop(node: Any) -> Any:
        kept = {k: v for k, v in dict(node.annotations).items() if k not in _DROPPED}
        kind = ForKind.SERIAL if node.kind == ForKind.THREAD_BINDING else node.kind
        if kind == node.kind and len(kept) == len(node.annotations):
            return node
        return For(node.loop_var, node.min, node.extent, kind, node.body, None, kept)

    def block(node: Any) -> Any:
        kept = {k: v for k, v in dict(node.annotations).items() if k not in _DROPPED}
        body, matched = node.body, node.match_buffers
        if _is_call(getattr(body, "value", None), "tirx.s_tir.cp_async_raw"):
            body, matched = _copy(body.value, matched[0].source), []
        elif len(kept) == len(node.annotations):
            return node
        return SBlock(
            node.iter_vars, node.reads, node.writes, node.name_hint, body, node.init,
            node.alloc_buffers, matched, kept, node.span,
        )  # fmt: skip

    def call(node: Any) -> Any:
        if _is_call(node, "tirx.tvm_storage_sync"):
            return tirx.const(0, "int32")
        if not _is_call(node, "tirx.cuda.func_call"):
            return node
        name, *args, _ = node.args
        return cuda_code.MEANING[name.value](*args)

    rules = [(For, loop), (SBlock, block), (tvm.ir.Var, memory), (tvm.ir.Call, call)]
    body = tvm_ffi.structural_map(func.body, rules, order="pre")
    return func.with_body(body).with_attrs(STATIC_ATTRS)


def _is_call(node: Any, name: str) -> bool:
    return getattr(getattr(node, "op", None), "name", "") == name


def _copy(call: Any, region: Any) -> Any:
    """Return an asynchronous copy on a condition as plain stores."""
    _, _, address, _, size, condition = call.args
    load = address.args[0]
    starts = [r.min for r in region.region]
    stores = []
    for i in range(int(size) // 4):
        found = load.source[(*load.indices[:-1], load.indices[-1] + i)]
        value = tirx.if_then_else(condition == 1, found, tirx.const(0, "uint32"))
        stores.append(BufferStore(region.source, value, [*starts[:-1], starts[-1] + i]))
    return SeqStmt(stores) if len(stores) > 1 else stores[0]
