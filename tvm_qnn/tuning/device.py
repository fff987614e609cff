"""Where candidates are measured: this machine, a model of a board, or boards of a tracker."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tvm_qnn import fleet, targets
from tvm_qnn.errors import TargetError
from tvm_qnn.estimate import blocks, programs
from tvm_qnn.schedules.records import Unit
from tvm_qnn.targets.link import linker
from tvm_qnn.targets.record import Target
from tvm_qnn.tuning import workers
from tvm_qnn.tuning.pool import Pool
from tvm_qnn.tuning.task import ENTRY

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
        self._builders = Pool(TIMEOUT)
        self._runner = Pool(TIMEOUT, 1)
        self.description = targets.processor()

    def measure(self, modules: Sequence[Any], arguments: Path) -> list[Result]:
        """See :class:`Device`."""
        with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
            built = _build(self._builders, modules, (self._target, self._linker), folder)
            return _time(self._runner, workers.measure, built, (str(arguments), ENTRY))

    def close(self) -> None:
        """See :class:`Device`."""
        self._builders.close()
        self._runner.close()


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
        self._count = boards
        self._builders = Pool(TIMEOUT)
        self._runners = Pool(2 * TIMEOUT, boards)
        self.description = f"{key} over RPC"

    def measure(self, modules: Sequence[Any], arguments: Path) -> list[Result]:
        """See :class:`Device`; what ran on a board that vanished runs on another one.

        Raises:
            TargetError: all boards are gone.
        """
        given = (str(arguments), ENTRY, *self._address, TIMEOUT)
        with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
            built = _build(self._builders, modules, (self._target, self._linker), folder)
            found = _time(self._runners, workers.measure_remotely, built, given)
            if any(result.cost is None for result in found) and self._lost():
                again = [
                    path if result.cost is None else ("", "measured")
                    for path, result in zip(built, found, strict=True)
                ]
                second = _time(self._runners, workers.measure_remotely, again, given)
                found = [
                    new if old.cost is None else old for old, new in zip(found, second, strict=True)
                ]
        return found

    def _lost(self) -> bool:
        """Tell whether boards have gone since the last look."""
        host, port, key = self._address
        before, self._count = self._count, fleet.boards(host, port).get(key, 0)
        if not self._count:
            raise TargetError(
                f"rpc://{host}:{port}/{key}: the last board is gone; bring one back and go on with "
                "--resume"
            )
        return self._count < before

    def close(self) -> None:
        """See :class:`Device`."""
        self._builders.close()
        self._runners.close()


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
        self._pool = Pool(TIMEOUT)
        self.description = f"llvm-mca {' '.join(target.mca_cpu)}, {tools.version()}"

    def measure(self, modules: Sequence[Any], arguments: Path) -> list[Result]:
        """See :class:`Device`."""
        jobs = [(module, self._target, str(arguments), ENTRY) for module in modules]
        return [_result(*found) for found in self._pool.run(workers.estimate, jobs)]

    def close(self) -> None:
        """See :class:`Device`."""
        self._pool.close()


def _build(
    pool: Pool, modules: Sequence[Any], made: tuple[Any, ...], folder: str
) -> list[tuple[Any, str]]:
    """Build candidates in parallel; the path of each, or why it failed."""
    jobs = [(module, *made, f"{folder}/{uuid.uuid4().hex}.so", ENTRY) for module in modules]
    return pool.run(workers.build, jobs)


def _time(
    pool: Pool, timer: Any, built: Sequence[tuple[Any, str]], given: tuple[Any, ...]
) -> list[Result]:
    """Time what was built."""
    timed = iter(pool.run(timer, [(path, *given) for path, error in built if not error]))
    return [Result(None, error) if error else _result(*next(timed)) for _, error in built]


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
