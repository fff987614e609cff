"""A report as one page of HTML: no script, font or picture comes from outside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from tvm_qnn.compare import energy, roofline
from tvm_qnn.compare.columns import COLUMNS, Column, check_text, cost_text, spread_text
from tvm_qnn.compare.plots import check_plots, plots_of
from tvm_qnn.compare.rows import (
    ELSEWHERE,
    ESTIMATED,
    HERE,
    KINDS,
    REMOTE,
    TABLE,
    Machine,
    Operator,
    Report,
    ReportError,
    Run,
    Variant,
    write_report,
    write_text,
)
from tvm_qnn.nn.qmann.energy import PICOJOULES
from tvm_qnn.units import count, size

_CLASSES = {HERE: "here", REMOTE: "rpc", ELSEWHERE: "rpc", ESTIMATED: "model", TABLE: "model"}
_BELOW = ("kind", "peak", "MACs")
"""What stands in small print below another figure."""
_TEXT = ("model", "target", "lowering", "bound by")


def write_page(folder: Path, report: Report) -> Path:
    """Write ``index.html`` and ``report.json`` into a folder, which is made if missing.

    Returns:
        the page.

    Raises:
        InputError: matplotlib is not installed.
        ReportError: the folder cannot be written.
    """
    check_plots()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"{folder}: cannot be written ({error.strerror})") from error
    page = folder / "index.html"
    write_report(folder / "report.json", report)
    write_text(page, html(report))
    return page


def html(report: Report) -> str:
    """Return the page of a report."""
    here = Path(__file__).parent
    style, script = ((here / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tvm-qnn compare</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<main>
<h1>tvm-qnn compare</h1>
{_body(report)}{_reading()}</main>
<script>
{script}</script>
</body>
</html>
"""


def _body(report: Report) -> str:
    run = report.whole
    threads = f"{run.threads} thread{'s' * (run.threads > 1)}"
    commits = sorted({m.commit for m in report.runs[0].machines.values() if m.commit})
    commit = f", tvm-qnn at {escape(commits[0])}" if commits else ""
    others = "".join(
        f"<li>[{number}] {escape(other.when)}, {other.threads} "
        f"thread{'s' * (other.threads > 1)}</li>"
        for number, other in enumerate(report.runs)
        if number
    )
    plots = "".join(
        f'<figure class="card"><div class="head"><h3>{escape(p.title)}</h3>{_kinds(p.kind)}</div>'
        f'<div class="scroll">{p.svg}</div><figcaption>{escape(p.text)}</figcaption></figure>\n'
        for p in plots_of(run.variants, run.machines)
    )
    first = next((v for v in run.variants if v.operators), None)
    return f"""<p class="muted">{escape(run.when)}, {threads}{commit}</p>
{_facts(report.runs[0])}
<h2>All variants</h2>
<div class="card">{_table(run.variants)}</div>
<h2>Plots</h2>
<div class="plots">
{plots}</div>
<h2>Operators</h2>
{"".join(_operators(v, v is first) for v in run.variants if v.operators)}
{_refusals(run.variants)}
<h2>Machines</h2>
{f"<p>Other runs:</p><ul>{others}</ul>" if others else ""}
<div class="machines">{"".join(_machine(k, m) for k, m in run.machines.items())}</div>
"""


def _facts(run: Run) -> str:
    """Write the few figures that a reader looks for first."""
    facts = [
        (str(len({v.model for v in run.variants})), "models"),
        (str(len({v.target for v in run.variants})), "targets"),
    ]
    ratios = [(v, v.ratio) for v in run.variants if v.ratio is not None and v.lowering != "float"]
    if ratios:
        best, ratio = max(ratios, key=lambda pair: pair[1].median)
        against = ratio.against.rpartition(", ")[2]
        facts.append((f"{ratio.median:.3g}x", f"faster than {against}: {best.label}"))
    checks = [v.check for v in run.variants if v.check is not None]
    equal = sum(not c.differing for c in checks)
    if checks:
        facts.append((f"{equal} of {len(checks)}", "programs give exactly the defined outputs"))
    left = {refusal for v in run.variants if v.lowering == "auto" for refusal in v.refusals}
    facts.append((str(len(left)), "operators stay float"))
    cards = (
        f'<div class="card"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in facts
    )
    return f'<div class="facts">{"".join(cards)}</div>'


