"""Where candidates are measured: this machine, a model of a board, or boards of a tracker."""

from __future__ import annotations

import os
import tempfile
import uuid
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
from tvm_qnn.tune import fleet, workers
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
            return _build_and_time(
                self._builders, self._runner, workers.measure, modules,
                (self._target, self._linker), (str(arguments), ENTRY), folder,
            )  # fmt: skip

    def close(self) -> None:
        """See :class:`Device`."""
        self._builders.shutdown()
        self._runner.shutdown()


class Boards:
    """Boards that a TVM tracker lends: candidates are built here and timed on all of one key."""

    unit: Unit = "seconds"

    def __init__(self, target: Target, host: str, port: int, key: str) -> None:
        self._target, self._linker, self._address = target, linker(target), (host, port, key)
        boards = fleet.boards(host, port).get(key, 0)
        if not boards:
            raise TargetError(
                f"rpc://{host}:{port}/{key}: the tracker has no board of that key; on the board "
                f"run: tvm-qnn device serve --tracker {host}:{port} --key {key}"
            )
        self._builders = PopenPoolExecutor(os.cpu_count(), TIMEOUT)
        self._runners = PopenPoolExecutor(boards, 2 * TIMEOUT)
        self.description = f"{key} over RPC"

    def measure(self, modules: Sequence[Any], arguments: Path) -> list[Result]:
        """See :class:`Device`.

        Raises:
            TargetError: all boards are gone.
        """
        with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
            found = _build_and_time(
                self._builders, self._runners, workers.measure_remotely, modules,
                (self._target, self._linker), (str(arguments), ENTRY, *self._address), folder,
            )  # fmt: skip
        host, port, key = self._address
        if any(r.cost is None for r in found) and not fleet.boards(host, port).get(key, 0):
            raise TargetError(
                f"rpc://{host}:{port}/{key}: the last board is gone; bring one back and go on with "
                "--resume"
            )
        return found

    def close(self) -> None:
        """See :class:`Device`."""
        self._builders.shutdown()
        self._runners.shutdown()


class Estimate:
    """A model of a board: emulated in parallel, the cycles of executed blocks added up."""

    unit: Unit = "cycles"

    def __init__(self, target: Target) -> None:
        tools = blocks.Tools.find()
        lacking = programs.missing() or (
            tools is None and "llvm-mca is not installed (Debian: llvm)"
        )
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


def _build_and_time(
    builders: Any, runners: Any, timer: Any, modules: Sequence[Any], made: tuple[Any, ...],
    given: tuple[Any, ...], folder: str,
) -> list[Result]:  # fmt: skip
    """Build candidates in parallel; when all are built, time them."""
    jobs = [(module, *made, f"{folder}/{uuid.uuid4().hex}.so", ENTRY) for module in modules]
    built = _run(builders, workers.build, jobs)
    ready = [(path, *given) for path, error in built if not error]
    timed = iter(_run(runners, timer, ready))
    return [Result(None, error) if error else _result(*next(timed)) for _, error in built]


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
    elif name.startswith("rpc://"):
        device = Boards(target, *fleet.address(name))
    else:
        raise TargetError(f"--device {name}: give host, estimate or rpc://HOST:PORT/KEY")
    try:
        yield device
    finally:
        device.close()
