"""The ``tvm-qnn`` command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; errors that people cause print one line and exit with code 2."""
    from rich.console import Console

    from tvm_qnn.cli.app import app
    from tvm_qnn.errors import QnnError

    try:
        app()
    except QnnError as error:
        line = " ".join(str(error).split())
        Console(stderr=True, soft_wrap=True).print(
            f"error: {line}", style="red", markup=False, highlight=False
        )
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
