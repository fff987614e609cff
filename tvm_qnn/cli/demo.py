"""``tvm-qnn demo``: the whole way, from a trained network to a Raspberry Pi artifact."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tvm_qnn import emulation, zoo
from tvm_qnn.arrays import accuracy, batches
from tvm_qnn.cli.tables import duration, print_inspection
from tvm_qnn.cli.verifying import print_verification
from tvm_qnn.compiler import Artifact, compile, inspect
from tvm_qnn.verification import verify

MODEL = "zoo:maqd-fashion"
ROUNDS = 5
DEVICE = "rpi4"


def run_demo(images: int, output: Path | None) -> bool:
    """Inspect, compile for this machine and a Raspberry Pi 4, verify, run, and time.

    Returns:
        Whether every integer equals its definition.
    """
    console = Console()
    entry = zoo.entry(MODEL)
    samples = {name: array[:images] for name, array in zoo.samples(MODEL).items()}
    console.print(f"[bold]1. The network[/bold]: {entry.description}", highlight=False)
    print_inspection(inspect(MODEL))

    with tempfile.TemporaryDirectory(prefix="tvm-qnn-demo-") as scratch:
        folder = output or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        console.print("\n[bold]2. Compile[/bold]")
        built = {}
        for name, target, lowering in (
            ("host", "host", "auto"),
            (DEVICE, DEVICE, "auto"),
            ("float", "host", "float"),
        ):
            start = time.perf_counter()
            with console.status(f"compiling {name}"):
                built[name] = compile(MODEL, target, folder / name, lowering=lowering)
            label = "plain TVM, float, host" if name == "float" else name
            console.print(f"  {label}: {time.perf_counter() - start:.1f} s", highlight=False)

        console.print("\n[bold]3. Verify[/bold] every operator against its numpy definition")
        with console.status("verifying"):
            outcome = verify(MODEL, samples, limit=8)
        print_verification(console, outcome, "8 test images")
        exact = outcome.first_wrong is None and _verify_board(console, samples)

        console.print(f"\n[bold]4. Run[/bold] on {images} test images")
        scores = {name: _scores(built[name], samples) for name in ("host", "float")}
        latencies = _interleaved(built, samples)
        _print_results(console, built, scores, latencies, samples["labels"])
        if output is not None:
            console.print(f"artifacts are in {output}", highlight=False)
    return exact


def _verify_board(console: Console, samples: dict[str, Any]) -> bool:
    """Verify the code for the board on an emulated processor, where there is one."""
    lacking = emulation.available()
    if lacking is not None:
        console.print(f"{DEVICE} is not verified here: {lacking}", style="dim", highlight=False)
        return True
    with console.status(f"verifying {DEVICE}, emulated"):
        outcome = verify(MODEL, samples, DEVICE, limit=1)
    wrong, layers = outcome.first_wrong, outcome.layers
    integers = sum(layer.elements for layer in layers if layer.exact)
    verdict = "all" if wrong is None else f"{wrong.name} differs; not all"
    console.print(
        f"{verdict} {integers:,} integers of {DEVICE}'s code equal it, on 1 test image, emulated",
        highlight=False,
    )
    return wrong is None


def _scores(artifact: Artifact, samples: dict[str, Any]) -> Any:
    info = artifact.program.outputs[0]
    pieces = batches(artifact.program.inputs, samples)
    return np.concatenate([artifact.program.run(piece)[info.name] for piece in pieces])


def _interleaved(built: dict[str, Artifact], samples: dict[str, Any]) -> dict[str, list[float]]:
    """Time both programs turn about, one median a round."""
    medians: dict[str, list[float]] = {"host": [], "float": []}
    first = next(batches(built["host"].program.inputs, samples))
    for _ in range(ROUNDS):
        for name, repeat in (("host", 200), ("float", 10)):
            medians[name].append(built[name].program.benchmark(first, repeat=repeat).median)
    return medians


def _print_results(
    console: Console, built: dict[str, Artifact], scores: dict[str, Any],
    latencies: dict[str, list[float]], labels: Any,
) -> None:  # fmt: skip
    table = Table()
    for heading in ("", "integer program", "same network, plain TVM float"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("accuracy", *[f"{accuracy(scores[n], labels):.2%}" for n in ("host", "float")])
    table.add_row(
        "latency, 1 thread", *[duration(float(np.median(latencies[n]))) for n in ("host", "float")]
    )
    inspection = built["host"].inspection
    table.add_row(
        "weights", f"{inspection.weight_bytes:,} bytes", f"{inspection.float_weight_bytes:,} bytes"
    )
    table.add_row(
        "library", *[f"{built[n].manifest.sizes['lib.so']:,} bytes" for n in ("host", "float")]
    )
    table.add_row(f"library for {DEVICE}", f"{built[DEVICE].manifest.sizes['lib.so']:,} bytes", "")
    console.print(table)
    ratios = [f / h for h, f in zip(latencies["host"], latencies["float"], strict=True)]
    same = (scores["host"].argmax(axis=1) == scores["float"].argmax(axis=1)).mean()
    console.print(
        f"{np.median(ratios):.0f} times faster than float (between {min(ratios):.0f} and "
        f"{max(ratios):.0f} over {ROUNDS} interleaved rounds); {same:.2%} of the labels are equal",
        highlight=False,
    )
