"""``tvm-qnn train ...``: train, export and publish the networks of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvm_qnn.nn.cli.maqd import maqd
from tvm_qnn.nn.cli.mqnn import mqnn
from tvm_qnn.nn.cli.qmann import TRAINED, qmann
from tvm_qnn.nn.cli.run import require

app = typer.Typer(help="Train a low-bit network and export it to ONNX.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Train a low-bit network and export it to ONNX."""


app.command()(maqd)
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