def _kinds(text: str) -> str:
    """Write the kinds of some figures as labels."""
    return " ".join(
        f'<span class="kind {_CLASSES.get(kind, "")}" title="{escape(KINDS.get(kind, ""))}">'
        f"{escape(kind)}</span>"
        for kind in text.split(", ")
        if kind
    )


def _table(variants: Sequence[Variant]) -> str:
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
        text += f"<br>{_kinds(variant.latency.kind)}"
        # Cycles by a model and seconds have no order among each other.
        value = value if variant.latency.unit == "seconds" else 1e9 + (value or 0.0)
    elif column.heading == "accuracy" and variant.accuracy is not None:
        text += f"<br>{_kinds(variant.accuracy.kind)}"
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


def _operators(variant: Variant, shown: bool) -> str:
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
<span class="muted">{len(variant.operators)} kernels</span> {_kinds(unit)}</summary>
<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>
{rows}</tbody></table></div></details>
"""


def _operator(operator: Operator, total: float) -> str:
    cost, roof = operator.cost, operator.roof
    share = 100 * cost.median / total if cost is not None and total else 0.0
    shown = "" if cost is None else cost_text(cost)
    note = operator.missing or ("" if cost is None else cost.noise)
    weights = f"M={operator.codebook}" if operator.codebook else _width(operator.weight_bits)
    cells = [
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


def _refusals(variants: Sequence[Variant]) -> str:
    """Name what stays float, once for each model."""
    found: dict[str, dict[str, None]] = {}
    for variant in variants:
        found.setdefault(variant.model, {}).update(dict.fromkeys(variant.refusals))
    parts = [
        f"<h3>{escape(model)}</h3><ul>{''.join(f'<li>{escape(r)}</li>' for r in refusals)}</ul>"
        for model, refusals in found.items()
        if refusals
    ]
    text = "".join(parts) or "<p>Every operator that could be an integer operator is one.</p>"
    return f'<h2>What stays float</h2><div class="card">{text}</div>'


def _machine(key: str, machine: Machine) -> str:
    clock = f"{machine.clock_hz / 1e9:.2f} GHz as the system tells" if machine.clock_hz else ""
    rates = ", ".join(f"{name} {count(rate)} a second" for name, rate in machine.rates.items())
    facts = {
        "processor": machine.cpu,
        "features": f"{machine.arch}: {' '.join(machine.features)}",
        "cores": str(machine.cores),
        "clock": ", ".join(filter(None, (clock, f"governor {machine.governor or 'unknown'}"))),
        "copy bandwidth": f"{machine.bandwidth / 1e9:.3g} GB/s, one core",
        "kernels reach": rates,
        "system": machine.system,
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "commit": machine.commit,
    }
    rows = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts.items() if v)
    return f'<div class="card"><h3>{escape(key)}</h3><dl>{rows}</dl></div>'


def _reading() -> str:
    """Explain kinds, energy and roof."""
    kinds = "".join(
        f"<dt>{_kinds(kind)}</dt><dd>{escape(text)}</dd>" for kind, text in KINDS.items()
    )
    table = ", ".join(f"{name} {value} pJ" for name, value in PICOJOULES.items())
    return f"""<h2>How to read this</h2>
<div class="card"><dl>{kinds}
<dt>energy</dt><dd>{_sentences(energy.__doc__)} {escape(table)}.</dd>
<dt>roof</dt><dd>{_sentences(roofline.__doc__)}</dd>
</dl></div>
"""


def _sentences(doc: str | None) -> str:
    """Return the text of a module's documentation below its first line."""
    text = (doc or "").partition("\n\n")[2]
    return escape(" ".join(text.split()).replace(":data:`tvm_qnn.nn.qmann.energy.PICOJOULES` ", ""))
