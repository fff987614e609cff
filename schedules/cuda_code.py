"""Functions of CUDA C++ that kernels call for instructions which TVM has no expression for.

A kernel carries their source. What each computes is written down as an expression as well, which
checks without a GPU use in its place.
"""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T  # noqa: N812

from tvm_qnn._tvm import tirx
from tvm_qnn.schedules import ir

_DP4A = """
__forceinline__ __device__ int {name}(unsigned a, unsigned b, int c) {{
  int d;
  asm("dp4a.{x}.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}}
"""
_SIGNED, _UNSIGNED = "qnn_dp4a_s8s8", "qnn_dp4a_u8s8"
SOURCES = {
    _SIGNED: _DP4A.format(name=_SIGNED, x="s32"),
    _UNSIGNED: _DP4A.format(name=_UNSIGNED, x="u32"),
}


def _products(a: Any, b: Any, c: Any, *, signed: bool) -> Any:
    """Say what :func:`dp4a` computes."""
    for i in range(4):
        left, right = (
            tirx.bitwise_and(tirx.shift_right(word, tirx.const(8 * i, "uint32")), 255)
            for word in (a, b)
        )
        x = left.astype("uint8")
        x = ir.wrapped(x, "int8") if signed else x
        c = c + x.astype("int32") * ir.wrapped(right.astype("uint8"), "int8").astype("int32")
    return c


MEANING = {
    _SIGNED: lambda a, b, c: _products(a, b, c, signed=True),
    _UNSIGNED: lambda a, b, c: _products(a, b, c, signed=False),
}
"""The functions as expressions of TVM."""


def dp4a(a: Any, b: Any, c: Any, *, signed: bool) -> Any:
    """Add four products of bytes to an int32.

    Args:
        a: four bytes, uint32.
        b: four signed bytes, uint32.
        c: int32.
        signed: the bytes of ``a`` are.
    """
    return _call(_SIGNED if signed else _UNSIGNED, "int32", a, b, c)


def _call(name: str, dtype: str, *args: Any) -> Any:
    return T.cuda.func_call(name, *args, source_code=SOURCES[name], return_type=dtype)
