"""Tensor core instructions as intrinsics of TVM: 16 x 16 sums of eight words of the reduction.

A word is four bytes, eight codes of 4 bits or 32 bits, so that one pair of ``mma.sync`` (m16n8k32
of bytes, m16n8k64 of 4 bits, m16n8k256 of bits) is one intrinsic here. A fragment is what the lanes
of a warp have of a tile in their registers; which lane has what says the PTX ISA, "Matrix fragments
for mma.m16n8k32", and, of the same words, for m16n8k64 and m16n8k256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import s_tir, tirx
from tvm_qnn.schedules import cuda_code, ir
from tvm_qnn.schedules.cuda_unpack import Unpacking

WARP = 32
TILE = 16
"""Rows and columns of a fragment of sums."""
DEPTH = 8
"""Words of the reduction of a fragment."""
REGISTERS = TILE * DEPTH // WARP
SUMS = TILE * TILE // WARP

BITS, SIGNED, UNSIGNED = "b1", "s8", "u8"
NIBBLES = ("s4", "u4")
"""What words hold; all but single bits meet signed weights."""
_SHAPES = {BITS: ("m16n8k256", "int1", "int1"), SIGNED: ("m16n8k32", "int8", "int8"),
           UNSIGNED: ("m16n8k32", "uint8", "int8"), "s4": ("m16n8k64", "int4", "int4"),
           "u4": ("m16n8k64", "uint4", "int4")}  # fmt: skip


def row_fragment(i: Any, k: Any) -> tuple[Any, Any]:
    """Return lane and register of word k of row i of the left operand."""
    return 4 * (i % 8) + k % 4, i // 8 + 2 * (k // 4)


def column_fragment(j: Any, k: Any) -> tuple[Any, Any]:
    """Return lane and register of word k of column j of the right operand."""
    return 4 * (j % 8) + k % 4, 2 * (j // 8) + k // 4


def column_place(j: Any, k: Any) -> tuple[Any, Any]:
    """Return where word k of column j is packed, [32, 4]: as ``ldmatrix`` reads four matrices."""
    return 8 * (2 * (j // 8) + k // 4) + j % 8, k % 4


def stored_fragment(row: Any, place: Any) -> tuple[Any, Any]:
    """Return lane and register of what lies at a place of packed weights [32, 4]."""
    return 4 * (row % 8) + place, row // 8


def sum_fragment(i: Any, j: Any) -> tuple[Any, Any]:
    """Return lane and register of the sum of row i and column j."""
    return 4 * (i % 8) + j % 8 // 2, 4 * (j // 8) + 2 * (i // 8) + j % 2


def product(kind: str, a: Any, b: Any, c: Any) -> Any:
    """Return c plus the products of two words; sums are uint32, modulo 2**32."""
    if kind == BITS:
        return c + tirx.popcount(tirx.bitwise_and(a, b))
    multiply = cuda_code.dot8 if kind in NIBBLES else cuda_code.dp4a
    total = multiply(a, b, ir.wrapped(c, "int32"), signed=kind in (SIGNED, "s4"))
    return ir.wrapped(total, "uint32")


def register(kind: str, unpacking: Unpacking | None) -> None:
    """Register all intrinsics for words of some kind, and weights stored in some way."""
    for make in (load_rows, load_columns, clear, store):
        make()
    multiply(kind)
    if unpacking is not None:
        unpack_columns(unpacking)


def load_rows() -> str:
    """Load a row fragment from words [16, 8] (``ldmatrix``)."""

    def desc(source: Any, fragment: Any) -> None:
        with _nest(TILE, DEPTH) as (i, k):
            lane, register = row_fragment(i, k)
            T.reads(source[i, k])
            T.writes(fragment[lane, register])
            T.buffer_store(fragment, source[i, k], [lane, register])

    def impl(source: Any, fragment: Any, stride: Any) -> None:
        _ldmatrix(source, fragment, lambda lane: stride * (lane % TILE) + 4 * (lane // TILE))

    buffers = [
        ("source", (TILE, DEPTH), "uint32", "shared", True),
        ("fragment", (WARP, REGISTERS), "uint32", "warp", False),
    ]
    return _register("qnn_load_rows", buffers, desc, impl)


def load_columns() -> str:
    """Load a column fragment from words [32, 4] in the order of :func:`column_place`."""

    def desc(source: Any, fragment: Any) -> None:
        with _nest(WARP, REGISTERS) as (row, place):
            to = stored_fragment(row, place)
            T.reads(source[row, place])
            T.writes(fragment[to])
            T.buffer_store(fragment, source[row, place], list(to))

    def impl(source: Any, fragment: Any, _: Any) -> None:
        _ldmatrix(source, fragment, lambda lane: REGISTERS * lane)

    buffers = [
        ("source", (WARP, REGISTERS), "uint32", "shared", False),
        ("fragment", (WARP, REGISTERS), "uint32", "warp", False),
    ]
    return _register("qnn_load_columns", buffers, desc, impl)


def unpack_columns(unpacking: Unpacking) -> str:
    """Load what :func:`load_columns` does and unpack it, to a column fragment for each set."""

    def desc(source: Any, fragment: Any) -> None:
        with _nest(unpacking.sets, WARP, REGISTERS) as (part, row, place):
            to = (part, *stored_fragment(row, place))
            T.reads(source[row, place])
            T.writes(fragment[to])
            T.buffer_store(fragment, unpacking.apply(source[row, place], part), list(to))

    def impl(source: Any, fragment: Any, _: Any) -> None:
        _ldmatrix(source, fragment, lambda lane: REGISTERS * lane)
        with T.thread_binding(0, WARP, "threadIdx.x") as lane:
            # The first set last: until then it is what was loaded.
            for part in reversed(range(unpacking.sets)):
                for register in range(REGISTERS):
                    loaded = fragment[0, lane, register]
                    word = unpacking.apply(loaded, tirx.const(part, "int32"))
                    T.buffer_store(fragment, word, [part, lane, register])

    buffers = [
        ("source", (WARP, REGISTERS), "uint32", "shared", False),
        ("fragment", (unpacking.sets, WARP, REGISTERS), "uint32", "warp", False),
    ]
    return _register(f"qnn_unpack_columns_{unpacking.name}", buffers, desc, impl)


def multiply(kind: str) -> str:
    """Add the products of a row and a column fragment to sums (two ``mma.sync``)."""

    def desc(a: Any, b: Any, c: Any) -> None:
        with _nest(TILE, TILE, reduce=DEPTH) as (i, j, k):
            row, column, place = row_fragment(i, k), column_fragment(j, k), sum_fragment(i, j)
            T.reads(c[place], a[row], b[column])
            T.writes(c[place])
            T.buffer_store(c, product(kind, a[row], b[column], c[place]), list(place))

    def impl(a: Any, b: Any, c: Any, _: Any) -> None:
        shape, left, right = _SHAPES[kind]
        with T.thread_binding(0, WARP, "threadIdx.x") as lane:
            for half in range(2):
                T.evaluate(
                    T.ptx_legacy.mma(
                        shape, "row", "col", left, right, "int32",
                        a.data, a.elem_offset + lane * REGISTERS,
                        b.data, b.elem_offset + lane * REGISTERS + 2 * half,
                        c.data, c.elem_offset + lane * SUMS + 4 * half,
                        False, *(["and"] if kind == BITS else []), dtype="int32",
                    )
                )  # fmt: skip

    buffers = [
        ("a", (WARP, REGISTERS), "uint32", "warp", False),
        ("b", (WARP, REGISTERS), "uint32", "warp", False),
        ("c", (WARP, SUMS), "uint32", "warp", False),
    ]
    return _register(f"qnn_multiply_{kind}", buffers, desc, impl, output=2)


def clear() -> str:
    """Set sums to 0."""

    def desc(c: Any) -> None:
        with _nest(TILE, TILE) as (i, j):
            place = sum_fragment(i, j)
            T.reads()
            T.writes(c[place])
            T.buffer_store(c, tirx.const(0, "uint32"), list(place))

    def impl(c: Any, _: Any) -> None:
        with T.thread_binding(0, WARP, "threadIdx.x"):
            T.evaluate(T.cuda.mma_fill_legacy(SUMS, c.data, c.elem_offset, dtype="uint32"))

    return _register("qnn_clear", [("c", (WARP, SUMS), "uint32", "warp", False)], desc, impl)


def store() -> str:
    """Store sums as words [16, 16]."""
    # Registers the layout of sums, which TVM's code generator asks for by name.
    import tvm.s_tir.tensor_intrin.cuda  # noqa: F401

    def desc(c: Any, to: Any) -> None:
        with _nest(TILE, TILE) as (i, j):
            place = sum_fragment(i, j)
            T.reads(c[place])
            T.writes(to[i, j])
            T.buffer_store(to, c[place], [i, j])

    def impl(c: Any, to: Any, stride: Any) -> None:
        with T.thread_binding(0, WARP, "threadIdx.x"):
            T.evaluate(
                T.cuda.mma_store_legacy(
                    TILE, TILE, to.access_ptr("w"), c.data, c.elem_offset, stride, dtype="uint32"
                )
            )

    buffers = [
        ("c", (WARP, SUMS), "uint32", "warp", False),
        ("to", (TILE, TILE), "uint32", "shared", True),
    ]
    return _register("qnn_store", buffers, desc, impl)


def _ldmatrix(source: Any, fragment: Any, row: Callable[[Any], Any]) -> None:
    """Load four matrices of 8 rows of 4 words; ``row`` is where the row of a lane begins."""
    with T.thread_binding(0, WARP, "threadIdx.x") as lane:
        T.evaluate(
            T.ptx_legacy.ldmatrix(
                False, 4, ".b16", fragment.data, fragment.elem_offset + REGISTERS * lane,
                source.access_ptr("r"), row(lane), dtype="uint32",
            )
        )  # fmt: skip


Buffers = Sequence[tuple[str, tuple[int, ...], str, str, bool]]
"""Name, shape, dtype, scope, and whether rows lie apart."""


def _register(
    name: str, buffers: Buffers, desc: Callable[..., None], impl: Callable[..., None],
    output: int | None = None,
) -> str:  # fmt: skip
    """Register an intrinsic; the last buffer, or ``output``, is written."""
    written = len(buffers) - 1 if output is None else output
    functions = [
        _function(buffers, body, written, strided=body is impl, accumulates=output is not None)
        for body in (desc, impl)
    ]
    s_tir.TensorIntrin.register(name, *functions, override=True)
    return name


def _function(
    buffers: Buffers, body: Callable[..., None], written: int, *, strided: bool, accumulates: bool
) -> Any:
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        handles = [T.arg(f"{name}_handle", T.handle()) for name, *_ in buffers]
        matched, stride = [], None
        for handle, (name, shape, dtype, scope, apart) in zip(handles, buffers, strict=True):
            options: dict[str, Any] = {}
            if apart and strided:
                stride = T.int32()
                options["strides"] = [stride, T.int32()]
            buffer = T.match_buffer(
                handle, shape, dtype, align=64, offset_factor=shape[-1], scope=scope, **options
            )
            matched.append(buffer)
            IRBuilder.name(name, buffer)
        with T.sblock("root"):
            regions = [
                buffer[tuple(slice(0, extent) for extent in shape)]
                for buffer, (_, shape, *_) in zip(matched, buffers, strict=True)
            ]
            others = [region for i, region in enumerate(regions) if i != written]
            T.reads(*([regions[written]] if accumulates else []), *others)
            T.writes(regions[written])
            body(*matched, *([stride] if strided else []))
    return builder.get()


@contextmanager
def _nest(*spatial: int, reduce: int | None = None) -> Iterator[list[Any]]:
    """Open loops around one block and yield its variables."""
    extents = [*spatial, *([] if reduce is None else [reduce])]
    with T.grid(*extents) as loops, T.sblock("tile"):
        axes = [T.axis.spatial] * len(spatial) + [T.axis.reduce]
        yield [axis(extent, loop) for axis, extent, loop in zip(axes, extents, loops, strict=False)]
