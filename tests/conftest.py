"""Shared by all tests: where helpers lie, when emulated tests can run, the command line."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_TOOL = Path(sys.executable).parent / "tvm-qnn"

# Helpers are imported as ``tests.<folder>.<module>``. The root of the repository goes last: in
# front, Python would find half of the package there instead of the installed whole.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _ROOT] + [str(_ROOT)]


def pytest_runtest_setup(item):
    if item.get_closest_marker("emulated"):
        from tvm_qnn.emulation import available

        reason = available()
        if reason:
            pytest.skip(reason)


@pytest.fixture
def cli(monkeypatch, capfd):
    """Run ``tvm-qnn`` with arguments; return exit code, output and errors."""
    from tvm_qnn.cli import main

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tvm-qnn", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return left.value.code or 0, out, err

    return run


@pytest.fixture
def start():
    """Start ``tvm-qnn`` with arguments in a session of its own; all are ended after the test."""
    started = []

    def run(*arguments):
        process = subprocess.Popen(
            [_TOOL, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        # With its children, which would keep the pipe open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=20)
