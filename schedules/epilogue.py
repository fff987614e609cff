"""From sums of digit products to what a kernel stores, exactly as ``spec`` defines it.

The float32 operations are convert, multiply, add, each rounded. LLVM would fuse the multiplication
with the addition, so a fence stands between them (:func:`tvm_qnn.schedules.ir.unfused`). Clipping
to the range of the codes happens in float32, whose integers are exact there, before the conversion
to int32, which could otherwise overflow.
"""

from __future__ import annotations

from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import ir
from tvm_qnn.schedules.plan import WORD, Plan, ceil_div
from tvm_qnn.spec import Codes

_UNROLLED_THRESHOLDS = 16


def float_exact(epilogue: Epilogue) -> bool:
    """Tell whether float32 holds every integer that clipping compares with."""
    codes = epilogue.codes
    if epilogue.kind != "requantize" or codes is None:
        return True
    return max(abs(codes.lo - epilogue.zero), abs(codes.hi - epilogue.zero)) < 2**24


def has_result(work: ConvWork, plan: Plan) -> bool:
    """Tell whether a block ``result`` stands between the accumulators and the last block."""
    return work.epilogue.pack or work.out_channels != plan.channels


def out_blocks(work: ConvWork, plan: Plan) -> int:
    """Return the steps of the channel loop of the last block that make up one tile."""
    return plan.blocks * plan.lanes // WORD if work.epilogue.pack else plan.blocks


def output_type(work: ConvWork) -> tuple[tuple[int, ...], str]:
    """Return the shape and dtype of the result of a kernel."""
    shape = (work.batch, work.out_height, work.out_width, work.out_channels)
    epilogue = work.epilogue
    if epilogue.kind == "none":
        return shape, "int32"
    if epilogue.kind == "affine":
        return shape, "float32"
    assert epilogue.codes is not None
    if epilogue.pack:
        return (*shape[:3], epilogue.codes.bits, ceil_div(shape[3], WORD)), "uint32"
    return shape, epilogue.codes.dtype


def parameter_types(work: ConvWork) -> list[tuple[str, tuple[int, ...], str]]:
    """Return name, shape and dtype of the parameters of the epilogue."""
    channels = (work.out_channels,)
    if work.epilogue.kind in ("affine", "requantize"):
        return [("mul", channels, "float32"), ("add", channels, "float32")]
    if work.epilogue.kind == "threshold":
        assert work.epilogue.codes is not None
        count = work.epilogue.codes.count - 1
        return [("thresholds", (count, *channels), "int32"), ("falling", channels, "int32")]
    return []


def prepare_parameters(work: ConvWork, plan: Plan, parameters: tuple[Any, ...]) -> tuple[Any, ...]:
    """Fill the parameters up to whole registers, so that further channels have index 0.

    Thresholds of falling channels are complemented: ``acc <= t`` is ``~acc >= ~t``.
    """
    size, channels = work.out_channels, plan.channels
    epilogue = work.epilogue
    if epilogue.kind == "threshold":
        thresholds, falling = parameters
        flips = ir.alloc((channels,), "int32")
        with ir.stage("flips", (channels,)) as (o,):
            flip = tirx.if_then_else(o < size, falling[o], tirx.const(0, "int32"))
            ir.store(flips, 0 - flip, o)
        levels = ir.alloc((int(thresholds.shape[0]), channels), "int32")
        with ir.stage("levels", levels.shape) as (t, o):
            unreached = tirx.const(2**31 - 1, "int32")
            level = tirx.if_then_else(o < size, thresholds[t, o], unreached)
            ir.store(levels, tirx.bitwise_xor(level, flips[o]), t, o)
        return (levels, flips)
    if size == channels or not parameters:
        return parameters
    lowest = 0.0
    if epilogue.codes is not None and epilogue.codes.step == 1:
        lowest = float(epilogue.codes.lo - epilogue.zero)
    filled = []
    for buffer, name, value in zip(parameters, ("mul", "add"), (0.0, lowest), strict=True):
        wide = ir.alloc((channels,), "float32")
        with ir.stage(f"{name}_filled", (channels,)) as (o,):
            element = tirx.if_then_else(o < size, buffer[o], tirx.const(value, "float32"))
            ir.store(wide, element, o)
        filled.append(wide)
    return tuple(filled)


def affine(acc: Any, mul: Any, add: Any, lanes: int) -> Any:
    """Scale int32 accumulators to float32 with three roundings."""
    return ir.unfused(ir.cast(acc, "float32", lanes) * mul, lanes) + add


ROUND = {
    "half_even": tirx.nearbyint,
    "floor": tirx.floor,
    "ceil": tirx.ceil,
    "truncate": tirx.trunc,
}


def rounded_index(y: Any, codes: Codes, zero: int, rounding: str, lanes: int) -> Any:
    """Round and clip float32 to the index of a code, int32."""
    low, high = (codes.lo - zero, codes.hi - zero) if codes.step == 1 else (0, codes.count - 1)
    # The ends are integers, so clipping first gives the same.
    y = tirx.max(y, ir.const(float(low), "float32", lanes))
    y = tirx.min(y, ir.const(float(high), "float32", lanes))
    if rounding == "half_even" and lanes > 1:
        index = ir.intrinsic(ir.vector("int32", lanes), "llvm.lrint", y)
    else:
        index = ir.cast(ROUND[rounding](y), "int32", lanes)
    return index - ir.const(low, "int32", lanes) if low else index


def counted_index(acc: Any, levels: Any, flips: Any, at: Any, lanes: int) -> Any:
    """Count the thresholds that accumulators reach, int32."""
    flipped = tirx.bitwise_xor(acc, flips[at])
    count = int(levels.shape[0])
    if count <= _UNROLLED_THRESHOLDS:
        index = ir.const(0, "int32", lanes)
        for t in range(count):
            index = index + ir.cast(flipped >= levels[t, at], "int32", lanes)
        return index
    counter = ir.alloc((lanes,), "int32", scope="local")
    first = ir.lanes_at(0, lanes)
    ir.store(counter, ir.const(0, "int32", lanes), first)
    with ir.serial(count) as t:
        reached = ir.cast(flipped >= levels[t, at], "int32", lanes)
        ir.store(counter, counter[first] + reached, first)
    return counter[first]


def code_of(index: Any, codes: Codes, lanes: int) -> Any:
    """Turn an int32 index into a code in the dtype of the codes."""
    if codes.step != 1:
        index = index * ir.const(codes.step, "int32", lanes)
    if codes.lo:
        index = index + ir.const(codes.lo, "int32", lanes)
    return ir.cast(index, codes.dtype, lanes)
