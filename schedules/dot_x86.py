"""Dot products of x86: VPDPBUSD (AVX-512 VNNI), VPMADDUBSW and VPMADDWD (AVX2)."""

from __future__ import annotations

from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.instruction import Instruction
from tvm_qnn.targets.record import Target


def _vpdpbusd(acc: Any, x: Any, w: Any) -> Any:
    """Add 4 products of unsigned by signed bytes to each lane; sums wrap at 32 bits only."""
    x = tirx.reinterpret("uint8x64", ir.splat(x, 16))
    return ir.intrinsic("int32x16", "llvm.x86.avx512.vpdpbusd.512", acc, x, w)


def _vpmaddubsw(acc: Any, x: Any, w: Any) -> Any:
    """Sum pairs of byte products to int16 (which saturates), then pairs of those to int32."""
    x = tirx.reinterpret("uint8x32", ir.splat(x, 8))
    pairs = ir.intrinsic("int16x16", "llvm.x86.avx2.pmadd.ub.sw", x, w)
    return acc + ir.intrinsic("int32x8", "llvm.x86.avx2.pmadd.wd", pairs, ir.const(1, "int16", 16))


def _vpmaddwd(acc: Any, x: Any, w: Any) -> Any:
    """Sum pairs of 16-bit products to int32."""
    x = tirx.reinterpret("int16x16", ir.splat(x, 8))
    return acc + ir.intrinsic("int32x8", "llvm.x86.avx2.pmadd.wd", x, w)


VPDPBUSD = Instruction(
    name="vpdpbusd",
    lanes=16,
    group=4,
    x_dtype="uint8",
    w_dtype="int8",
    x_range=(0, 255),
    w_range=(-128, 127),
    update=_vpdpbusd,
    registers=32,
    rate=0.5,
    latency=4,
)

VPMADDUBSW = Instruction(
    name="vpmaddubsw",
    lanes=8,
    group=4,
    x_dtype="uint8",
    w_dtype="int8",
    x_range=(0, 255),
    w_range=(-128, 127),
    update=_vpmaddubsw,
    registers=15,
    rate=1.0,
    latency=4,
    pair_limit=2**15 - 1,
)

VPMADDWD = Instruction(
    name="vpmaddwd",
    lanes=8,
    group=2,
    x_dtype="int16",
    w_dtype="int16",
    x_range=(-(2**15) + 1, 2**15 - 1),
    w_range=(-(2**15) + 1, 2**15 - 1),
    update=_vpmaddwd,
    registers=15,
    rate=0.6,
    latency=4,
)


def instructions(target: Target) -> list[Instruction]:
    """Return the instructions of a target, the fastest first."""
    if "vnni" in target.features:
        return [VPDPBUSD, VPMADDWD]
    return [VPMADDUBSW, VPMADDWD] if "avx2" in target.features else []
