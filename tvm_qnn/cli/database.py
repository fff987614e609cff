"""``tvm-qnn database``: look at, join and clean databases of tuned kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at, join and clean databases of tuned kernels.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of records.", show_default=False)]


@app.command()
def show(folder: Folder) -> None:
    """Print the records."""
    from tvm_qnn.cli.tuning import show_database

    show_database(folder)


@app.command()
def merge(
    into: Annotated[Path, typer.Argument(help="Folder that takes them.", show_default=False)],
    others: Annotated[list[Path], typer.Argument(help="Folders to add.", show_default=False)],
) -> None:
    """Add records of other databases where they are new or gain more."""
    from tvm_qnn.cli.tuning import merge_databases

    merge_databases(into, others)


@app.command()
def prune(folder: Folder) -> None:
    """Delete records that no kernel of this version can use."""
    from tvm_qnn.cli.tuning import prune_database

    prune_database(folder)
