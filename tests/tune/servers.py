"""Ports and boards of trackers that tests start."""

import socket
import time

from tvm_qnn import fleet
from tvm_qnn.errors import TargetError

HOST = "127.0.0.1"


def wait_for(ready, seconds=60):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.1)


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def boards_of(port, key):
    """Count the boards of a key; -1 while there is no tracker."""
    try:
        return fleet.boards(HOST, port)[key]
    except TargetError:
        return -1
