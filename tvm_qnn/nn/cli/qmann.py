"""``tvm-qnn train qmann``: a memory network on one bAbI task."""

from __future__ import annotations

import csv
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tvm_qnn.errors import QnnError
from tvm_qnn.nn.cli.run import Batch, Export, Out, Resume, Seed, Threads, require

if TYPE_CHECKING:
    from tvm_qnn.nn.qmann.babi import Task
    from tvm_qnn.nn.qmann.config import QmannConfig, QmannRecipe
    from tvm_qnn.nn.qmann.state import Trained
    from tvm_qnn.nn.qmann.train import QmannRun

STATE = "checkpoint.npz"
TRAINED = "trained.npz"
METRICS = "metrics.csv"


class SimilarityName(str, Enum):
    """How a key is compared with the memory."""

    DOT = "dot"
    HAMMING = "hamming"
    HAMMING_CODE = "hamming-code"


class GradientName(str, Enum):
    """How the gradient of the weighted read is computed."""

    FLOAT = "float"
    QUANTIZED = "quantized"


def qmann(
    data: Annotated[Path, typer.Option(help="Folder with the official bAbI v1.2 archives.")],
    out: Out,
    task: Annotated[int, typer.Option(min=1, max=20, help="bAbI task.")] = 1,
    format: Annotated[
        str, typer.Option(help="Fixed-point format such as Q2.5, or float (dot product only).")
    ] = "Q2.5",
    similarity: Annotated[
        SimilarityName | None,
        typer.Option(help="Similarity to the memory.", show_default="hamming, or dot for float"),
    ] = None,
    binary: Annotated[bool, typer.Option("--binary", help="Binary keys in products.")] = False,
    control: Annotated[
        bool, typer.Option("--control", help="A format for every hop (MQ): one bit more or less.")
    ] = False,
    read_gradient: Annotated[
        GradientName, typer.Option(help="Gradient of the weighted read, with Hamming similarity.")
    ] = GradientName.FLOAT,
    early_stopping: Annotated[
        bool, typer.Option(help="Keep the weights of the best validation epoch (ES).")
    ] = True,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the questions.")] = 100,
    seed: Seed = 0,
    resume: Resume = False,
    threads: Threads = 1,
    export: Export = None,
    batch: Batch = 1,
) -> None:
    """Train a memory network on a bAbI task: Q-MANN, conventional fixed point, or float.

    OUT gets trained.npz, which `tvm-qnn zoo` networks are made from, and metrics.csv.
    """
    require("torch", "torch").set_num_threads(threads)
    from tvm_qnn.nn.qmann import babi
    from tvm_qnn.nn.qmann.config import QmannRecipe

    cfg = config(format, similarity, binary, control, read_gradient)
    if export is not None and cfg.similarity == "hamming-code":
        raise QnnError("--export: hamming-code is for training only; train with hamming")
    recipe = QmannRecipe(epochs=epochs)
    loaded = babi.load(data, task)
    console = Console()
    if loaded.size != "10k":
        console.print(f"task {task}: training on {loaded.size}, its 10k file is not in {data}")
    run = _train(cfg, recipe, loaded, out, seed, early_stopping, resume, console)
    trained = _finish(cfg, recipe, loaded, out, run, early_stopping)
    console.print(
        f"test error of the weights after epoch {trained.record['epoch']}: "
        f"{100 * trained.record['test_error']:.1f} %"
    )
    if export is not None:
        from tvm_qnn.nn import export as exporter
        from tvm_qnn.nn.qmann.export import trained_to_onnx

        exporter.save(trained_to_onnx(trained, batch), export)
        console.print(f"wrote {export}")


def config(
    format: str,
    similarity: SimilarityName | None,
    binary: bool,
    control: bool,
    read_gradient: GradientName,
) -> QmannConfig:
    """The network that the options name.

    Raises:
        QnnError: The options do not go together.
    """
    from tvm_qnn.nn.qmann.config import QmannConfig, parse_format

    plain = format == "float"
    chosen = similarity or (SimilarityName.DOT if plain else SimilarityName.HAMMING)
    try:
        return QmannConfig(
            format=None if plain else parse_format(format),
            similarity=chosen.value,
            binary=binary,
            control=control,
            read_gradient=read_gradient.value,
        )
    except ValueError as error:
        raise QnnError(f"--format {format}: {error}") from error


def _train(
    cfg: QmannConfig,
    recipe: QmannRecipe,
    task: Task,
    out: Path,
    seed: int,
    stop: bool,
    resume: bool,
    console: Console,
) -> QmannRun:
    from tvm_qnn.nn.qmann.train import train

    columns = (TextColumn("epoch"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("train", total=recipe.epochs)

        def report(epoch: int, runs: list[QmannRun]) -> None:
            row = runs[0].epochs[-1]
            progress.update(bar, completed=epoch)
            if epoch % 10 == 0 or epoch == recipe.epochs:
                console.print(
                    f"epoch {row.epoch}: loss {row.loss:.4f}, training error "
                    f"{100 * row.error:.1f} %, validation error {100 * row.validation_error:.1f} %"
                )

        try:
            state = out / STATE
            runs = train(
                cfg, recipe, task, [seed], stop=stop, state=state, resume=resume, report=report
            )
        except KeyboardInterrupt:
            console.print(f"stopped; {out} holds the last whole epoch, --resume goes on from there")
            raise typer.Exit(130) from None
    return runs[0]


def _finish(
    cfg: QmannConfig, recipe: QmannRecipe, task: Task, out: Path, run: QmannRun, stop: bool
) -> Trained:
    from tvm_qnn.nn.qmann.state import save_trained
    from tvm_qnn.nn.qmann.train import trained

    result = trained(cfg, recipe, task, run, stop)
    save_trained(out / TRAINED, result)
    with (out / METRICS).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(run.epochs[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in run.epochs)
    return result
