"""A tuning session: defaults first, then the kernels that cost most, until the trials are spent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tvm_qnn.schedules.database import Database, load, save
from tvm_qnn.schedules.records import Record
from tvm_qnn.tuning import workers
from tvm_qnn.tuning.device import Device
from tvm_qnn.tuning.journal import Journal
from tvm_qnn.tuning.progress import Tuning
from tvm_qnn.tuning.search import Search, cost_model
from tvm_qnn.tuning.stop import Check
from tvm_qnn.tuning.task import Task

BATCH = 16
"""Schedules of one turn."""
HOPELESS = 2.0
"""A family whose default schedule is so many times slower than another's is not tuned."""

Report = Callable[[Sequence[Tuning], int, int], None]
"""Called after every turn with all tunings, the trials done and their total."""


class Session:
    """Tunes kernels on a device and keeps a database.

    Args:
        tasks: what to tune.
        device: where candidates are measured.
        folder: of the database; records of before stay unless better ones are found.
        trials: schedules to try in all.
        seed: of everything random.
        resume: use what an interrupted session has measured.
        report: see :data:`Report`.
        check: see :func:`deferred_interrupts`.
    """

    def __init__(
        self, tasks: Sequence[Task], device: Device, folder: Path, *, trials: int, seed: int,
        resume: bool, report: Report, check: Check,
    ) -> None:  # fmt: skip
        self._device, self._folder, self._trials, self._seed = device, folder, trials, seed
        self._report, self._check = report, check
        self._before = list(load(folder)) if folder.is_dir() else []
        self._found: dict[tuple[str, ...], Record] = {}
        self._journal = Journal(folder, device, resume=resume)
        self.tunings = [Tuning(task) for task in tasks]
        self._searches: dict[Task, Search] = {}
        self._model: Any = None

    @property
    def done(self) -> int:
        """Trials so far."""
        return sum(tuning.trials for tuning in self.tunings)

    def run(self) -> Database:
        """Tune; whenever it is interrupted, the database holds what was found before.

        Returns:
            the database, as it is in the folder.
        """
        with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as scratch:
            self._arguments = Path(scratch)
            for tuning in self.tunings:
                self._check()
                self._measure_default(tuning)
            self._drop_hopeless()
            while self.done < self._trials and (urgent := self._next()) is not None:
                self._turn(urgent)
            for tuning in self.tunings:
                self._settle(tuning)
        return self._database()

    def _database(self) -> Database:
        """Return the records of before and of this session."""
        return Database([*self._before, *self._found.values()])

    def _next(self) -> Tuning | None:
        return max((t for t in self.tunings if t.open), key=self._urgency, default=None)

    def _urgency(self, tuning: Tuning) -> float:
        """Return the share of the latency, less where turns were in vain or a rival is faster."""
        if tuning.best is None:
            return 0.0
        lag = tuning.best / min(t.best for t in self._rivals(tuning) if t.best is not None)
        return len(tuning.task.operators) * tuning.best / (1 + tuning.stalls) / lag**3

    def _rivals(self, tuning: Tuning) -> list[Tuning]:
        """Return the kernels, this one among them, that do the same operators."""
        mine = set(tuning.task.operators)
        return [t for t in self.tunings if mine & set(t.task.operators)]

    def _measure_default(self, tuning: Tuning) -> None:
        task = tuning.task
        path = self._path(task)
        workers.save_arguments(path, task.arguments(), task.inputs.expected)
        cost, error = self._measured(task, [(None, task.module())])[0]
        tuning.take(None, cost, error)
        tuning.default = cost
        if cost is None:
            tuning.dropped = error
        else:
            self._keep(tuning)
        self._report(self.tunings, self.done, self._trials)

    def _drop_hopeless(self) -> None:
        """Leave families alone that cannot win."""
        for tuning in self.tunings:
            if tuning.best is None:
                continue
            rivals = {t.best: t for t in self._rivals(tuning) if t.best is not None}
            fastest = min(rivals)
            if tuning.best > HOPELESS * fastest:
                name, times = rivals[fastest].task.family.name, tuning.best / fastest
                tuning.dropped = f"{times:.1f} times slower than {name}"

    def _turn(self, tuning: Tuning) -> None:
        task = tuning.task
        if task not in self._searches:
            self._model = self._model or cost_model()
            most = self._trials + BATCH
            self._searches[task] = Search(task, self._model, most, BATCH, self._seed)
        search = self._searches[task]
        candidates = search.ask()[: self._trials - self.done]
        self._check()
        if not candidates:
            tuning.exhausted = True
            return
        results = self._measured(task, [(c.trace, c.module) for c in candidates])
        search.tell(candidates, [cost for cost, _ in results])
        better = [
            tuning.take(candidate.trace, cost, error)
            for candidate, (cost, error) in zip(candidates, results, strict=True)
        ]
        tuning.stalls = 0 if any(better) else tuning.stalls + 1
        if any(better):
            self._keep(tuning)
        self._report(self.tunings, self.done, self._trials)

    def _measured(
        self, task: Task, candidates: Sequence[tuple[Any, Any]]
    ) -> list[tuple[float | None, str]]:
        """Measure (trace, module) pairs, but for those in the journal."""
        known = [self._journal.find(task, trace) for trace, _ in candidates]
        new = [c for c, found in zip(candidates, known, strict=True) if found is None]
        results = self._device.measure([module for _, module in new], self._path(task))
        self._check()
        fresh = iter([(result.cost, result.error) for result in results])
        found = [entry if entry is not None else next(fresh) for entry in known]
        for (trace, _), entry, before in zip(candidates, found, known, strict=True):
            if before is None:
                self._journal.add(task, trace, *entry)
        return found

    def _settle(self, tuning: Tuning) -> None:
        """Measure the default and the best schedule once more, in turns, and keep the gain."""
        if tuning.best is None:
            return
        if tuning.trace is None:
            # The record of a default schedule tells how many others were tried in vain.
            self._keep(tuning)
            return
        task = tuning.task
        pair = [task.module(), task.module(tuning.trace)]
        results = self._device.measure(pair * 3, self._path(task))
        self._check()
        costs = [[r.cost for r in results[i::2] if r.cost is not None] for i in (0, 1)]
        if all(costs):
            tuning.default, tuning.best = min(costs[0]), min(costs[1])
        if tuning.gain <= 1.0:
            tuning.best, tuning.trace = tuning.default, None
        self._keep(tuning)
        self._report(self.tunings, self.done, self._trials)

    def _keep(self, tuning: Tuning) -> None:
        assert tuning.best is not None
        assert tuning.default is not None
        target, work, family, kernel = tuning.task.key
        record = Record(
            target=target,
            work=work,
            family=family,
            kernel=kernel,
            cost=tuning.best,
            default=tuning.default,
            unit=self._device.unit,
            trials=tuning.trials,
            device=self._device.description,
            trace=tuning.trace,
        )
        self._found[record.key] = record
        save(self._database(), self._folder)

    def _path(self, task: Task) -> Path:
        return self._arguments / f"{task.key[-1]}.npz"
