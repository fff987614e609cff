"""Worker processes with a time limit: what they run may crash or hang."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from tvm.support.popen_pool import PopenPoolExecutor, StatusKind

from tvm_qnn.tuning.stop import ignore_interrupts

NEEDED = ("cloudpickle", "xgboost")
"""Packages of the extra ``tune`` that searching and measuring import."""


def missing() -> list[str]:
    """Return what of :data:`NEEDED` is not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


class Pool:
    """Runs functions in worker processes.

    Args:
        seconds: that one call may take.
        processes: how many; one for each core if None.
    """

    def __init__(self, seconds: float, processes: int | None = None) -> None:
        self._seconds = seconds
        self._executor = PopenPoolExecutor(
            processes or os.cpu_count(), seconds, initializer=ignore_interrupts,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(
        self, work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]
    ) -> list[tuple[Any, str]]:
        """Call ``work`` with each tuple of arguments; what it returns, or why it failed."""
        found = []
        for done in self._executor.map_with_error_catching(lambda job: work(*job), jobs):
            if done.status == StatusKind.COMPLETE:
                found.append((done.value, ""))
            elif done.status == StatusKind.TIMEOUT:
                found.append((None, f"{work.__name__}: not done after {self._seconds:.0f} s"))
            else:
                found.append((None, f"{work.__name__}: {_reason(done.value)}"))
        return found

    def close(self) -> None:
        """End the processes."""
        self._executor.shutdown()


def _reason(error: Any) -> str:
    if isinstance(error, ChildProcessError):
        return "the process crashed"
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
