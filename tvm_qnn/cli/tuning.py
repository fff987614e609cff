"""``tvm-qnn tune``: a live table of kernels while they get faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from tvm_qnn.cli.tables import count, duration


def tune_model(
    model: str, target: str, database: Path, device: str, trials: int | None, seed: int,
    resume: bool, batch: int | None,
) -> None:  # fmt: skip
    """Tune a model under a live table."""
    from tvm_qnn.tuning import Outcome, tune

    console = Console()
    start = time.monotonic()
    shown: Sequence[Any] = ()
    outcome: Outcome | None = None

    with Live(console=console, auto_refresh=False) as live:

        def report(tunings: Sequence[Any], done: int, total: int) -> None:
            nonlocal shown
            shown = tunings
            live.update(
                Group(_left(done, total, time.monotonic() - start), _table(tunings, device)),
                refresh=True,
            )

        try:
            outcome = tune(
                model, target, database, device=device, trials=trials, seed=seed, resume=resume,
                batch=batch, report=report,
            )  # fmt: skip
        except KeyboardInterrupt:
            live.stop()
            console.print(
                f"stopped; {database} holds what was found, --resume goes on from there",
                soft_wrap=True, highlight=False, markup=False,
            )  # fmt: skip
            raise
    shown = outcome.tunings
    for tuning in shown:
        for reason, times in tuning.errors.items():
            console.print(
                f"{tuning.task.name}: {times} of {tuning.trials} schedules failed: {reason}",
                style="yellow", markup=False, highlight=False,
            )  # fmt: skip
    console.print(
        f"\nuse it: tvm-qnn compile {model} -t {target} --database {database} -o DIR",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip


def _table(tunings: Sequence[Any], device: str) -> Table:
    """Write a row for each kernel: operators that cost most first, their fastest kernel on top."""
    fastest: dict[str, float] = {}
    for tuning in tunings:
        for operator in tuning.task.operators if tuning.best is not None else ():
            fastest[operator] = min(fastest.get(operator, tuning.best), tuning.best)

    def order(tuning: Any) -> tuple[float, str, float]:
        first = tuning.task.operators[0]
        return (-fastest.get(first, 0.0), first, tuning.best or 0.0)

    estimated = device == "estimate"
    columns: list[tuple[str, Callable[[Any], str]]] = [
        ("kernel", lambda t: t.task.name),
        ("shape", lambda t: escape(shape(t.task.work))),
        ("uses", lambda t: str(len(t.task.operators))),
        ("tried", lambda t: str(t.trials)),
        ("failed", lambda t: str(t.failed)),
        (
            "cycles (est.)" if estimated else "time",
            lambda t: "" if t.best is None else count(t.best) if estimated else duration(t.best),
        ),
        ("gain", lambda t: "" if t.best is None else f"{t.gain:.2f}"),
        ("", lambda t: escape(t.dropped or ("all tried" if t.exhausted else ""))),
    ]
    # What is the same everywhere takes no room from what is not.
    boring = {"uses": "1", "failed": "0"}
    shown = [(h, f) for h, f in columns if h not in boring or {*map(f, tunings)} - {boring[h]}]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading, _ in shown:
        right = heading not in ("kernel", "shape", "")
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=right or heading == "shape",
            overflow="fold",
        )  # fmt: skip
    for tuning in sorted(tunings, key=order):
        best = tuning.best
        slower = best is None or all(best > fastest[o] for o in tuning.task.operators)
        table.add_row(*(show(tuning) for _, show in shown), style="dim" if slower else None)
    return table


def shape(work: Any) -> str:
    """Write the shape of some work: 3x3 64-128 14x14."""
    conv = getattr(work, "conv", work)
    if conv.dense:
        return f"{conv.width}x {conv.in_channels}-{conv.out_channels}"
    kernel = "x".join(map(str, conv.kernel))
    stride = f"/{conv.strides[0]}" if conv.strides != (1, 1) else ""
    return f"{kernel}{stride} {conv.in_channels}-{conv.out_channels} {conv.height}x{conv.width}"


def _left(done: int, total: int, seconds: float) -> str:
    """Write how far the session is and how long it may still take."""
    left = seconds / max(done, 1) * max(total - done, 0)
    return f"{done} of {total} schedules, {seconds:.0f} s, about {left:.0f} s left"


def show_database(folder: Path) -> None:
    """Print the records of a database."""
    from tvm_qnn.schedules.database import load
    from tvm_qnn.schedules.records import parse_work

    console = Console()
    for target, records in groupby(load(folder), key=lambda record: record.target):
        table = Table(
            title=target, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
            pad_edge=False,
        )  # fmt: skip
        for heading in ("kernel", "shape", "cost", "gain", "tried", "device"):
            right = heading in ("cost", "gain", "tried")
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
        for record in records:
            work = parse_work(record.work)
            measured = record.unit == "seconds"
            table.add_row(
                work.name(record.family),
                shape(work),
                duration(record.cost) if measured else f"{count(record.cost)} cycles (estimated)",
                f"{record.gain:.2f}",
                str(record.trials),
                escape(record.device),
            )
        console.print(table)


def merge_databases(into: Path, others: Sequence[Path]) -> None:
    """Add the records of other databases to one."""
    from tvm_qnn.schedules.database import Database, load, save

    # All are read before anything is written.
    found = [load(folder) for folder in others]
    database = load(into) if into.is_dir() else Database()
    taken = sum(database.merge(other) for other in found)
    save(database, into)
    Console().print(f"{into}: {taken} new or better records, {len(database)} in all")


def prune_database(folder: Path) -> None:
    """Delete the records that no kernel of this version can use."""
    from tvm_qnn.schedules.database import load, save
    from tvm_qnn.tuning.stale import stale

    database = load(folder)
    gone = [(record, why) for record in database if (why := stale(record))]
    for record, why in gone:
        Console().print(
            f"{record.target} {record.family} {record.work}: {why}", markup=False, soft_wrap=True
        )
    database.drop(record for record, _ in gone)
    save(database, folder)
    Console().print(f"{folder}: {len(gone)} records deleted, {len(database)} left")
