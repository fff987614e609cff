"""``tvm-qnn verify``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from tvm_qnn.arrays import batches, joined, read_npz
from tvm_qnn.cli.app import arrays_of
from tvm_qnn.errors import InputError
from tvm_qnn.verification import Verification, verify


def verify_model(
    model: str, target: str, source: Path | None, expect: Path | None, lowering: str, limit: int,
    batch: int | None, database: Path | None,
) -> bool:  # fmt: skip
    """Print the comparison of a model with its definition; return whether all integers agree."""
    console = Console()
    arrays, origin = arrays_of(model, source)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"verifying on {target}", total=None)
        outcome = verify(
            model, arrays, target, lowering=lowering, batch=batch, limit=limit,
            database=database,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    print_verification(console, outcome, origin)
    agreed = outcome.first_wrong is None
    if expect is not None:
        agreed &= _compare_expected(
            console, model, target, lowering, batch, database, arrays, expect
        )
    return agreed


def print_verification(console: Console, outcome: Verification, origin: str) -> None:
    """Print one line an operator, and the first that is wrong."""
    table = Table()
    for heading, justify in (
        ("operator", "left"), ("elements", "right"), ("differ", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for layer in outcome.layers:
        verdict = "equal" if not layer.differing else "DIFFERS" if layer.exact else "float"
        table.add_row(escape(layer.name), f"{layer.elements:,}", f"{layer.differing:,}", verdict)
    console.print(table)
    wrong = outcome.first_wrong
    if wrong is None:
        integers = sum(layer.elements for layer in outcome.layers if layer.exact)
        console.print(
            f"all {integers:,} integers equal their definition, on {origin}", markup=False
        )
        return
    assert wrong.example is not None
    where, got, wanted = wrong.example
    console.print(
        f"first wrong operator: {wrong.name}, {wrong.differing:,} of {wrong.elements:,} elements; "
        f"at {list(where)} it gives {got}, the definition {wanted}",
        style="red",
        highlight=False,
        markup=False,
    )


def _compare_expected(
    console: Console, model: str, target: str, lowering: str, batch: int | None,
    database: Path | None, arrays: dict[str, np.ndarray] | None, expect: Path,
) -> bool:  # fmt: skip
    """Run the compiled model on all inputs and compare its outputs with a file."""
    from tvm_qnn.compiler import compile as compile_model

    if arrays is None:
        raise InputError("--expect needs the inputs of those outputs: give --input too")
    wanted = read_npz(expect)
    program = compile_model(
        model, target, lowering=lowering, batch=batch, database=database
    ).program
    results = [program.run(piece) for piece in batches(program.inputs, arrays)]
    all_equal = True
    for info in program.outputs:
        if info.name not in wanted:
            raise InputError(f"{expect}: no array {info.name!r}, but {sorted(wanted)}")
        got, expected = joined([r[info.name] for r in results]), wanted[info.name]
        if got.shape != expected.shape:
            raise InputError(
                f"{expect}: {info.name!r} has shape {list(expected.shape)}, the model gives "
                f"{list(got.shape)}"
            )
        agreed, summary = _agreement(got, expected)
        console.print(f"{info.name}: {summary}", highlight=False, markup=False)
        all_equal &= agreed
    return all_equal


def _agreement(got: np.ndarray, expected: np.ndarray) -> tuple[bool, str]:
    """Compare an output with what is expected of it.

    Integers must be equal. Scores of classes [N, M] must give the same labels, for other floats
    only the rounding of float32 is allowed.
    """
    same = float((got == expected).mean())
    summary = f"{same:.2%} of elements are equal"
    if got.dtype.kind != "f":
        return same == 1.0, summary
    if got.ndim == 2 and got.shape[1] > 1:
        labels = float((got.argmax(axis=1) == expected.argmax(axis=1)).mean())
        return labels == 1.0, f"{summary}, and {labels:.2%} of labels"
    room = 1e-5 * float(np.abs(expected).max(initial=0))
    close = np.isclose(got, expected, rtol=0, atol=room, equal_nan=True).mean()
    return bool(close == 1.0), f"{summary}, and {close:.2%} but for float32 rounding"
