"""What a session has measured, so that an interrupted one goes on without measuring it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tvm_qnn.tuning.device import Device
from tvm_qnn.tuning.task import Task

NAME = "journal"


class Journal:
    """Measured schedules in a file of a database, one a line.

    Args:
        folder: of the database.
        device: what measures; costs of others are passed over.
        resume: read what is there; otherwise it is deleted.
    """

    def __init__(self, folder: Path, device: Device, *, resume: bool) -> None:
        self._path, self._device = folder / NAME, device.description
        self._known: dict[tuple[str, ...], tuple[float | None, str]] = {}
        if resume and self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                self._read(line)
        else:
            self._path.unlink(missing_ok=True)

    def _read(self, line: str) -> None:
        try:
            device, kernel, trace, cost, error = json.loads(line)
        except ValueError:
            # The session was cut off while it wrote its last line.
            return
        if device == self._device:
            self._known[(kernel, trace)] = (cost, error)

    def find(self, task: Task, trace: Any) -> tuple[float | None, str] | None:
        """Return cost and error of a schedule, None if it was not measured."""
        return self._known.get((_kernel(task), json.dumps(trace)))

    def add(self, task: Task, trace: Any, cost: float | None, error: str) -> None:
        """Note a measured schedule."""
        entry = [self._device, _kernel(task), json.dumps(trace), cost, error]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def _kernel(task: Task) -> str:
    target, work, family, kernel = task.key
    return f"{target} {family} {kernel} {work}"
