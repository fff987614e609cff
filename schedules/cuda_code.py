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
_DOT8 = """
__forceinline__ __device__ int {name}(unsigned a, unsigned b, int c) {{
  for (int i = 0; i < 32; i += 4) c += {left} * ((int)(b << (28 - i)) >> 28);
  return c;
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


def _nibbles(a: Any, b: Any, c: Any, *, x: str) -> Any:
    """Say what :func:`dot8` computes."""
    for i in range(8):
        left, right = (_signed_nibble(word, i) for word in (a, b))
        if x == "u":
            low = tirx.bitwise_and(tirx.shift_right(a, tirx.const(4 * i, "uint32")), 15)
            left = low.astype("int32")
        c = c + left * right
    return c


def _signed_nibble(word: Any, i: int) -> Any:
    top = ir.wrapped(tirx.shift_left(word, tirx.const(28 - 4 * i, "uint32")), "int32")
    return tirx.shift_right(top, tirx.const(28, "int32"))


def _name(x: str, w: str) -> str:
    return f"qnn_dp4a_{x}8{w}8"


_DOT8_NAMES = {x: f"qnn_dot8_{x}4s4" for x in "su"}
SOURCES = {
    **{_name(x, w): _DP4A.format(name=_name(x, w), x=x, w=w) for x, w in _KINDS},
    _DOT8_NAMES["s"]: _DOT8.format(name=_DOT8_NAMES["s"], left="((int)(a << (28 - i)) >> 28)"),
    _DOT8_NAMES["u"]: _DOT8.format(name=_DOT8_NAMES["u"], left="(int)(a >> i & 15)"),
}
MEANING: dict[str, Callable[..., Any]] = {
    **{_name(x, w): partial(_products, x=x, w=w) for x, w in _KINDS},
    **{name: partial(_nibbles, x=x) for x, name in _DOT8_NAMES.items()},
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
    return _call(_name("s" if signed else "u", "s" if weights_signed else "u"), a, b, c)


def dot8(a: Any, b: Any, c: Any, *, signed: bool) -> Any:
    """Add eight products of 4 bits to an int32; those of ``a`` are signed or not."""
    return _call(_DOT8_NAMES["s" if signed else "u"], a, b, c)


def _call(name: str, *args: Any) -> Any:
    return T.cuda.func_call(name, *args, source_code=SOURCES[name], return_type="int32")
