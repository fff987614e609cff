"""``tvm-qnn device``: a fleet of boards behind TVM's own RPC tracker and servers."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Lend boards to tune and compare, over TVM's RPC.", no_args_is_help=True)

Tracker = Annotated[str, typer.Option(help="Address of the tracker, HOST:PORT.")]


@app.command()
def tracker(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 9190,
) -> None:
    """Run a tracker, which boards report to and sessions ask for boards."""
    from tvm_qnn.fleet import run_tracker

    run_tracker(host, port)


@app.command()
def serve(
    tracker: Tracker,
    key: Annotated[str, typer.Option(help="Kind of board, such as rpi4.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="First port to try.")] = 9090,
) -> None:
    """Run on a board: lend it to whoever asks the tracker for its key."""
    from tvm_qnn.fleet import serve as serve_board

    serve_board(tracker, key, port)


@app.command("list")
def list_command(tracker: Tracker = "127.0.0.1:9190") -> None:
    """List the boards of a tracker."""
    from rich.console import Console
    from rich.table import Table

    from tvm_qnn.fleet import split_address, summary

    found = summary(*split_address(tracker))
    table = Table()
    for heading in ("key", "address"):
        table.add_column(heading)
    for server in sorted(found["server_info"], key=lambda s: str(s["key"])):
        address = ":".join(map(str, server["addr"]))
        table.add_row(str(server["key"]).removeprefix("server:"), address)
    console = Console()
    console.print(table)
    for key, queue in sorted(found["queue_info"].items()):
        console.print(f"{key}: {queue['free']} free, {queue['pending']} sessions waiting")
