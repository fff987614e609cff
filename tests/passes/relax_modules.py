"""Modules of a few bindings, and what stands in a module after a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tvm_qnn._tvm import relax, tvm
from tvm_qnn.evaluate import evaluate
from tvm_qnn.ops import build
from tvm_qnn.passes.rewrite import calls
from tvm_qnn.spec import Codes, QType

UINT8, INT8 = Codes(0, 255), Codes(-128, 127)


class Main:
    """Builds ``main`` binding by binding; calling it emits an expression."""

    def __init__(self, shape: Sequence[int], dtype: str = "float32") -> None:
        self.x = relax.Var("x", relax.TensorType(list(shape), dtype))
        self.builder = relax.BlockBuilder()
        self.scope: list[Any] = []

    def __call__(self, expr: Any, name: str = "") -> Any:
        return self.builder.emit(expr, name)


def module(shape: Sequence[int], body: Callable[[Main, Any], Any], dtype: str = "float32") -> Any:
    """Return a module whose ``main`` is ``body(emit, x)``; a list makes a tuple of outputs."""
    main = Main(shape, dtype)
    with main.builder.function("main", [main.x]):
        with main.builder.dataflow():
            result = body(main, main.x)
            result = relax.Tuple(result) if isinstance(result, list) else result
            output = main.builder.emit_output(result)
        main.builder.emit_func_output(output)
    mod = main.builder.get()
    mod["main"] = mod["main"].with_attr("global_symbol", "main")
    return mod


def floats(values: Any) -> Any:
    """Return a float32 constant."""
    return relax.const(np.asarray(values, np.float32), "float32")


def quantized(main: Main, x: Any, qtype: QType, name: str = "q") -> Any:
    """Quantize and dequantize."""
    return main(build.dequantize(main(build.quantize(x, qtype), name), qtype))


def weights(codes: Any, scale: Any = 0.5, zero: int = 0) -> Any:
    """Return dequantized int8 weights (not yet emitted), with one scale or one per row."""
    scales = np.atleast_1d(np.asarray(scale, float))
    axis = 0 if scales.size > 1 else None
    qtype = QType(INT8, tuple(scales.tolist()), (zero,), axis)
    return build.dequantize(build.const(codes, "int8"), qtype)


def ops(mod: Any) -> list[str]:
    """Return the names of the operators of ``main`` in order, without prefixes of relax."""
    return [
        call.op.name.removeprefix("relax.") if hasattr(call.op, "name") else call.op.name_hint
        for _, call in calls(mod)
    ]


def call_of(mod: Any, op: str) -> Any:
    """Return the only call of an operator."""
    (found,) = (call for _, call in calls(mod) if getattr(call.op, "name", "") == op)
    return found


def same(before: Any, expected: Any) -> None:
    """Compare two modules, names of variables left aside."""
    tvm.ir.assert_structural_equal(before, expected, map_free_vars=True)


def outputs(mod: Any, x: Any) -> list[Any]:
    """Evaluate ``main`` by the definitions."""
    return evaluate(mod, {"x": np.asarray(x)})[""]
