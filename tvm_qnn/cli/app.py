"""The commands. What they need is imported inside, so that ``--help`` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tvm_qnn import __version__
from tvm_qnn.cli.database import app as database_app
from tvm_qnn.cli.device import app as device_app
from tvm_qnn.nn.cli import app as train_app

app = typer.Typer(
    help="Compile low-bit neural networks to exact integer programs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(train_app, name="train")
app.add_typer(database_app, name="database")
app.add_typer(device_app, name="device")

Model = Annotated[
    str, typer.Argument(help="ONNX file, or zoo:NAME (see tvm-qnn zoo).", show_default=False)
]
TargetName = Annotated[str, typer.Option("--target", "-t", help="See tvm-qnn targets.")]
Lowering = Annotated[
    str, typer.Option(help="auto, a kernel family (dot, bitserial, reference), or float.")
]
Batch = Annotated[
    int | None, typer.Option(help="Batch size where the model leaves it open.", show_default=False)
]
Database = Annotated[
    Path | None,
    typer.Option(
        help="Records of tvm-qnn tune, beside those of the package; none: default schedules.",
        show_default=False,
    ),
]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tvm-qnn {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compile low-bit neural networks to exact integer programs."""


@app.command()
def inspect(
    model: Model,
    target: TargetName = "host",
    lowering: Lowering = "auto",
    batch: Batch = None,
    database: Database = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what becomes of each operator, and what stays float and why."""
    from tvm_qnn.cli.tables import print_inspection
    from tvm_qnn.compiler import inspect as inspect_model

    found = inspect_model(model, target, lowering=lowering, batch=batch, database=database)
    print_inspection(found, as_json=json)


@app.command("compile")
def compile_command(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the artifact.")],
    target: TargetName = "host",
    lowering: Lowering = "auto",
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Add what the device needs to run it.")
    ] = False,
    batch: Batch = None,
    database: Database = None,
) -> None:
    """Compile a model to a folder with a shared library and a manifest."""
    from rich.console import Console

    from tvm_qnn.cli.tables import print_refusals, sizes
    from tvm_qnn.compiler import compile as compile_model

    console = Console()
    with console.status(f"compiling for {target}"):
        artifact = compile_model(
            model, target, output, lowering=lowering, bundle=bundle, batch=batch,
            database=database,
        )  # fmt: skip
    print_refusals(console, artifact.inspection)
    console.print(f"{artifact.path}: {sizes(artifact.manifest)}", highlight=False, markup=False)


@app.command()
def run(
    model: Annotated[
        str, typer.Argument(help="Artifact folder, ONNX file or zoo:NAME.", show_default=False)
    ],
    input: Annotated[
        Path | None,
        typer.Option("--input", "-i", help=".npz with arrays by input name.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".npz to write.", show_default=False)
    ] = None,
    target: TargetName = "host",
    lowering: Lowering = "auto",
    repeat: Annotated[int, typer.Option(min=1, help="Timed inferences.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a kernel.")] = 1,
    batch: Batch = None,
    database: Database = None,
) -> None:
    """Run a model on arrays, and print its latency."""
    from tvm_qnn.cli.running import run_model

    run_model(model, input, output, target, lowering, repeat, threads, batch, database)


@app.command()
def tune(
    model: Model,
    target: TargetName = "host",
    database: Annotated[Path, typer.Option(help="Folder of records; made if missing.")] = Path(
        "tuned"
    ),
    device: Annotated[
        str, typer.Option(help="What measures: host, estimate, or rpc://HOST:PORT/KEY.")
    ] = "host",
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Schedules to try in all.", show_default="32 a kernel"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a session was interrupted.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    batch: Batch = None,
) -> None:
    """Search for faster schedules of the kernels of a model."""
    from tvm_qnn.cli.tuning import tune_model

    tune_model(model, target, database, device, trials, seed, resume, batch)


@app.command()
def verify(
    model: Model,
    target: TargetName = "host",
    input: Annotated[
        Path | None,
        typer.Option("--input", "-i", help=".npz with arrays by input name.", show_default=False),
    ] = None,
    expect: Annotated[
        Path | None,
        typer.Option(help=".npz with outputs to compare with.", show_default=False),
    ] = None,
    lowering: Lowering = "auto",
    limit: Annotated[int, typer.Option(min=1, help="Batches to compare layer by layer.")] = 8,
    batch: Batch = None,
    database: Database = None,
) -> None:
    """Compare every operator with its numpy definition; exit code 1 if integers differ."""
    from tvm_qnn.cli.verifying import verify_model

    if not verify_model(model, target, input, expect, lowering, limit, batch, database):
        raise typer.Exit(1)


@app.command("targets")
def targets_command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    prepare_emulation: Annotated[
        bool,
        typer.Option(
            "--prepare-emulation", help="Fetch what emulated 64-bit ARM boards need (131 MB)."
        ),
    ] = False,
) -> None:
    """List the known devices, and which can be reached now."""
    from tvm_qnn.cli.tables import print_targets

    if prepare_emulation:
        from tvm_qnn.emulation import available, default_folder, prepare

        prepare(default_folder())
        typer.echo(available() or f"emulated userland ready in {default_folder()}")
        return
    print_targets(as_json=json)


@app.command()
def doctor(
    target: TargetName = "host",
    device: Annotated[
        str, typer.Option(help="What is to measure: host, estimate, or rpc://HOST:PORT/KEY.")
    ] = "host",
) -> None:
    """Check what tuning and measuring need; exit code 1 if something is missing."""
    from tvm_qnn.cli.tables import print_checks

    if not print_checks(target, device):
        raise typer.Exit(1)


@app.command("zoo")
def zoo_command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the trained models that ship with the package."""
    from tvm_qnn.cli.tables import print_zoo

    print_zoo(as_json=json)


@app.command()
def demo(
    images: Annotated[int, typer.Option(min=1, max=256, help="Test images to run.")] = 256,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Keep the artifacts here.", show_default=False),
    ] = None,
) -> None:
    """Compile and run a trained network: the whole way on real images, in a minute."""
    from tvm_qnn.cli.demo import run_demo

    if not run_demo(images, output):
        raise typer.Exit(1)


def arrays_of(model: str, path: Path | None) -> tuple[dict[str, Any] | None, str]:
    """Return the input arrays of a command and where they come from.

    A .npz file, else the samples of a model of the zoo, else None: random ones.
    """
    if path is not None:
        from tvm_qnn.arrays import read_npz

        return read_npz(path), str(path)
    if model.startswith("zoo:"):
        from tvm_qnn import zoo

        return zoo.samples(model), f"the samples of {model}"
    return None, "random numbers"
