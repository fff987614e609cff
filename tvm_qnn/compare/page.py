"""A report as one page of HTML: no script, font or picture comes from outside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from tvm_qnn.compare import energy, roofline
from tvm_qnn.compare.files import ReportError, write_report, write_text
from tvm_qnn.compare.plots import plots_of
from tvm_qnn.compare.rows import KINDS, Machine, Report, Run, Variant
from tvm_qnn.compare.svg import check_plots
from tvm_qnn.compare.tables import kinds, operators_of, table_of
from tvm_qnn.picojoules import PICOJOULES
from tvm_qnn.units import count


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
        f'<figure class="card"><div class="head"><h3>{escape(p.title)}</h3>{kinds(p.kind)}</div>'
        f'<div class="scroll">{p.svg}</div><figcaption>{escape(p.text)}</figcaption></figure>\n'
        for p in plots_of(run.variants, run.machines)
    )
    first = next((v for v in run.variants if v.operators), None)
    return f"""<p class="muted">{escape(run.when)}, {threads}{commit}</p>
{_facts(report.runs[0])}
<h2>All variants</h2>
<div class="card">{table_of(run.variants)}</div>
<h2>Plots</h2>
<div class="plots">
{plots}</div>
<h2>Operators</h2>
{"".join(operators_of(v, v is first) for v in run.variants if v.operators)}
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
    checks = [v.check for v in run.variants if v.check is not None and v.lowering != "float"]
    equal = sum(not c.differing for c in checks)
    if checks:
        facts.append(
            (f"{equal} of {len(checks)}", "integer programs give exactly the defined outputs")
        )
    left = {refusal for v in run.variants if v.lowering == "auto" for refusal in v.refusals}
    facts.append((str(len(left)), "operators stay float"))
    cards = (
        f'<div class="card"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in facts
    )
    return f'<div class="facts">{"".join(cards)}</div>'


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
    explained = "".join(
        f"<dt>{kinds(kind)}</dt><dd>{escape(text)}</dd>" for kind, text in KINDS.items()
    )
    table = ", ".join(f"{name} {value} pJ" for name, value in PICOJOULES.items())
    return f"""<h2>How to read this</h2>
<div class="card"><dl>{explained}
<dt>energy</dt><dd>{_sentences(energy.__doc__)} {escape(table)}.</dd>
<dt>roof</dt><dd>{_sentences(roofline.__doc__)}</dd>
</dl></div>
"""


def _sentences(doc: str | None) -> str:
    """Return the text of a module's documentation below its first line."""
    text = (doc or "").partition("\n\n")[2]
    return escape(" ".join(text.split()).replace(":data:`tvm_qnn.picojoules.PICOJOULES` ", ""))
