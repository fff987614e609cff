"""A tuning session: defaults first, then the kernels that cost most, until the trials are spent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tvm_qnn.schedules.database import Database, load, save
from tvm_qnn.schedules.records import Record
from tvm_qnn.tuning import workers
from tvm_qnn.tuning.device import Device, Job
from tvm_qnn.tuning.journal import Journal
from tvm_qnn.tuning.progress import Tuning
from tvm_qnn.tuning.search import Search, cost_model
from tvm_qnn.tuning.stop import Check
from tvm_qnn.tuning.task import Task

BATCH = 16
"""Schedules of one turn."""
ROUNDS = 3
"""How often what has to be compared is timed in the end."""
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
            self._settle()
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
        """Leave families alone that cannot win; one that only met a busy moment gets another."""
        slow = [t for t in self.tunings if self._slower(t)]
        if self._device.unit == "seconds":
            jobs = [Job(t.task.module(), self._path(t.task)) for t in slow]
            for tuning, result in zip(slow, self._device.measure(jobs), strict=True):
                if result.cost is not None and tuning.default is not None:
                    fastest = min(result.cost, tuning.default)
                    tuning.settle(fastest, fastest)
            self._check()
        for tuning in slow:
            tuning.dropped = self._slower(tuning)

    def _slower(self, tuning: Tuning) -> str:
        """Tell how much slower a kernel is than its fastest rival; "" if that is not hopeless."""
        rivals = [t for t in self._rivals(tuning) if t.best is not None]
        best = min(rivals, key=lambda t: t.best or 0.0, default=None)
        if best is None or tuning.best is None or tuning.best <= HOPELESS * (best.best or 0.0):
            return ""
        return f"{tuning.best / (best.best or 1.0):.1f}x slower"

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
        path = self._path(task)
        results = self._device.measure([Job(module, path) for _, module in new])
        self._check()
        fresh = iter([(result.cost, result.error) for result in results])
        found = [entry if entry is not None else next(fresh) for entry in known]
        for (trace, _), entry, before in zip(candidates, found, known, strict=True):
            if before is None:
                self._journal.add(task, trace, *entry)
        return found

    def _settle(self) -> None:
        """Time default and best schedules of rivals once more, in turns; keep costs and gains.

        What else ran while one of them was measured must not decide among them.
        """
        left = [t for t in self.tunings if t.best is not None and not t.dropped]
        while left and self._device.unit == "seconds":
            rivals = [t for t in self._rivals(left[0]) if t in left]
            left = [t for t in left if t not in rivals]
            jobs = [
                Job(tuning.task.module(trace), self._path(tuning.task))
                for tuning in rivals
                for trace in ([None] if tuning.trace is None else [None, tuning.trace])
            ]
            costs = iter([result.cost for result in self._device.measure(jobs, ROUNDS)])
            self._check()
            for tuning in rivals:
                default = next(costs)
                tuning.settle(default, default if tuning.trace is None else next(costs))
            self._report(self.tunings, self.done, self._trials)
        self._keep(*(tuning for tuning in self.tunings if tuning.best is not None))

    def _keep(self, *tunings: Tuning) -> None:
        """Write the database with what was found."""
        for tuning in tunings:
            record = self._record(tuning)
            self._found[record.key] = record
        save(self._database(), self._folder)

    def _record(self, tuning: Tuning) -> Record:
        assert tuning.best is not None
        assert tuning.default is not None
        target, work, family, kernel = tuning.task.key
        return Record(
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

    def _path(self, task: Task) -> Path:
        return self._arguments / f"{task.key[-1]}.npz"
