"""Peers that need an environment of their own: a process that answers requests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Peer:
    """A process of another Python that answers requests with lines of JSON.

    Args:
        python: of the environment.
        worker: what it runs; the first line that it writes is about itself.
        log: file for what else it prints.
    """

    def __init__(self, python: Path, worker: Path, log: Path) -> None:
        self._name, self._log = worker.name, log
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python, "-I", worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, env={**environment, "TVM_NUM_THREADS": "1"}, text=True,
            )  # fmt: skip
        self.about = self._answer()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            RuntimeError: the process died.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def runner(self, kernel: int) -> Callable[[int], float]:
        """Return what times a loaded kernel: seconds a call."""
        return lambda number: float(self.ask("run", kernel=kernel, number=number)["seconds"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            last = self._log.read_text().strip().splitlines()[-1:]
            raise RuntimeError(f"{self._name} ended: {' '.join(last)}")
        answer: dict[str, Any] = json.loads(line)
        return answer
