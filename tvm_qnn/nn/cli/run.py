"""What the commands of ``tvm-qnn train`` share: options, and a run under a progress bar."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tvm_qnn.errors import QnnError

Data = Annotated[
    Path, typer.Option(help="Folder with the official files of CIFAR-10, Fashion-MNIST or MNIST.")
]
Out = Annotated[Path, typer.Option(help="Folder for checkpoint and metrics.")]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Passes over the training images.", show_default="auto")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from OUT's checkpoint.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Export = Annotated[Path | None, typer.Option(help="ONNX file to write at the end.")]
Batch = Annotated[int, typer.Option(min=1, help="Batch size of the ONNX file.")]


def run(
    net: Any,
    images: Any,
    recipe: Any,
    out: Path,
    resume: bool,
    threads: int,
    export: Path | None,
    batch: int,
) -> None:
    """Train an image classifier under a progress bar and export it.

    Args:
        net: Network from :func:`tvm_qnn.nn.networks.build`.
        images: :class:`tvm_qnn.nn.data.Images`.
        recipe: :class:`tvm_qnn.nn.checkpoint.Recipe`.
        out: Folder for checkpoint and metrics.
        resume: Go on from the checkpoint in ``out``.
        threads: CPU threads.
        export: ONNX file to write at the end.
        batch: Its batch size.

    Raises:
        typer.Exit: The user stopped the run; ``out`` holds the last whole epoch.
    """
    torch = require("torch", "torch")
    from tvm_qnn.nn import export as exporter
    from tvm_qnn.nn.checkpoint import Epoch
    from tvm_qnn.nn.train import train

    torch.set_num_threads(threads)
    console = Console()
    columns = (
        TextColumn("epoch {task.fields[epoch]}/" + str(recipe.epochs)),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("train", epoch=0)

        def report(epoch: int, step: int, steps: int) -> None:
            progress.update(bar, epoch=epoch, completed=step, total=steps)

        def done(row: Epoch) -> None:
            console.print(
                f"epoch {row.epoch}: loss {row.loss:.4f}, test accuracy "
                f"{100 * row.test_accuracy:.2f} %, {row.seconds:.0f} s"
            )

        try:
            rows = train(net, images, recipe, out, resume=resume, report=report, done=done)
        except KeyboardInterrupt:
            console.print(f"stopped; {out} holds the last whole epoch, --resume goes on from there")
            raise typer.Exit(130) from None
    console.print(f"test accuracy after epoch {len(rows)}: {100 * rows[-1].test_accuracy:.2f} %")
    if export is not None:
        exporter.save(exporter.to_onnx(net, batch), export)
        console.print(f"wrote {export}")


def require(module: str, extra: str) -> Any:
    """Import a module of an extra.

    Raises:
        QnnError: It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise QnnError(f"{module} is missing; run: pip install 'tvm-qnn[{extra}]'") from error
