"""Tables that people can read, and the same as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tvm_qnn.inspection import Inspection
from tvm_qnn.units import count, duration

__all__ = [
    "count",
    "duration",
    "print_checks",
    "print_inspection",
    "print_refusals",
    "print_targets",
    "print_zoo",
    "sizes",
]


def sizes(manifest: Any) -> str:
    """Write the sizes of an artifact in one line."""
    return ", ".join(f"{name} {value:,} bytes" for name, value in manifest.sizes.items())


def _bits(row: Any) -> tuple[str, str]:
    if not row.weight_bits:
        weights = ""
    elif row.codebook:
        weights = f"M={row.codebook}"
    else:
        weights = "float" if row.weight_bits == 32 else str(row.weight_bits)
    activations = {0: "", 32: "float"}.get(row.activation_bits, str(row.activation_bits))
    return weights, activations


def print_inspection(inspection: Inspection, as_json: bool = False) -> None:
    """Print the operators of a model."""
    if as_json:
        print(json.dumps(asdict(inspection), indent=1))
        return
    console = Console()
    table = Table(
        title=escape(f"{inspection.model} on {inspection.target}"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    numbers = ("W", "A", "MACs", "bytes", "tuned")
    for heading in ("operator", "shape", "W", "A", "MACs", "bytes", "kernel", "tuned", "out"):
        table.add_column(
            heading,
            justify="right" if heading in numbers else "left",
            no_wrap=heading not in ("operator", "kernel"),
            min_width=14 if heading == "operator" else None,
            overflow="fold",
        )
    for row in inspection.rows:
        weights, activations = _bits(row)
        table.add_row(
            escape(row.name),
            "x".join(map(str, row.shape)),
            weights,
            activations,
            count(row.macs) if row.macs else "",
            f"{row.weight_bytes:,}" if row.weight_bytes else "",
            row.kernel,
            f"{row.gain:.2f}x" if row.gain else "",
            row.epilogue.partition(" ")[0],
            style="yellow" if row.kernel == "float" else None,
        )
    console.print(table)
    reasons = [f"  {row.name}: {row.why}" for row in inspection.rows if row.why]
    legend = "W, A: bits of weights and activations; tuned: times faster than the default schedule."
    for line in (f"{legend} Why these kernels:" if reasons else legend, *reasons):
        console.print(line, style="dim", highlight=False, markup=False)
    packed, full = inspection.weight_bytes, inspection.float_weight_bytes
    ratio = f", {full / packed:.1f} times smaller than float32" if packed else ""
    console.print(
        f"{count(inspection.macs)} multiply-accumulates, {packed:,} bytes of weights{ratio}",
        highlight=False,
    )
    print_refusals(console, inspection)


def print_refusals(console: Console, inspection: Inspection) -> None:
    """Name what stays float, why, and what would help, behind what the import tells."""
    for note in inspection.notes:
        console.print(note, highlight=False, markup=False)
    if not inspection.refusals:
        console.print("Every operator that could be an integer operator is one.")
        return
    console.print("Stays float:", style="yellow")
    for refusal in inspection.refusals:
        console.print(f"  {refusal}", highlight=False, markup=False)


def print_targets(as_json: bool = False) -> None:
    """Print the known devices."""
    from tvm_qnn import targets

    records = [targets.host(), *targets.all_targets()]
    if as_json:
        rows = [
            {
                "name": t.name,
                "description": t.description,
                "triple": t.triple,
                "cpu": t.cpu,
                "features": sorted(t.features),
                "reachable": targets.reachable(t),
            }
            for t in records
        ]
        print(json.dumps(rows, indent=1))
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("target", "device", "cpu", "features", "here"):
        table.add_column(heading, no_wrap=heading in ("target", "cpu", "here"), overflow="fold")
    reached = {t.name: targets.reachable(t) for t in records}
    for t in records:
        here = reached[t.name].partition(":")[0]
        table.add_row(t.name, t.description, t.cpu, " ".join(sorted(t.features)), here)
    console = Console()
    console.print(table)
    for name, line in reached.items():
        if not line.startswith("native"):
            console.print(f"{name}: {line.partition(': ')[2]}", style="dim", highlight=False)


def print_zoo(as_json: bool = False) -> None:
    """Print the models of the zoo."""
    from tvm_qnn import zoo

    if as_json:
        print(json.dumps([asdict(e) for e in zoo.entries()], indent=1))
        return
    table = Table()
    for heading, justify in (
        ("model", "left"),
        ("task", "left"),
        ("weights", "left"),
        ("activations", "left"),
        ("accuracy", "right"),
        ("bytes", "right"),
    ):
        fixed = heading == "model"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=fixed)  # type: ignore[arg-type]
    for entry in zoo.entries():
        table.add_row(
            f"zoo:{entry.name}",
            entry.task,
            entry.weights,
            entry.activations,
            f"{100 * entry.test_accuracy:.2f} %",
            f"{entry.size_bytes:,}",
        )
    Console().print(table)


def print_checks(target: str, device: str) -> bool:
    """Print what ``doctor`` finds, each line as it comes; tell whether tuning can work."""
    from tvm_qnn import targets
    from tvm_qnn.tuning import doctor

    device_target = targets.get(target)
    console = Console(soft_wrap=True)
    well = True
    for check in doctor.checks(device_target, device):
        mark, style = (
            ("!!", "red") if check.fatal else ("! ", "yellow") if check.remedy else ("ok", "")
        )
        console.print(f"{mark} {check.name}: {check.found}", style=style, markup=False)
        if check.remedy:
            console.print(f"   {check.remedy}", style="dim", markup=False, highlight=False)
        well &= not check.fatal
    return well
