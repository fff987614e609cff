"""Executables of a few lines, made with TVM alone, and what they compute."""

# TVMScript modules are classes whose functions have no self.
# ruff: noqa: N805

from __future__ import annotations

import numpy as np
from tvm.script import ir as I  # noqa: N812
from tvm.script import relax as R  # noqa: N812
from tvm.script import tirx as T  # noqa: N812

from tvm_qnn._tvm import relax, tvm

_STREAM = np.random.default_rng(3).integers(0, 256, 24, dtype=np.uint8)


def dense(target, offset=0):
    """Executable of x int8 [3, 64] times signs [3, 64] from a bit stream, plus ``offset``."""

    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def unpack(stream: T.Buffer((24,), "uint8"), signs: T.Buffer((3, 64), "int8")):
            for o, k in T.grid(3, 64):
                with T.sblock("unpack"):
                    vo, vk = T.axis.remap("SS", [o, k])
                    signs[vo, vk] = T.Cast(
                        "int8",
                        2
                        * (
                            (T.Cast("int32", stream[(vo * 64 + vk) // 8]) >> ((vo * 64 + vk) % 8))
                            & 1
                        )
                        - 1,
                    )

        @T.prim_func(private=True, s_tir=True)
        def product(
            x: T.Buffer((3, 64), "int8"),
            signs: T.Buffer((3, 64), "int8"),
            out: T.Buffer((3, 3), "int32"),
        ):
            for i in T.parallel(3):
                for o, k in T.grid(3, 64):
                    with T.sblock("product"):
                        vi, vo, vk = T.axis.remap("SSR", [i, o, k])
                        with T.init():
                            out[vi, vo] = offset
                        out[vi, vo] += T.Cast("int32", x[vi, vk]) * T.Cast("int32", signs[vo, vk])

        @R.function
        def prepare():
            cls = Module
            with R.dataflow():
                signs = R.call_tir(cls.unpack, (relax.const(_STREAM),), R.Tensor((3, 64), "int8"))
                prepared = (signs,)
                R.output(prepared)
            return prepared

        @R.function
        def main(x: R.Tensor((3, 64), "int8"), signs: R.Tensor((3, 64), "int8")):
            cls = Module
            with R.dataflow():
                out = R.call_tir(cls.product, (x, signs), R.Tensor((3, 3), "int32"))
                R.output(out)
            return out

    return tvm.compile(Module, target.tvm())


def dense_expected(x, offset=0):
    signs = 2 * np.unpackbits(_STREAM, bitorder="little").reshape(3, 64).astype(np.int32) - 1
    return x.astype(np.int32) @ signs.T + offset


DENSE_FIELDS = {
    "model": "dense",
    "inputs": [{"name": "x", "shape": (3, 64), "dtype": "int8"}],
    "outputs": [{"name": "y/0:out", "shape": (3, 3), "dtype": "int32"}],
    "prepared": 1,
    "quantization": [{"operator": "dense", "bits": np.int64(1)}],
    "kernels": [{"name": "qdense_w1a8_reference"}],
    "sizes": {"weights": 24},
}


def two_outputs(target):
    """Executable of (x + x float32 [5], popcount of b uint8 [7]), with nothing to prepare."""

    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((5,), "float32"), out: T.Buffer((5,), "float32")):
            for i in range(5):
                with T.sblock("double"):
                    vi = T.axis.spatial(5, i)
                    out[vi] = x[vi] + x[vi]

        @T.prim_func(private=True, s_tir=True)
        def popcount(b: T.Buffer((7,), "uint8"), out: T.Buffer((7,), "uint8")):
            for i in range(7):
                with T.sblock("popcount"):
                    vi = T.axis.spatial(7, i)
                    out[vi] = T.popcount(b[vi])

        @R.function
        def prepare():
            return R.tuple()

        @R.function
        def main(x: R.Tensor((5,), "float32"), b: R.Tensor((7,), "uint8")):
            cls = Module
            with R.dataflow():
                doubled = R.call_tir(cls.double, (x,), R.Tensor((5,), "float32"))
                counts = R.call_tir(cls.popcount, (b,), R.Tensor((7,), "uint8"))
                out = (doubled, counts)
                R.output(out)
            return out

    return tvm.compile(Module, target.tvm())


TWO_FIELDS = {
    "model": "two outputs",
    "inputs": [
        {"name": "x", "shape": [5], "dtype": "float32"},
        {"name": "b", "shape": [7], "dtype": "uint8"},
    ],
    "outputs": [
        {"name": "file", "shape": [5], "dtype": "float32"},
        {"name": "counts", "shape": [7], "dtype": "uint8"},
    ],
    "prepared": 0,
}


def dot_product(target):
    """Executable of one SDOT instruction: x int8 [16] times itself in groups of four."""

    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def squares(x: T.Buffer((16,), "int8"), out: T.Buffer((4,), "int32")):
            with T.sblock("dot"):
                out[T.ramp(0, 1, 4)] = T.call_llvm_pure_intrin(
                    "int32x4",
                    "llvm.aarch64.neon.sdot.v4i32.v16i8",
                    T.broadcast(T.int32(0), 4),
                    x[T.ramp(0, 1, 16)],
                    x[T.ramp(0, 1, 16)],
                )

        @R.function
        def prepare():
            return R.tuple()

        @R.function
        def main(x: R.Tensor((16,), "int8")):
            cls = Module
            with R.dataflow():
                out = R.call_tir(cls.squares, (x,), R.Tensor((4,), "int32"))
                R.output(out)
            return out

    return tvm.compile(Module, target.tvm())


DOT_FIELDS = {
    "model": "dot product",
    "inputs": [{"name": "x", "shape": [16], "dtype": "int8"}],
    "outputs": [{"name": "y", "shape": [4], "dtype": "int32"}],
    "prepared": 0,
}
