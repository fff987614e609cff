"""Shared by all tests: where helpers are imported from, and when emulated tests can run."""

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
