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
    Path, typer.Option(help="Folder with the official files of CIFAR-10, Fashion-MNIST or MNIST.")
]
Out = Annotated[Path, typer.Option(help="Folder for checkpoint and metrics.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training images.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from OUT's checkpoint.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Export = Annotated[Path | None, typer.Option(help="ONNX file to write at the end.")]
Batch = Annotated[int, typer.Option(min=1, help="Batch size of the ONNX file.")]


@app.callback()
def _group() -> None:
    """Train a low-bit network and export it to ONNX."""


@app.command()
def maqd(
    data: Data,
    out: Out,
    epochs: Epochs = 30,
    seed: Seed = 0,
    weight_states: Annotated[int, typer.Option(min=2, max=128, help="States of a weight.")] = 3,
    activation_states: Annotated[
        int, typer.Option(min=2, max=256, help="States of an activation.")
    ] = 4,
    resume: Resume = False,
    threads: Threads = 1,
    export: Export = None,
    batch: Batch = 1,
) -> None:
    """Train the MaQD network: M-state weights and activations, layer-batch normalization."""
    require("torch", "torch")
    from tvm_qnn.nn import datasets
    from tvm_qnn.nn.checkpoint import Recipe
    from tvm_qnn.nn.models import MaqdConfig
    from tvm_qnn.nn.networks import build

    images = datasets.load(data)
    # A mirrored digit is another sign; mirrored clothes are still clothes.
    recipe = Recipe(epochs=epochs, seed=seed, flip=images.name != "mnist")
    _, channels, size, _ = images.train_images.shape
    cfg = MaqdConfig(
        image_size=size,
        image_channels=channels,
        weight_states=weight_states,
        activation_states=activation_states,
    )
    run(build(cfg, seed), images, recipe, out, resume, threads, export, batch)


@app.command()
def publish(
    run: Annotated[Path, typer.Option(help="Output folder of 'tvm-qnn train'.")],
    data: Data,
    zoo: Annotated[Path, typer.Option(help="Folder of the zoo to write to.")],
    name: Annotated[str, typer.Option(help="Name of the model, such as maqd-fashion.")],
    samples: Annotated[int, typer.Option(min=1, help="Test images to put beside it.")] = 256,
) -> None:
    """Export a trained network to a zoo folder and record its measured accuracy."""
    torch = require("torch", "torch")
    require("onnxruntime", "onnx")
    from tvm_qnn.nn import datasets
    from tvm_qnn.nn.publish import publish as write

    torch.set_num_threads(1)
    record, agreement = write(run, datasets.load(data), zoo, name, samples)
    typer.echo(
        f"{zoo / record['file']}: {record['size_bytes']:,} bytes, test accuracy "
        f"{100 * record['test_accuracy']:.2f} %, {len(agreement.different)} of "
        f"{agreement.images:,} labels differ from PyTorch"
    )


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
