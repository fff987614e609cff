"""The boards that a TVM RPC tracker knows."""

from __future__ import annotations

import re
import socket
from collections import Counter
from typing import Any

from tvm import rpc

from tvm_qnn.errors import TargetError

_ADDRESS = re.compile(r"rpc://(?P<host>[^:/]+):(?P<port>\d+)/(?P<key>[^/]+)")


def address(text: str) -> tuple[str, int, str]:
    """Read ``rpc://HOST:PORT/KEY``.

    Raises:
        TargetError: it is something else.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise TargetError(f"{text}: write rpc://HOST:PORT/KEY, such as rpc://192.168.0.2:9190/rpi4")
    return found["host"], int(found["port"]), found["key"]


def split_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``.

    Raises:
        TargetError: it is something else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise TargetError(f"{text}: write the tracker as HOST:PORT, such as 192.168.0.2:9190")
    return host, int(port)


def run_tracker(host: str, port: int) -> None:
    """Run a tracker until it is stopped.

    Raises:
        TargetError: the port is taken.
    """
    from tvm.rpc.tracker import Tracker

    made = Tracker(host, port, port_end=port + 1)
    print(f"tracker at {host}:{made.port}; stop with Ctrl-C", flush=True)
    made.proc.join()


def serve(tracker: str, key: str, port: int) -> None:
    """Lend this machine under a key until it is stopped."""
    server = rpc.Server(
        "0.0.0.0", port, port + 100, key=key, tracker_addr=split_address(tracker), silent=True
    )
    print(f"{key} at port {server.port}, known to {tracker}; stop with Ctrl-C", flush=True)
    server.proc.join()


def summary(host: str, port: int) -> dict[str, Any]:
    """Ask a tracker what it knows.

    Raises:
        TargetError: there is none.
    """
    try:
        # TVM tries again for 20 seconds where nobody listens.
        socket.create_connection((host, port), timeout=3).close()
        return dict(rpc.connect_tracker(host, port).summary())
    except (OSError, RuntimeError, TypeError) as error:
        raise TargetError(
            f"{host}:{port}: no tracker answers; start one with: tvm-qnn device tracker "
            f"--port {port}"
        ) from error


def boards(host: str, port: int) -> Counter[str]:
    """Count the boards of each key.

    Raises:
        TargetError: there is no tracker.
    """
    servers = summary(host, port)["server_info"]
    return Counter(str(s["key"]).removeprefix("server:") for s in servers)
