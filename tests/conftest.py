"""Shared by all tests: helpers that lie in this folder, and when emulated tests can run."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_runtest_setup(item):
    if item.get_closest_marker("emulated"):
        from emulation import available

        reason = available()
        if reason:
            pytest.skip(reason)
