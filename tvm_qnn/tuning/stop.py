"""Ctrl-C at points where nothing is lost.

Inside of TVM's C++ code a KeyboardInterrupt becomes some other error, and what workers measured
when it came is worth nothing.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Check = Callable[[], None]
"""Raises KeyboardInterrupt if Ctrl-C was pressed."""


@contextmanager
def deferred_interrupts() -> Iterator[Check]:
    """Hold Ctrl-C back until the check that this yields is called; a second one comes at once."""
    pressed = threading.Event()

    def note(_signal: int, _frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)
        print("stopping after this turn; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only.
        yield check
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent of this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
