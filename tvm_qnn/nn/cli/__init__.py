"""``tvm-qnn train ...``: train, export and publish the networks of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvm_qnn.nn.cli.maqd import maqd_resnet, maqd_vgg
from tvm_qnn.nn.cli.mqnn import mqnn
from tvm_qnn.nn.cli.qmann import TRAINED, qmann
from tvm_qnn.nn.cli.run import (
    Batch,
    Data,
    Epochs,
    Export,
    Out,
    Resume,
    Seed,
    Threads,
    require,
    run,
)

app = typer.Typer(help="Train a low-bit network and export it to ONNX.", no_args_is_help=True)


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
    from tvm_qnn.nn.maqd.small import MaqdConfig
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


app.command()(maqd_vgg)
app.command()(maqd_resnet)
app.command()(mqnn)
app.command()(qmann)


@app.command()
def publish(
    run: Annotated[Path, typer.Option(help="Output folder of 'tvm-qnn train'.")],
    data: Annotated[Path, typer.Option(help="Folder with the official files it was trained on.")],
    zoo: Annotated[Path, typer.Option(help="Folder of the zoo to write to.")],
    name: Annotated[str, typer.Option(help="Name of the model, such as maqd-fashion.")],
    samples: Annotated[int, typer.Option(min=1, help="Test samples to put beside it.")] = 256,
    remark: Annotated[str, typer.Option(help="What to add to the record's protocol.")] = "",
) -> None:
    """Export a trained network to a zoo folder and record its measured accuracy."""
    torch = require("torch", "torch")
    require("onnxruntime", "onnx")
    from tvm_qnn.nn import datasets
    from tvm_qnn.nn.publish import add_record
    from tvm_qnn.nn.publish import publish as write

    torch.set_num_threads(1)
    if (run / TRAINED).is_file():
        from tvm_qnn.nn.qmann.publish import publish_network

        record = publish_network(run / TRAINED, data, zoo, name, samples)
        compared = "all answers are those of PyTorch"
    else:
        record, agreement = write(run, datasets.load(data), zoo, name, samples)
        compared = f"{len(agreement.different)} of {agreement.images:,} labels differ from PyTorch"
    if remark:
        record["protocol"] += f" {remark}"
        add_record(zoo, record)
    typer.echo(
        f"{zoo / record['file']}: {record['size_bytes']:,} bytes, test accuracy "
        f"{100 * record['test_accuracy']:.2f} %, {compared}"
    )
