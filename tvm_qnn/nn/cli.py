"""``tvm-qnn train ...``: train, export and publish the networks of this package."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tvm_qnn.errors import QnnError

app = typer.Typer(help="Train a low-bit network and export it to ONNX.", no_args_is_help=True)

Data = Annotated[
    Path, typer.Option(help="Folder with the four official IDX files of Fashion-MNIST or MNIST.")
]


@app.callback()
def _group() -> None:
    """Train a low-bit network and export it to ONNX."""


@app.command()
def maqd(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for checkpoint and metrics.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    weight_states: Annotated[int, typer.Option(min=2, max=128, help="States of a weight.")] = 3,
    activation_states: Annotated[
        int, typer.Option(min=2, max=256, help="States of an activation.")
    ] = 4,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT's checkpoint.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    export: Annotated[Path | None, typer.Option(help="ONNX file to write at the end.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size of the ONNX file.")] = 1,
) -> None:
    """Train the MaQD network: M-state weights and activations, layer-batch normalization."""
    torch = _torch()
    from tvm_qnn.nn import data as datasets
    from tvm_qnn.nn import export as exporter
    from tvm_qnn.nn.checkpoint import Epoch, Recipe
    from tvm_qnn.nn.models import MaqdConfig
    from tvm_qnn.nn.train import train

    torch.set_num_threads(threads)
    images = datasets.load(data)
    # A mirrored digit is another sign; mirrored clothes are still clothes.
    recipe = Recipe(epochs=epochs, seed=seed, flip=images.name == "fashion-mnist")
    cfg = MaqdConfig(weight_states=weight_states, activation_states=activation_states)
    console = Console()
    columns = (
        TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
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
            net, rows = train(cfg, images, recipe, out, resume=resume, report=report, done=done)
        except KeyboardInterrupt:
            console.print(f"stopped; {out} holds the last whole epoch, --resume goes on from there")
            raise typer.Exit(130) from None
    console.print(f"test accuracy after epoch {len(rows)}: {100 * rows[-1].test_accuracy:.2f} %")
    if export is not None:
        exporter.save(exporter.to_onnx(net, batch), export)
        console.print(f"wrote {export}")


@app.command()
def publish(
    run: Annotated[Path, typer.Option(help="Output folder of 'tvm-qnn train maqd'.")],
    data: Data,
    zoo: Annotated[Path, typer.Option(help="Folder of the zoo to write to.")],
) -> None:
    """Export a trained network to a zoo folder and record its measured accuracy."""
    torch = _torch()
    _require("onnxruntime", "onnx")
    from tvm_qnn.nn import data as datasets
    from tvm_qnn.nn.publish import publish as write

    torch.set_num_threads(1)
    images = datasets.load(data)
    if images.name != "fashion-mnist":
        raise QnnError(f"{data}: holds {images.name}; the zoo's model needs fashion-mnist")
    record, agreement = write(run, images, zoo)
    typer.echo(
        f"{zoo / record['file']}: {record['size_bytes']:,} bytes, test accuracy "
        f"{100 * record['test_accuracy']:.2f} %, {len(agreement.different)} of "
        f"{agreement.images:,} labels differ from PyTorch"
    )


def _torch() -> Any:
    return _require("torch", "torch")


def _require(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise QnnError(f"{module} is missing; run: pip install 'tvm-qnn[{extra}]'") from error
