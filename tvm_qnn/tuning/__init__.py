"""Tune the kernels of a model for a device, and keep what was found in a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvm_qnn.compiler import prepared, read, resolve
from tvm_qnn.errors import QnnError
from tvm_qnn.frontend import Imported
from tvm_qnn.inspection import source_name
from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.passes.pipeline import to_kernels
from tvm_qnn.schedules import FAMILIES, family
from tvm_qnn.schedules.database import UNTUNED, Database, load
from tvm_qnn.schedules.records import Record
from tvm_qnn.targets.record import Target
from tvm_qnn.tuning.device import open_device
from tvm_qnn.tuning.pool import missing
from tvm_qnn.tuning.progress import Tuning
from tvm_qnn.tuning.session import Report, Session
from tvm_qnn.tuning.stop import deferred_interrupts
from tvm_qnn.tuning.task import Task

TRIALS = 32
"""Schedules that are tried for each kernel, on average."""

__all__ = ["Outcome", "Tuning", "tasks_of", "tune"]


@dataclass(frozen=True)
class Outcome:
    """What a session found.

    Attributes:
        tunings: one for each kernel.
        records: of the target, after the session.
    """

    tunings: tuple[Tuning, ...]
    records: tuple[Record, ...]


def tune(
    model: Any,
    target: str | Target = "host",
    database: str | Path = "tuned",
    *,
    device: str = "host",
    trials: int | None = None,
    seed: int = 0,
    resume: bool = False,
    batch: int | None = None,
    report: Report = lambda tunings, done, total: None,
) -> Outcome:
    """Search for faster schedules of the kernels of a model.

    All families that can do an operator are tuned, so that the choice among them is measured, too.

    Args:
        model: as for :func:`tvm_qnn.compile`.
        target: name or record of the device that kernels are built for.
        database: folder of records; made if missing. Hand it to :func:`tvm_qnn.compile`.
        device: what measures: ``host``, ``estimate`` (a model of a board) or
            ``rpc://HOST:PORT/KEY`` (boards of a TVM tracker).
        trials: schedules to try in all; 32 for each kernel if None.
        seed: of everything random.
        resume: go on where a session with the same database was interrupted.
        batch: as for :func:`tvm_qnn.compile`.
        report: called after every turn with the tunings, the trials done and their number.

    Raises:
        QnnError: with one clear line, for anything that the caller can do something about.
    """
    if lacking := missing():
        raise QnnError(f"tuning needs {', '.join(lacking)}: pip install 'tvm-qnn[tune]'")
    place, made_for = Path(database), resolve(target)
    imported = read(model, batch=batch)
    tunings: list[Tuning] = []
    with deferred_interrupts() as check, open_device(device, made_for) as opened:
        tasks = tasks_of(imported, made_for)
        if not tasks:
            raise QnnError(f"{imported.name}: no kernel that could be tuned for {made_for.name}")
        while tasks:
            session = Session(
                tasks, opened, place, trials=trials or TRIALS * len(tasks), seed=seed,
                resume=resume or bool(tunings), report=report, check=check,
            )  # fmt: skip
            found = session.run()
            tunings += session.tunings
            # Other families may have won than those that the layouts were planned for.
            known = {tuning.task for tuning in tunings}
            chosen = _tasks(imported, made_for, ["auto"], found)
            tasks = [task for task in chosen if task not in known]
    return Outcome(tuple(tunings), tuple(load(place)))


def tasks_of(imported: Imported, target: Target) -> list[Task]:
    """Return the kernels of a model: for each operator one of each family that can do it."""
    return _tasks(imported, target, ["auto", *(f.name for f in FAMILIES)], UNTUNED)


def _tasks(
    imported: Imported, target: Target, lowerings: Sequence[str], tuned: Database
) -> list[Task]:
    """Return the kernels of some lowerings; equal ones of several operators are one task."""
    operators: dict[Task, dict[str, None]] = {}
    for lowering in lowerings:
        module, _ = prepared(imported, target, lowering, tuned)
        for binding, (kernel, work, _) in to_kernels(module, target).kernels.items():
            if work is not None:
                name = kernel.removeprefix(work.name(""))
                made = family(name, codebook=isinstance(work, CodebookWork))
                names = operators.setdefault(Task(work, made, target), {})
                names[source_name(binding, imported)] = None
    return [replace(task, operators=tuple(names)) for task, names in operators.items()]
