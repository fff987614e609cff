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
from tvm_qnn.estimate import blocks, kernels
from tvm_qnn.schedules.records import Unit
from tvm_qnn.targets.link import linker
from tvm_qnn.targets.record import Target
from tvm_qnn.tuning import workers
from tvm_qnn.tuning.pool import Pool
from tvm_qnn.tuning.task import ENTRY

TIMEOUT = 30.0
"""Seconds for building a candidate, and for running it."""


@dataclass(frozen=True)
class Job:
    """A candidate to measure.

    Attributes:
        module: with a function :data:`ENTRY`.
        arguments: file of :func:`workers.save_arguments`.
    """

    module: Any
    arguments: Path


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

    def measure(self, jobs: Sequence[Job], rounds: int = 1) -> list[Result]:
        """Build, run, check and time candidates.

        Args:
            jobs: the candidates.
            rounds: how often each is timed, in turns; the fastest counts, since what else runs on a
                machine only ever adds.
        """

    def close(self) -> None:
        """End worker processes."""


class Host:
    """This machine or its GPU: candidates are built in parallel and timed one at a time."""

    unit: Unit = "seconds"

    def __init__(self, target: Target) -> None:
        self._target, self._linker = target, linker(target)
        self._builders = Pool(TIMEOUT)
        self._runner = Pool(TIMEOUT, 1)
        self._timer = workers.measure if target.gpu is None else workers.measure_on_gpu
        self.description = targets.processor() if target.gpu is None else target.description

    def measure(self, jobs: Sequence[Job], rounds: int = 1) -> list[Result]:
        """See :class:`Device`."""
        with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
            built = _build(self._builders, jobs, (self._target, self._linker), folder)
            return _time(self._runner, self._timer, built, (ENTRY,), rounds)

    def close(self) -> None:
        """See :class:`Device`."""
        self._builders.close()
        self._runner.close()


class Boards:
    """Boards that a TVM tracker lends: candidates are built here and timed on all of one key."""

    unit: Unit = "seconds"

    def __init__(self, target: Target, host: str, port: int, key: str) -> None:
        self._target, self._linker, self._address = target, linker(target), (host, port, key)
        self._count = boards = fleet.required_boards(host, port, key)
        self._builders = Pool(TIMEOUT)
        self._runners = Pool(2 * TIMEOUT, boards)
        self.description = f"{key} over RPC"

    def measure(self, jobs: Sequence[Job], rounds: int = 1) -> list[Result]:
        """See :class:`Device`; what ran on a board that vanished runs on another one.

        Raises:
            TargetError: all boards are gone.
        """
        timer, given = workers.measure_remotely, (ENTRY, *self._address, TIMEOUT)
        with tempfile.TemporaryDirectory(prefix="tvm-qnn-") as folder:
            built = _build(self._builders, jobs, (self._target, self._linker), folder)
            found = _time(self._runners, timer, built, given, rounds)
            failed = [i for i, result in enumerate(found) if result.cost is None]
            if failed and self._lost():
                again = _time(self._runners, timer, [built[i] for i in failed], given, rounds)
                for i, result in zip(failed, again, strict=True):
                    found[i] = result
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
        if (lacking := kernels.missing()) or tools is None:
            raise TargetError(f"--device estimate: {lacking}")
        if not target.mca_cpu or target.qemu_cpu is None:
            raise TargetError(f"--device estimate: no model of {target.name}; choose a board")
        self._target = target
        # Building, emulation and costs in one; a large kernel on a busy machine takes its time.
        self._pool = Pool(4 * TIMEOUT)
        self.description = f"llvm-mca {' '.join(target.mca_cpu)}, {tools.version()}"

    def measure(self, jobs: Sequence[Job], rounds: int = 1) -> list[Result]:
        """See :class:`Device`; every round would find the same."""
        given = [(job.module, self._target, str(job.arguments), ENTRY) for job in jobs]
        return [_fastest([found]) for found in self._pool.run(workers.estimate, given)]

    def close(self) -> None:
        """See :class:`Device`."""
        self._pool.close()


@dataclass(frozen=True)
class _Built:
    """A library and the file of its arguments, or why there is none."""

    path: str
    arguments: Path
    error: str


def _build(pool: Pool, jobs: Sequence[Job], made: tuple[Any, ...], folder: str) -> list[_Built]:
    """Build candidates in parallel."""
    given = [(job.module, *made, f"{folder}/{uuid.uuid4().hex}.so", ENTRY) for job in jobs]
    found = pool.run(workers.build, given)
    return [
        _Built(path, job.arguments, error) for job, (path, error) in zip(jobs, found, strict=True)
    ]


def _time(
    pool: Pool, timer: Any, built: Sequence[_Built], given: tuple[Any, ...], rounds: int
) -> list[Result]:
    """Time what was built, in turns."""
    ready = [(b.path, str(b.arguments), *given) for b in built if not b.error]
    timed = pool.run(timer, ready * rounds)
    found = iter([_fastest(timed[i :: len(ready)]) for i in range(len(ready))])
    return [Result(None, b.error) if b.error else next(found) for b in built]


def _fastest(timed: Sequence[tuple[Any, str]]) -> Result:
    costs = [float(cost) for cost, error in timed if not error]
    return Result(min(costs)) if costs else Result(None, timed[0][1])


@contextmanager
def open_device(name: str, target: Target) -> Iterator[Device]:
    """Open a device for the time of a tuning session.

    Args:
        name: ``host``, ``estimate`` or ``rpc://HOST:PORT/KEY``.
        target: what the candidates are built for.

    Raises:
        TargetError: there is no such device, or it cannot run code for the target.
    """
    if target.gpu is not None and name != "host":
        raise TargetError(
            f"--device {name}: kernels for {target.name} are tuned on the machine with the GPU; "
            "run tvm-qnn tune there with --device host"
        )
    if name == "host":
        reached = targets.reachable(target)
        if target.gpu is not None and not reached.startswith("native"):
            raise TargetError(
                f"--device host: no GPU here executes code for {target.name}; run tvm-qnn tune "
                "on the machine that has one"
            )
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
