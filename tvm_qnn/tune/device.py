"""Where candidates are measured: this machine, a model of a board, or boards of a tracker."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tvm.support.popen_pool import PopenPoolExecutor, StatusKind

from tvm_qnn import targets
from tvm_qnn.errors import TargetError
from tvm_qnn.estimate import blocks, programs
from tvm_qnn.schedules.records import Unit
from tvm_qnn.targets.link import linker
from tvm_qnn.targets.record import Target
from tvm_qnn.tune import workers
from tvm_qnn.tune.task import ENTRY

TIMEOUT = 30.0
"""Seconds for building a candidate, and for running it."""


@dataclass(frozen=True)
class Result:
    """What became of a candidate.

    Attributes:
        cost: of one call, in the unit of the device; None where it failed.
        error: why it failed, in one line.
    """

    cost: float | None
    error: str = ""


class Device(Protocol):
    """Where candidates are measured.

    Attributes:
        unit: of the costs.
        description: the device in words, for records.
    """

    unit: Unit
    description: str

    def measure(self, modules: Sequence[Any], arguments: Path) -> list[Result]:
        """Build, run, check and time candidates of one task.

        Args:
            modules: the candidates, each with a function :data:`ENTRY`.
            arguments: file of :func:`workers.save_arguments`.
        """

    def close(self) -> None:
        """End worker processes."""


class Host:
    """This machine: candidates are built in parallel and timed one at a time."""

    unit: Unit = "seconds"

    def __init__(self, target: Target) -> None:
        self._target, self._linker = target, linker(target)
        self._builders = PopenPoolExecutor(os.cpu_count(), TIMEOUT)
        self._runner = PopenPoolExecutor(1, TIMEOUT)
        self.description = targets.processor()

    def measure(self, modules: Sequence[Any], arguments: Path) -> list[Result]:
        """See :class:`Device`."""
        with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
            jobs = [
                (module, self._target, self._linker, f"{folder}/{number}.so", ENTRY)
                for number, module in enumerate(modules)
            ]
            built = _run(self._builders, workers.build, jobs)
            ready = [path for path, error in built if not error]
            timed = iter(
                _run(self._runner, workers.measure, [(p, str(arguments), ENTRY) for p in ready])
            )
            return [Result(None, error) if error else _result(*next(timed)) for _, error in built]

    def close(self) -> None:
        """See :class:`Device`."""
        self._builders.shutdown()
        self._runner.shutdown()


class Estimate:
    """A model of a board: emulated in parallel, the cycles of executed blocks added up."""

    unit: Unit = "cycles"

    def __init__(self, target: Target) -> None:
        tools = blocks.Tools.find()
        lacking = programs.missing() or (tools is None and "llvm-mca is not installed (Debian: llvm)")
        if lacking or tools is None:
            raise TargetError(f"--device estimate: {lacking}")
        if not target.mca_cpu or target.qemu_cpu is None:
            raise TargetError(f"--device estimate: no model of {target.name}; choose a board")
        self._target = target
        self._pool = PopenPoolExecutor(os.cpu_count(), TIMEOUT)
        self.description = f"llvm-mca {' '.join(target.mca_cpu)}, {tools.version()}"

    def measure(self, modules: Sequence[Any], arguments: Path) -> list[Result]:
        """See :class:`Device`."""
        jobs = [(module, self._target, str(arguments), ENTRY) for module in modules]
        return [_result(*found) for found in _run(self._pool, workers.estimate, jobs)]

    def close(self) -> None:
        """See :class:`Device`."""
        self._pool.shutdown()


def _run(pool: Any, work: Any, jobs: Sequence[tuple[Any, ...]]) -> list[tuple[Any, str]]:
    """Run jobs in worker processes; what each returns, or why it failed."""
    found = []
    for done in pool.map_with_error_catching(lambda job: work(*job), jobs):
        if done.status == StatusKind.COMPLETE:
            found.append((done.value, ""))
        elif done.status == StatusKind.TIMEOUT:
            found.append((None, f"{work.__name__}: not done after {TIMEOUT:.0f} s"))
        else:
            found.append((None, f"{work.__name__}: {_last_line(done.value)}"))
    return found


def _last_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _result(cost: Any, error: str) -> Result:
    return Result(None if error else float(cost), error)


@contextmanager
def open_device(name: str, target: Target) -> Iterator[Device]:
    """Open a device for the time of a tuning session.

    Args:
        name: ``host``, ``estimate`` or ``rpc://HOST:PORT/KEY``.
        target: what the candidates are built for.

    Raises:
        TargetError: there is no such device, or it cannot run code for the target.
    """
    if name == "host":
        reached = targets.reachable(target)
        if not reached.startswith("native"):
            raise TargetError(
                f"--device host: {target.name} is {reached}; use --device estimate, or a board "
                "with --device rpc://HOST:PORT/KEY"
            )
        device: Device = Host(target)
    elif name == "estimate":
        device = Estimate(target)
    else:
        raise TargetError(f"--device {name}: give host, estimate or rpc://HOST:PORT/KEY")
    try:
        yield device
    finally:
        device.close()
