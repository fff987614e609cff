"""``tvm-qnn run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tvm_qnn.arrays import batches, joined, random_arrays, write_npz
from tvm_qnn.cli.app import arrays_of
from tvm_qnn.cli.tables import duration
from tvm_qnn.errors import InputError


def run_model(
    model: str, source: Path | None, output: Path | None, target: str, lowering: str,
    repeat: int, threads: int, batch: int | None, database: Path | None,
) -> None:  # fmt: skip
    """Run an artifact, or a model compiled on the spot; print latency and labels' accuracy."""
    from tvm_qnn.runtime import load

    console = Console()
    keep: Any = None
    folder = Path(model)
    if not folder.is_dir():
        from tvm_qnn import compiler

        with console.status(f"compiling for {target}"):
            keep = compiler.compile(
                model, target, lowering=lowering, batch=batch, database=database
            )
        folder = keep.path
    program = load(folder, threads)
    arrays, origin = arrays_of(model, source)
    if arrays is None:
        arrays = random_arrays(program.inputs)
    pieces = list(batches(program.inputs, arrays))
    results = [program.run(piece) for piece in pieces]
    outputs = {o.name: joined([r[o.name] for r in results]) for o in program.outputs}
    if output is not None:
        write_npz(output, outputs)
    latency = program.benchmark(pieces[0], repeat=repeat)
    console.print(
        f"ran {len(pieces)} batch{'es' * (len(pieces) > 1)} of {origin}",
        highlight=False,
        markup=False,
    )
    if "labels" in arrays:
        console.print(f"accuracy {accuracy(next(iter(outputs.values())), arrays['labels']):.2%}")
    console.print(
        f"latency median {duration(latency.median)}, p10 {duration(latency.p10)}, "
        f"p90 {duration(latency.p90)} ({repeat} runs, {threads} thread{'s' * (threads > 1)})",
        highlight=False,
    )


def accuracy(scores: Any, labels: Any) -> float:
    """Return the share of rows [N, classes] whose largest score is at the label.

    Raises:
        InputError: if there is not one label for each row.
    """
    if np.ndim(labels) != 1 or len(scores) != len(labels):
        raise InputError(
            f"'labels' of shape {list(np.shape(labels))} for {len(scores)} outputs: give one label "
            "for each, or leave the array out"
        )
    return float((scores.reshape(len(scores), -1).argmax(axis=1) == labels).mean())
