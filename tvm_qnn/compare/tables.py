"""The tables of a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tvm_qnn.compare.columns import COLUMNS, Column, check_text, cost_text, spread_text
from tvm_qnn.compare.rows import (
    ELSEWHERE,
    ESTIMATED,
    HERE,
    KINDS,
    REMOTE,
    TABLE,
    Operator,
    Variant,
)
from tvm_qnn.units import count, size

_CLASSES = {HERE: "here", REMOTE: "rpc", ELSEWHERE: "rpc", ESTIMATED: "model", TABLE: "model"}
_BELOW = ("kind", "peak", "MACs")
"""What stands in small print below another figure."""
_TEXT = ("model", "target", "lowering", "bound by")


def kinds(text: str) -> str:
    """Write the kinds of some figures as labels."""
    return " ".join(
        f'<span class="kind {_CLASSES.get(kind, "")}" title="{escape(KINDS.get(kind, ""))}">'
        f"{escape(kind)}</span>"
        for kind in text.split(", ")
        if kind
    )


def table_of(variants: Sequence[Variant]) -> str:
    """Write the table of all variants, with its notes."""
    shown = [c for c in COLUMNS if c.heading not in _BELOW and any(map(c.text, variants))]
    heads = "".join(
        f'<th class="sort{_side(c)}" title="{escape(c.explains)}">{escape(c.heading)}</th>'
        for c in shown
    )
    rows = "".join(f"<tr>{''.join(_cell(c, v, variants) for c in shown)}</tr>\n" for v in variants)
    notes = "".join(
        f"<li>{escape(v.label)}: {escape('; '.join(notes))}</li>"
        for v in variants
        if (notes := _notes(v))
    )
    notes = f"<details><summary>* Notes</summary><ul>{notes}</ul></details>" if notes else ""
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>'
        f"</div>{notes}"
    )


def _notes(variant: Variant) -> list[str]:
    noise = "" if variant.latency is None else variant.latency.noise
    return [note for note in (noise, variant.parts) if note]


def _side(column: Column) -> str:
    return " text" if column.heading in _TEXT else ""


def _cell(column: Column, variant: Variant, variants: Sequence[Variant]) -> str:
    text, value = escape(column.text(variant)), column.value(variant)
    small, style = _small(column, variant), ""
    if column.heading == "latency" and variant.latency is not None:
        text += f"<br>{kinds(variant.latency.kind)}"
        # Cycles by a model and seconds have no order among each other.
        value = value if variant.latency.unit == "seconds" else 1e9 + (value or 0.0)
    elif column.heading == "accuracy" and variant.accuracy is not None:
        text += f"<br>{kinds(variant.accuracy.kind)}"
    elif column.heading == "energy" and value:
        largest = max(v.picojoules or 0.0 for v in variants if v.model == variant.model)
        style = f' style="--share:{100 * value / largest:.1f}%"'
    small = f"<small>{escape(small)}</small>" if small else ""
    names = " ".join(filter(None, (_side(column).strip(), "bar" if style else "")))
    data = "" if value is None else f' data-value="{value:.6g}"'
    return f'<td class="{names}"{data}{style}>{text}{small}</td>'


def _small(column: Column, variant: Variant) -> str:
    """Return what stands in small print below a cell."""
    if column.heading == "latency" and variant.latency is not None:
        return spread_text(variant.latency)
    if column.heading == "faster" and variant.ratio is not None:
        ratio = variant.ratio
        return f"{ratio.p10:.3g} to {ratio.p90:.3g} than {ratio.against.rpartition(', ')[2]}"
    if column.heading == "accuracy" and variant.accuracy is not None:
        return f"{variant.accuracy.samples:,} samples"
    if column.heading == "lowering" and variant.check is not None:
        return check_text(variant.check)
    if column.heading == "memory" and variant.peak_bytes is not None:
        return f"peak {size(variant.peak_bytes)}, measured"
    if column.heading == "energy" and variant.macs:
        return f"{count(variant.macs)} MACs"
    return ""


def operators_of(variant: Variant, shown: bool) -> str:
    """Write the table of the kernels of a variant, unfolded if it is to be shown."""
    total = sum(o.cost.median for o in variant.operators if o.cost is not None)
    unit = next((o.cost.kind for o in variant.operators if o.cost is not None), "")
    heads = "".join(
        f'<th class="sort{" text" if h in ("operator", "kernel", "bound by") else ""}">{h}</th>'
        for h in (
            "operator", "kernel", "W", "A", "MACs", "weights", "moved", "cost", "%", "MAC/byte",
            "bound by", "of the roof", "tuned",
        )
    )  # fmt: skip
    rows = "".join(_operator(o, total) for o in variant.operators)
    return f"""<details class="card"{" open" * shown}><summary>{escape(variant.label)}
<span class="muted">{len(variant.operators)} kernels</span> {kinds(unit)}</summary>
<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>
{rows}</tbody></table></div></details>
"""


def _operator(operator: Operator, total: float) -> str:
    cost, roof = operator.cost, operator.roof
    share = 100 * cost.median / total if cost is not None and total else 0.0
    shown = "" if cost is None else cost_text(cost)
    note = operator.missing or ("" if cost is None else cost.noise)
    weights = f"M={operator.codebook}" if operator.codebook else _width(operator.weight_bits)
    cells: list[tuple[str, str, float | str, str]] = [
        ("text", operator.name, "", f"{operator.operator} {'x'.join(map(str, operator.shape))}"),
        ("text", operator.kernel, "", ""),
        ("", weights, operator.weight_bits, ""),
        ("", _width(operator.activation_bits), operator.activation_bits, ""),
        ("", count(operator.macs) if operator.macs else "", operator.macs, ""),
        (
            "",
            size(operator.weight_bytes) if operator.weight_bytes else "",
            operator.weight_bytes,
            "",
        ),
        ("", size(operator.moved_bytes), operator.moved_bytes, ""),
        ("", shown, 0 if cost is None else cost.median, note),
        ("bar", f"{share:.1f}" if cost is not None else "", share, ""),
        ("", f"{roof.intensity:.3g}" if roof else "", roof.intensity if roof else 0, ""),
        ("text", roof.bound if roof else "", "", ""),
        ("", f"{roof.share:.0%}" if roof else "", roof.share if roof else 0, ""),
        ("", f"{operator.gain:.2f}x" if operator.gain else "", operator.gain, ""),
    ]
    return "<tr>" + "".join(_td(*cell, share=share) for cell in cells) + "</tr>\n"


def _td(side: str, text: str, value: float | str, note: str, share: float) -> str:
    data = "" if value == "" else f' data-value="{value:.6g}"'
    style = f' style="--share:{share:.1f}%"' if side == "bar" else ""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f'<td class="{side}"{data}{style}>{escape(text)}{small}</td>'


def _width(bits: int) -> str:
    return {0: "", 32: "float"}.get(bits, str(bits))
