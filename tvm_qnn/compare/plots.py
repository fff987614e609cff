"""The plots of a page, as SVG that takes its colours from the style sheet of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm_qnn.compare.rows import (
    ELSEWHERE,
    ESTIMATED,
    HERE,
    REMOTE,
    TABLE,
    Machine,
    Operator,
    Variant,
)
from tvm_qnn.compare.svg import INK, LINE, MUTED, SERIES, drawn
from tvm_qnn.units import count, duration

_SHOWN = 7
"""Operators that get a colour of their own."""


@dataclass(frozen=True)
class Plot:
    """A plot of a page.

    Attributes:
        title: what it shows.
        kind: of its figures.
        text: how to read it.
        svg: the plot.
    """

    title: str
    kind: str
    text: str
    svg: str


def plots_of(variants: Sequence[Variant], machines: dict[str, Machine]) -> list[Plot]:
    """Draw everything that the variants have figures for."""
    found = [
        latency([v for v in variants if v.latency is not None and v.latency.kind == kind], kind)
        for kind in (HERE, REMOTE, ELSEWHERE, ESTIMATED, TABLE)
    ]
    found += [breakdown(model, variants) for model in dict.fromkeys(v.model for v in variants)]
    found += [trade(variants, unit) for unit in ("seconds", "cycles")]
    found += [roofline(variants, key, machine) for key, machine in machines.items()]
    return [plot for plot in found if plot is not None]


def latency(variants: Sequence[Variant], kind: str) -> Plot | None:
    """Draw a bar for each variant, those of one model together."""
    if not variants:
        return None
    costs = [v.latency for v in variants if v.latency is not None]
    unit = costs[0].unit
    lowerings = list(dict.fromkeys(v.lowering for v in variants))
    values = [c.median for c in costs]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        places = _places([v.model for v in variants])
        for place, variant, cost in zip(places, variants, costs, strict=True):
            colour = SERIES[lowerings.index(variant.lowering) % len(SERIES)]
            spread = [[cost.median - cost.p10], [cost.p90 - cost.median]] if cost.rounds else None
            axes.barh(place, cost.median, 0.72, color=colour, xerr=spread, ecolor=MUTED)
            text = duration(cost.median) if unit == "seconds" else count(cost.median)
            if variant.ratio is not None:
                text += f"  ({variant.ratio.median:.3g}x)"
            if cost.noise:
                text += "  noisy"
            axes.annotate(
                text, (cost.p90, place), (5, 0), textcoords="offset points", va="center", color=INK
            )
        axes.set_yticks(places, [_short(v) for v in variants])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        if max(values) > 20 * min(values):
            axes.set_xscale("log")
            axes.set_xlim(min(values) / 2, max(values) * 12)
            scale = ", logarithmic"
        else:
            axes.set_xlim(0, max(values) * 1.35)
            scale = ""
        axes.set_xlabel(("seconds" if unit == "seconds" else "cycles of one core") + scale)

    height = 0.9 + 0.34 * (_places([v.model for v in variants])[-1] + 1)
    text = "One inference. Shorter is better."
    if kind in (HERE, REMOTE, ELSEWHERE):
        text += " Whiskers: 10th and 90th percentile; x: times faster than the baseline."
    return Plot("Latency", kind, text, drawn(draw, height, f"latency {kind}"))


def _places(groups: Sequence[str]) -> list[float]:
    """Return places of bars, with a gap between groups."""
    places: list[float] = []
    place = 0.0
    for i, group in enumerate(groups):
        place += 0.0 if i == 0 else 1.0 if group == groups[i - 1] else 1.5
        places.append(place)
    return places


def _short(variant: Variant) -> str:
    how = "" if variant.lowering == "auto" else f" {variant.lowering}"
    return f"{variant.model.removeprefix('zoo:').removesuffix('.onnx')}  {variant.target}{how}"


def breakdown(model: str, variants: Sequence[Variant]) -> Plot | None:
    """Draw where the time of a model goes: the share of each operator, a bar for each variant."""
    shown = [v for v in variants if v.model == model and any(o.cost for o in v.operators)]
    if not shown or max(len(v.operators) for v in shown) < 2:
        return None
    shares = [_shares(v.operators) for v in shown]
    largest: dict[str, float] = {}
    for share in shares:
        for name, value in share.items():
            largest[name] = max(largest.get(name, 0.0), value)
    named = sorted(largest, key=lambda name: -largest[name])[:_SHOWN]
    order = [n for n in dict.fromkeys(n for share in shares for n in share) if n in named]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for row, share in enumerate(shares):
            left = 0.0
            rest = 100 - sum(share.get(name, 0.0) for name in order)
            parts = [*((n, SERIES[i]) for i, n in enumerate(order)), ("the others", LINE)]
            for name, colour in parts:
                value = rest if name == "the others" else share.get(name, 0.0)
                axes.barh(row, value, 0.7, left, color=colour, label=name if row == 0 else None)
                if value >= 7:
                    axes.text(left + value / 2, row, f"{value:.0f}", ha="center", va="center")
                left += value
        axes.set_yticks(range(len(shown)), [f"{v.target} {v.lowering}" for v in shown])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the sum of all kernels")
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, fontsize=9, handlelength=1,
            columnspacing=1.2,
        )  # fmt: skip

    kinds = list(dict.fromkeys(o.cost.kind for v in shown for o in v.operators if o.cost))
    return Plot(
        f"Where the time goes: {model}", ", ".join(kinds),
        "Each kernel on its own, in percent of their sum; the table below has the figures.",
        drawn(draw, 1.5 + 0.4 * len(shown), f"breakdown {model}"),
    )  # fmt: skip


def _shares(operators: Sequence[Operator]) -> dict[str, float]:
    found: dict[str, float] = {}
    total = sum(o.cost.median for o in operators if o.cost)
    for operator in operators:
        if operator.cost is not None:
            share = 100 * operator.cost.median / total
            found[operator.name] = found.get(operator.name, 0.0) + share
    return found


def trade(variants: Sequence[Variant], unit: str) -> Plot | None:
    """Draw bits and latency against accuracy, where there are at least two to choose from."""
    shown = [
        (v, v.latency, v.accuracy)
        for v in variants
        if v.latency is not None and v.accuracy is not None and v.latency.unit == unit
    ]
    if len({(v.weight_bits, a.value) for v, _, a in shown if v.weight_bits}) < 2:
        return None
    targets = list(dict.fromkeys(v.target for v, _, _ in shown))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        named: set[tuple[str, float, float | None]] = set()
        for variant, cost, accuracy in sorted(shown, key=lambda row: row[1].median):
            colour = SERIES[targets.index(variant.target) % len(SERIES)]
            peer = variant.lowering == "onnxruntime"
            place = (cost.median, 100 * accuracy.value)
            axes.scatter(
                *place, s=60, color="none" if peer else colour, edgecolors=colour, linewidths=1.5,
                zorder=3,
            )  # fmt: skip
            # Variants of one model lie side by side: the fastest bears their name.
            name = (variant.model, accuracy.value, variant.weight_bits)
            if name in named or peer:
                continue
            named.add(name)
            model = variant.model.removeprefix("zoo:").removesuffix(".onnx")
            bits = f", {variant.weight_bits:.2g} bits" if variant.weight_bits else ""
            axes.annotate(
                model + bits, place, (0, 8), textcoords="offset points", fontsize=9, color=INK
            )
        for i, target in enumerate(targets):
            axes.scatter([], [], s=40, color=SERIES[i % len(SERIES)], label=target)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xlim(low / 1.3, high * 3)
        axes.margins(y=0.15)
        scale = "seconds" if unit == "seconds" else "cycles of one core"
        axes.set_xlabel(f"{scale}, logarithmic")
        axes.set_ylabel("right answers, %")

    kinds = list(dict.fromkeys(kind for _, c, a in shown for kind in (c.kind, a.kind)))
    return Plot(
        "Bits, latency and accuracy", ", ".join(kinds),
        "Up and left is better, among models of one task. Bits: mean of a stored weight. Hollow: "
        "ONNX Runtime.",
        drawn(draw, 3.6, f"trade {unit}"),
    )  # fmt: skip


def roofline(variants: Sequence[Variant], key: str, machine: Machine) -> Plot | None:
    """Draw the operators that a machine ran under its roof."""
    mine = [v for v in variants if v.machine == key]
    shown = [(v, o) for v in mine for o in v.operators if o.roof is not None and o.cost is not None]
    if not shown:
        return None
    models = list(dict.fromkeys(v.model for v, _ in shown))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        points = []
        for variant, operator in shown:
            assert operator.roof is not None
            assert operator.cost is not None
            x, y = operator.roof.intensity, operator.macs / operator.cost.median
            top = operator.macs / operator.roof.compute
            colour = SERIES[models.index(variant.model) % len(SERIES)]
            hollow = variant.lowering == "float"
            axes.plot([x, x], [y, max(y, top)], color=LINE, linewidth=1, zorder=1)
            axes.plot(x, top, "_", color=colour, markersize=8, zorder=2)
            axes.scatter(
                x, y, s=34, color="none" if hollow else colour, edgecolors=colour, zorder=3
            )
            points += [(x, y), (x, top)]
        for i, model in enumerate(models):
            axes.scatter([], [], color=SERIES[i % len(SERIES)], label=model)
        left, right = min(p[0] for p in points) / 2, max(p[0] for p in points) * 2
        highest = max(p[1] for p in points) * 3
        ends = [left, min(right, highest / machine.bandwidth)]
        axes.plot(ends, [x * machine.bandwidth for x in ends], color=MUTED, linewidth=1.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(left, right)
        axes.set_ylim(min(p[1] for p in points) / 3, highest)
        axes.set_xlabel("multiply-accumulates a byte of weights and activations")
        axes.set_ylabel("multiply-accumulates a second")
        axes.legend(loc="lower right", fontsize=9)

    return Plot(
        f"Roofline: {key}", next(o.cost.kind for _, o in shown if o.cost is not None),
        f"A dot is an operator, the dash above it what its kernel family reaches with a large "
        f"convolution; the slope is the bandwidth of a copy, {machine.bandwidth / 1e9:.3g} GB/s. "
        "What lies above the slope lives in the caches. Hollow: float.",
        drawn(draw, 4.0, f"roofline {key}"),
    )  # fmt: skip
