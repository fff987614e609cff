"""The table of variants, for the terminal and for the page alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm_qnn.compare.rows import Check, Cost, Operator, Variant
from tvm_qnn.units import count, duration, energy, size


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        heading: in a word or two.
        text: what it shows of a variant; "" where there is no figure.
        value: what it is sorted by; None for text, or where there is no figure.
        explains: what it means.
        terminal: whether the table in the terminal has it.
    """

    heading: str
    text: Callable[[Variant], str]
    value: Callable[[Variant], float | None] = lambda variant: None
    explains: str = ""
    terminal: bool = True


def cost_text(cost: Cost) -> str:
    """Write a cost: 45 µs, or 1.46 M cycles."""
    return duration(cost.median) if cost.unit == "seconds" else f"{count(cost.median)} cycles"


def spread_text(cost: Cost) -> str:
    """Write the spread of a measured cost; "" for others."""
    if not cost.rounds:
        return ""
    text = f"{duration(cost.p10)} to {duration(cost.p90)}, {cost.rounds} rounds"
    return f"{text}; {cost.noise}" if cost.noise else text


def check_text(check: Check) -> str:
    """Say how the outputs compare with their definition."""
    if not check.differing:
        return f"{check.elements} outputs equal"
    return f"{check.differing} of {check.elements} outputs differ, by {check.largest:.2g} at most"


def bound_text(operators: Sequence[Operator]) -> str:
    """Say what share of the time is bound by arithmetic, and by memory."""
    times = {"compute": 0.0, "memory": 0.0}
    for operator in operators:
        if operator.roof is not None and operator.cost is not None and operator.roof.bound:
            times[operator.roof.bound] += operator.cost.median
    total = sum(times.values())
    if not total:
        return ""
    bound = max(times, key=lambda name: times[name])
    return f"{bound} ({times[bound] / total:.0%})"


def _latency(v: Variant) -> str:
    if v.latency is None:
        return ""
    return cost_text(v.latency) + (" *" if v.latency.noise or v.parts else "")


def _kind(v: Variant) -> str:
    return "" if v.latency is None else v.latency.kind


def _faster(v: Variant) -> str:
    return "" if v.ratio is None else f"{v.ratio.median:.3g}x"


def _bits(v: Variant) -> str:
    return "" if v.weight_bits is None else f"{v.weight_bits:.2g}"


def _accuracy(v: Variant) -> str:
    return "" if v.accuracy is None else f"{100 * v.accuracy.value:.2f} %"


def _memory(v: Variant) -> str:
    return "" if v.planned_bytes is None else size(v.planned_bytes)


def _tuned(v: Variant) -> str:
    return f"{v.tuned} of {v.tunable}" if v.tunable else ""


COLUMNS = (
    Column("model", lambda v: v.model),
    Column("target", lambda v: v.target),
    Column("lowering", lambda v: v.lowering),
    Column(
        "latency", _latency, lambda v: None if v.latency is None else v.latency.median,
        "of one inference; * has a note",
    ),
    Column("kind", _kind, explains="how the latency was found"),
    Column(
        "faster", _faster, lambda v: None if v.ratio is None else v.ratio.median,
        "times faster than the baseline of the model, from the pairs of each round",
    ),
    Column("bits", _bits, lambda v: v.weight_bits, "mean of a stored weight"),
    Column(
        "accuracy", _accuracy, lambda v: None if v.accuracy is None else v.accuracy.value,
        "share of right answers",
    ),
    Column(
        "weights", lambda v: "" if v.weight_bytes is None else size(v.weight_bytes),
        lambda v: v.weight_bytes, "bytes of all weights: packed, or float32 where they are float",
    ),
    Column(
        "artifact", lambda v: "" if v.artifact_bytes is None else size(v.artifact_bytes),
        lambda v: v.artifact_bytes, "bytes on disk: code, weights, manifest; of the ONNX file for "
        "onnxruntime",
    ),
    Column(
        "memory", _memory, lambda v: v.planned_bytes,
        "bytes of constants, of unpacked weights and of activations, counted",
    ),
    Column(
        "peak", lambda v: "" if v.peak_bytes is None else size(v.peak_bytes),
        lambda v: v.peak_bytes, "what a process needs more, at its peak, than before it loads the "
        "artifact, measured here", terminal=False,
    ),
    Column(
        "MACs", lambda v: count(v.macs) if v.macs else "", lambda v: v.macs,
        "multiply-accumulates",
    ),
    Column(
        "energy", lambda v: energy(v.picojoules) if v.picojoules else "", lambda v: v.picojoules,
        "of the arithmetic, by the table of picojoules",
    ),
    Column(
        "bound by", lambda v: bound_text(v.operators),
        explains="what limits the operators, and how much of the time",
    ),
    Column(
        "tuned", _tuned, lambda v: v.tuned if v.tunable else None, "kernels with a tuned schedule",
    ),
    Column(
        "float", lambda v: str(len(v.refusals)) if v.macs is not None else "",
        lambda v: len(v.refusals) if v.macs is not None else None, "operators that stay float",
    ),
)  # fmt: skip
