"""The boards that a TVM RPC tracker knows."""

from __future__ import annotations

import multiprocessing
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any

from tvm import rpc
from tvm.rpc.server import PopenRPCServerState

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
        TargetError: the port is taken, or what trackers need is not installed.
    """
    try:
        from tvm.rpc.tracker import Tracker

        made = Tracker(host, port, port_end=port + 1)
    except ImportError as error:
        raise TargetError(f"a tracker needs {error.name}: pip install 'tvm-qnn[tune]'") from error
    except (OSError, ValueError) as error:
        raise TargetError(f"{host}:{port}: no tracker can listen there ({error})") from error
    print(f"tracker at {host}:{made.port}; stop with Ctrl-C", flush=True)
    _exit_on_sigterm()
    try:
        made.proc.join()
    finally:
        made.terminate()


def serve(tracker: str, key: str, port: int) -> None:
    """Lend this machine under a key until it is stopped.

    TVM's server ends when a kernel crashes, or when its tracker stays away; it is started again.

    Raises:
        TargetError: there is no such tracker.
    """
    address = split_address(tracker)
    summary(*address)
    print(f"lending this machine as {key} to {tracker}; stop with Ctrl-C", flush=True)
    _exit_on_sigterm()
    while True:
        server = multiprocessing.Process(target=_serve, args=(address, key, port))
        server.start()
        try:
            server.join()
        finally:
            server.terminate()
        print("a kernel crashed, or the tracker is away; serving again", flush=True)
        time.sleep(1)


def _exit_on_sigterm() -> None:
    """Clean up behind ``kill``, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())


def _serve(tracker: tuple[str, int], key: str, port: int) -> None:
    # Ctrl-C ends the parent, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.excepthook = lambda _: None
    server = PopenRPCServerState(
        "0.0.0.0", port, port + 100, tracker_addr=tracker, key=key, silent=True
    )
    server.thread.join()


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


def required_boards(host: str, port: int, key: str) -> int:
    """Count the boards of a key that is needed.

    Raises:
        TargetError: there is no tracker, or it has none of them.
    """
    found = boards(host, port)[key]
    if not found:
        raise TargetError(
            f"rpc://{host}:{port}/{key}: the tracker has no board of that key; on the board run: "
            f"tvm-qnn device serve --tracker {host}:{port} --key {key}"
        )
    return found
