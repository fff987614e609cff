"""How far a tuning session is: what the live table shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tvm_qnn.tuning.task import Task


@dataclass
class Tuning:
    """One task in a session.

    Attributes:
        task: what is tuned.
        default: cost of the default schedule; None before it is measured, or where it failed.
        best: lowest cost so far.
        trace: its decisions; None for the default schedule.
        trials: schedules tried.
        failed: those that did not build, run or give the right result.
        stalls: turns in a row without a better schedule.
        exhausted: every schedule has been tried.
        dropped: why it is not tuned further, or "".
        errors: reasons of failures, with their counts.
    """

    task: Task
    default: float | None = None
    best: float | None = None
    trace: Any = None
    trials: int = 0
    failed: int = 0
    stalls: int = 0
    exhausted: bool = False
    dropped: str = ""
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """How many times faster than the default schedule."""
        return self.default / self.best if self.default and self.best else 1.0

    @property
    def open(self) -> bool:
        """Whether trying more may help."""
        return not self.exhausted and not self.dropped

    def take(self, trace: Any, cost: float | None, error: str = "") -> bool:
        """Note one measured schedule; tell whether it is the best so far."""
        self.trials += 1
        if cost is None:
            self.failed += 1
            self.errors[error] = self.errors.get(error, 0) + 1
            return False
        if self.best is not None and cost >= self.best:
            return False
        self.best, self.trace = cost, trace
        return True

    def settle(self, default: float | None, best: float | None) -> None:
        """Take the costs of the default and the best schedule that were measured side by side.

        Nothing changes where one of them failed.
        """
        if default is None or best is None:
            return
        self.default = default
        if best < default:
            self.best = best
        else:
            self.best, self.trace = default, None
