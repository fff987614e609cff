"""Shared by all tests: where helpers lie, when emulated tests can run, the command line."""

import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]

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
