"""Tune the kernels of a model for a device, and keep what was found in a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvm_qnn.compiler import prepared, read, resolve
from tvm_qnn.errors import QnnError
from tvm_qnn.frontend import Imported
from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.passes.pipeline import to_kernels
from tvm_qnn.schedules import FAMILIES, family
from tvm_qnn.schedules.database import UNTUNED, Database, load
from tvm_qnn.schedules.records import Record
from tvm_qnn.targets.record import Target
from tvm_qnn.tune.device import open_device
from tvm_qnn.tune.progress import Tuning
from tvm_qnn.tune.session import Report, Session
from tvm_qnn.tune.stop import deferred_interrupts
from tvm_qnn.tune.task import Task

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
    place, made_for = Path(database), resolve(target)
    imported = read(model, batch=batch)
    tunings: list[Tuning] = []
    tasks = tasks_of(imported, made_for)
    if not tasks:
        raise QnnError(f"{imported.name}: no kernel that could be tuned for {made_for.name}")
    with deferred_interrupts() as check, open_device(device, made_for) as opened:
        while tasks:
            session = Session(
                tasks, opened, place, trials=trials or TRIALS * len(tasks), seed=seed,
                resume=resume or bool(tunings), report=report, check=check,
            )  # fmt: skip
            found = session.run()
            tunings += session.tunings
            # Other families may have won than those that the layouts were planned for.
            known = {tuning.task for tuning in tunings}
            chosen = _tasks(imported, made_for, "auto", found)
            tasks = [task for task in chosen.values() if task not in known]
    return Outcome(tuple(tunings), tuple(load(place)))


def tasks_of(imported: Imported, target: Target) -> list[Task]:
    """Return the kernels of a model: for each operator one of each family that can do it."""
    found: dict[tuple[str, str], Task] = {}
    for lowering in ("auto", *(f.name for f in FAMILIES)):
        for key, task in _tasks(imported, target, lowering, UNTUNED).items():
            found.setdefault(key, task)
    return _joined(list(found.values()))


def _tasks(
    imported: Imported, target: Target, lowering: str, tuned: Database
) -> dict[tuple[str, str], Task]:
    """Return the tasks of one lowering, by operator and family."""
    module, _ = prepared(imported, target, lowering, tuned)
    found = {}
    for operator, (kernel, work, _) in to_kernels(module, target).kernels.items():
        if work is not None:
            name = kernel.removeprefix(work.name(""))
            made = family(name, codebook=isinstance(work, CodebookWork))
            found[(operator, name)] = Task(work, made, target, (operator,))
    return found


def _joined(tasks: Sequence[Task]) -> list[Task]:
    """Join equal kernels of several operators to one task."""
    operators: dict[Task, list[str]] = {}
    for task in tasks:
        operators.setdefault(task, []).extend(task.operators)
    return [replace(task, operators=tuple(names)) for task, names in operators.items()]
