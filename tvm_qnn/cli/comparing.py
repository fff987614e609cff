"""``tvm-qnn compare`` and ``tvm-qnn diff``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from tvm_qnn.arrays import write_npz
from tvm_qnn.cli.app import arrays_of
from tvm_qnn.compare import (
    Report,
    Variant,
    compare,
    diff,
    read_report,
    write_page,
    write_report,
)
from tvm_qnn.compare.columns import COLUMNS, Column
from tvm_qnn.compare.svg import check_plots
from tvm_qnn.errors import InputError

_SEPARATORS = ","
_FEWEST = 5
"""Columns that are printed in any case: what it is, its latency, and how that was found."""


def compare_models(
    models: Sequence[str], targets: str, lowerings: str, report: Path | None, json: Path | None,
    others: Sequence[Path], devices: Sequence[str], **options: Any,
) -> None:  # fmt: skip
    """Compare models, print the table, and write what is asked for."""
    if report is not None:
        check_plots()
    earlier = [read_report(path) for path in others]
    with _bar() as bar:
        task = bar.add_task("", total=None)
        found = compare(
            models, listed(targets, "--targets"), lowerings=listed(lowerings, "--lowering"),
            devices=_devices(devices), **options,
            progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
        )  # fmt: skip
    for other in earlier:
        found = found.joined(other)
    console = Console()
    print_report(console, found)
    if json is not None:
        write_report(json, found)
        console.print(f"{json}: the same as JSON", highlight=False, markup=False)
    if report is not None:
        page = write_page(report, found)
        console.print(f"{page}: open it in a browser", highlight=False, markup=False)


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


def listed(text: str, option: str) -> list[str]:
    """Read names with commas between them.

    Raises:
        InputError: there is none.
    """
    names = [name.strip() for name in text.split(_SEPARATORS) if name.strip()]
    if not names:
        raise InputError(f"{option} {text!r}: give names with commas between them")
    return list(dict.fromkeys(names))


def _devices(given: Sequence[str]) -> dict[str, str]:
    """Read ``TARGET=rpc://HOST:PORT/KEY``.

    Raises:
        InputError: it is something else.
    """
    found = {}
    for text in given:
        target, _, address = text.partition("=")
        if not target or not address:
            raise InputError(
                f"--device {text}: write TARGET=rpc://HOST:PORT/KEY, such as "
                "rpi4=rpc://192.168.0.2:9190/rpi4"
            )
        found[target] = address
    return found


def print_report(console: Console, report: Report) -> None:
    """Print the table of every run, and its notes."""
    for number, run in enumerate(report.runs):
        machines = ", ".join(
            machine.cpu if key.startswith("this") else f"{key} ({machine.cpu})"
            for key, machine in run.machines.items()
        )
        title = f"{'earlier run of ' * bool(number)}{run.when}  {machines}"
        _print_variants(console, run.variants, title)
        for variant in run.variants:
            noise = "" if variant.latency is None else variant.latency.noise
            for note in filter(None, (noise, variant.parts)):
                console.print(
                    f"* {variant.label}: {note}", style="dim", highlight=False, markup=False
                )
        refusals = dict.fromkeys(
            f"{variant.model}: {refusal}"
            for variant in run.variants
            for refusal in variant.refusals
        )
        if refusals:
            console.print("Stays float:", style="yellow")
            for refusal in refusals:
                console.print(f"  {refusal}", highlight=False, markup=False)


def _print_variants(console: Console, variants: Sequence[Variant], title: str) -> None:
    """Print as many columns as are filled and fit, the first ones first."""
    filled = [c for c in COLUMNS if c.terminal and any(map(c.text, variants))]
    room = console.width
    shown: list[Column] = []
    for column in filled:
        room -= 2 + max(len(text) for text in (column.heading, *map(column.text, variants)))
        if room < -2 and len(shown) > _FEWEST:
            break
        shown.append(column)
    table = Table(
        title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False,
    )  # fmt: skip
    for column in shown:
        number = any(column.value(variant) is not None for variant in variants)
        table.add_column(
            column.heading, justify="right" if number else "left", overflow="fold",
            no_wrap=column.heading != "model",
        )  # fmt: skip
    for variant in variants:
        table.add_row(*(escape(column.text(variant)) for column in shown))
    console.print(table)
    if len(shown) < len(filled):
        console.print(
            f"no room for: {', '.join(c.heading for c in filled[len(shown):])}; a wider terminal, "
            "--json or --report has them",
            style="dim", highlight=False, markup=False,
        )  # fmt: skip


def diff_targets(
    model: str, targets: str, source: Path | None, output: Path, lowering: str, limit: int,
    batch: int | None, database: Path | None,
) -> bool:  # fmt: skip
    """Print the first operator whose integers differ between two targets; tell if none does."""
    console = Console(soft_wrap=True)
    names = [name.strip() for name in targets.split(_SEPARATORS) if name.strip()]
    if len(names) != 2:
        raise InputError(f"--targets {targets}: give two targets, such as host,rpi4")
    arrays, origin = arrays_of(model, source)
    with _bar() as bar:
        task = bar.add_task(f"running on {names[0]} and {names[1]}", total=None)
        found = diff(
            model, (names[0], names[1]), arrays, lowering=lowering, batch=batch,
            database=database, limit=limit,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    first = found.first
    if first is None:
        console.print(
            f"equal: {found.operators} operators, {found.batches} inputs ({origin})",
            highlight=False, markup=False,
        )  # fmt: skip
        return True
    write_npz(output, first.inputs)
    one, two = first.values
    console.print(
        f"first difference: {first.name}, {first.differing:,} of {first.elements:,} elements; at "
        f"{list(first.where)} {names[0]} gives {one}, {names[1]} {two}",
        style="red", highlight=False, markup=False,
    )  # fmt: skip
    console.print(
        f"{output}: input that shows it; which side is wrong tells: tvm-qnn verify {model} "
        f"-t {names[0]} -i {output}",
        highlight=False, markup=False,
    )  # fmt: skip
    return False
