"""Vector expressions and blocks of TIR, written through TVM's IR builder.

Kernels are built as named blocks (``stage``) over whole tensors, whose innermost statement may be a
vector of ``lanes`` channels; schedule primitives then tile and nest the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx

LOWEST = -3.4028234663852886e38
STATIC_ATTRS = {"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8}

buffer_type = T.Buffer
alloc = T.sblock_alloc_buffer
init = T.init
if_ = T.If
then = T.Then
else_ = T.Else
serial = T.serial


def vector(dtype: str, lanes: int) -> str:
    """Name the dtype of ``lanes`` elements: ``int32x16``, or ``int32`` for one lane."""
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def lanes_at(base: Any, lanes: int) -> Any:
    """Return the index of ``lanes`` neighbours from ``base``."""
    return tirx.Ramp(base, 1, lanes) if lanes > 1 else base


def splat(value: Any, lanes: int) -> Any:
    """Repeat a scalar expression in all lanes."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def const(value: float, dtype: str, lanes: int = 1) -> Any:
    """Return a constant in all lanes."""
    return splat(tirx.const(value, dtype), lanes)


def cast(value: Any, dtype: str, lanes: int = 1) -> Any:
    """Convert all lanes to ``dtype``."""
    return tirx.Cast(vector(dtype, lanes), value)


def wrapped(value: Any, dtype: str) -> Any:
    """Return the bits of an integer as one of the other sign; TVM takes a cast to keep values."""
    return tirx.reinterpret(dtype, value)


def intrinsic(dtype: str, name: str, *args: Any) -> Any:
    """Call an LLVM intrinsic without side effects."""
    return tirx.call_llvm_pure_intrin(dtype, name, *args)


def unfused(product: Any, lanes: int = 1) -> Any:
    """Keep LLVM from fusing a float32 product with the addition that follows.

    A vector passes an arithmetic fence, which is no instruction. Loops over single elements would
    not be vectorized with it; a maximum with the lowest float32 does the same for finite products.
    """
    if lanes > 1:
        return intrinsic(vector("float32", lanes), "llvm.arithmetic.fence", product)
    return tirx.max(product, tirx.const(LOWEST, "float32"))


def store(buffer: Any, value: Any, *indices: Any) -> None:
    """Write ``value`` at ``indices``; the last index may be a vector."""
    T.buffer_store(buffer, value, list(indices))


def view(buffer: Any, shape: Sequence[int], dtype: str) -> Any:
    """Declare the memory of a buffer as one of another shape and dtype."""
    return T.decl_buffer(tuple(shape), dtype, data=buffer.data)


def named(name: str, buffer: Any) -> Any:
    """Give a buffer the name by which it is printed and found."""
    IRBuilder.name(name, buffer)
    return buffer


@contextmanager
def function(name: str) -> Iterator[Callable[[], Any]]:
    """Open a PrimFunc; the yielded function returns it after the ``with`` block."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        yield builder.get


def argument(name: str, shape: Sequence[int], dtype: str) -> Any:
    """Declare the next buffer argument of the open function."""
    return T.arg(name, T.Buffer(tuple(shape), dtype))


@contextmanager
def stage(name: str, spatial: Sequence[int], reduce: Sequence[int] = ()) -> Iterator[list[Any]]:
    """Open loops of the given extents around one block, and yield the block's variables."""
    extents = [*spatial, *reduce]
    with T.grid(*extents) as loops, T.sblock(name):
        loops = [loops] if len(extents) == 1 else list(loops)
        axes = [T.axis.spatial] * len(spatial) + [T.axis.reduce] * len(reduce)
        yield [axis(extent, loop) for axis, extent, loop in zip(axes, extents, loops, strict=True)]


def accesses(reads: Sequence[Any] | None, writes: Sequence[Any]) -> None:
    """Declare the regions that the open block reads and writes, where they cannot be derived."""
    if reads is not None:
        T.reads(*reads)
    T.writes(*writes)


def whole(buffer: Any) -> Any:
    """Return the region of all elements of a buffer."""
    return buffer[tuple(slice(0, int(d)) for d in buffer.shape)]


@contextmanager
def guard(condition: Any) -> Iterator[None]:
    """Run the statements inside only where ``condition`` holds; None means everywhere."""
    if condition is None:
        yield
        return
    with T.If(condition), T.Then():
        yield
