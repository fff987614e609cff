"""Functions of CUDA C++ that kernels call for instructions which TVM has no expression for.

A kernel carries their source. What each computes is written down as an expression as well, which
checks without a GPU use in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir

_DP4A = """
__forceinline__ __device__ int {name}(unsigned a, unsigned b, int c) {{
  int d;
  asm("dp4a.{x}32.{w}32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}}
"""
_KINDS = [(x, w) for x in "su" for w in "su"]


def _products(a: Any, b: Any, c: Any, *, x: str, w: str) -> Any:
    """Say what :func:`dp4a` computes."""
    for i in range(4):
        left, right = (byte_of(word, i, signed=kind == "s") for word, kind in ((a, x), (b, w)))
        c = c + left * right
    return c


def byte_of(word: Any, place: Any, *, signed: bool) -> Any:
    """Return byte number ``place`` of a word uint32, as int32."""
    low = tirx.bitwise_and(tirx.shift_right(word, ir.cast(place * 8, "uint32")), 255)
    low = low.astype("uint8")
    return (ir.wrapped(low, "int8") if signed else low).astype("int32")


def _name(x: str, w: str) -> str:
    return f"qnn_dp4a_{x}8{w}8"


SOURCES = {_name(x, w): _DP4A.format(name=_name(x, w), x=x, w=w) for x, w in _KINDS}
MEANING: dict[str, Callable[..., Any]] = {
    _name(x, w): partial(_products, x=x, w=w) for x, w in _KINDS
}
"""The functions as expressions of TVM."""


def dp4a(a: Any, b: Any, c: Any, *, signed: bool, weights_signed: bool = True) -> Any:
    """Add four products of bytes to an int32.

    Args:
        a: four bytes, uint32.
        b: four bytes, uint32.
        c: int32.
        signed: the bytes of ``a`` are.
        weights_signed: the bytes of ``b`` are.
    """
    name = _name("s" if signed else "u", "s" if weights_signed else "u")
    return T.cuda.func_call(name, a, b, c, source_code=SOURCES[name], return_type="int32")
