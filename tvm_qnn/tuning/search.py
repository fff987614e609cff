"""Which schedules to try next: MetaSchedule's evolutionary search under its XGBoost cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.s_tir import meta_schedule as ms

from tvm_qnn._tvm import tvm
from tvm_qnn.schedules.tiling import decisions_of, finish
from tvm_qnn.tuning.task import ENTRY, Task

_FAILED = 1e10
"""Cost that MetaSchedule gives to what does not run."""


@dataclass(frozen=True)
class Candidate:
    """A schedule to try.

    Attributes:
        trace: its decisions, as MetaSchedule writes them.
        module: the scheduled kernel.
        measured: what MetaSchedule wants to be told about.
    """

    trace: Any
    module: Any
    measured: Any


class Search:
    """The search for one task.

    Args:
        task: what is tuned.
        model: cost model, shared by the searches of a session.
        most: schedules that it may be asked for.
        batch: schedules of one turn.
        seed: of everything random.
    """

    def __init__(self, task: Task, model: Any, most: int, batch: int, seed: int) -> None:
        self._model, self._seed, self._asked = model, seed, 0
        self._database = ms.database.MemoryDatabase()
        func = task.family.compute(task.work, task.target)
        module = tvm.IRModule({ENTRY: func})
        self._workload = self._database.commit_workload(module)

        def space(sch: Any) -> Any:
            task.family.schedule(sch, task.work, task.target)
            return sch

        self._context = ms.TuneContext(
            module,
            target=task.target.tvm(),
            space_generator=ms.space_generator.ScheduleFn(
                space,
                sch_rules=[],
                # Blocks of a GPU have only so many threads and so much shared memory.
                postprocs=[ms.postproc.VerifyGPUCode()] if task.target.gpu is not None else [],
                mutator_probs={ms.mutator.MutateTileSize(): 1.0},
            ),
            search_strategy=ms.search_strategy.EvolutionarySearch(
                population_size=64, init_min_unmeasured=1, genetic_num_iters=3, eps_greedy=0.1
            ),
            task_name=task.name,
            rand_state=seed + 1,
            # Threads would share the mutations out by chance, so that no seed gave the same again.
            num_threads=1,
        )
        self._context.pre_tuning(most, batch, database=self._database, cost_model=model)

    def ask(self) -> list[Candidate]:
        """Return the next schedules to try; none where all have been tried."""
        # Until the cost model has learned something, it draws from numpy's global generator.
        state = np.random.get_state()
        np.random.seed([self._seed, self._asked])
        self._asked += 1
        try:
            found = self._context.generate_measure_candidates() or []
        finally:
            np.random.set_state(state)
        return [
            Candidate(decisions_of(c.sch.trace), tvm.IRModule({ENTRY: finish(c.sch, ENTRY)}), c)
            for c in found
        ]

    def tell(self, candidates: Sequence[Candidate], costs: Sequence[float | None]) -> None:
        """Learn what candidates cost; None for those that failed."""
        given = [c.measured for c in candidates]
        results = [
            ms.runner.RunnerResult([cost], None)
            if cost is not None
            else ms.runner.RunnerResult(None, "failed")
            for cost in costs
        ]
        self._context.notify_runner_results(given, results)
        self._model.update(self._context, given, results)
        for candidate, cost in zip(given, costs, strict=True):
            self._database.commit_tuning_record(
                ms.database.TuningRecord(
                    candidate.sch.trace,
                    self._workload,
                    [_FAILED if cost is None else cost],
                    self._context.target,
                    candidate.args_info,
                )
            )


def cost_model() -> Any:
    """Return MetaSchedule's XGBoost model.

    Raises:
        ImportError: xgboost is not installed.
    """
    return ms.cost_model.XGBModel(num_warmup_samples=16, num_tuning_cores=1)
