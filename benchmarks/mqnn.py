"""Train MQNN on MNIST, Fashion-MNIST and CIFAR-10 for many M, and beside full precision.

    python -m benchmarks.mqnn --data DIR --out DIR [--only NAME] [--epochs FULL TUNING]

DIR of --data holds the folders ``mnist``, ``fashion-mnist`` and ``cifar10`` with the official
files. Every cell is one training run in a folder of --out, with a checkpoint an epoch: a run that
is cut off goes on where it was. Finished cells are written to benchmarks/results/mqnn.csv.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_args

import torch

from tvm_qnn.nn import checkpoint, datasets
from tvm_qnn.nn.checkpoint import Epoch
from tvm_qnn.nn.data import Images
from tvm_qnn.nn.mqnn import train as mqnn_train
from tvm_qnn.nn.mqnn.layers import Thresholds
from tvm_qnn.nn.mqnn.network import MqnnNet, weight_memory
from tvm_qnn.nn.train import train

TABLE = Path(__file__).parent / "results" / "mqnn.csv"
FOLDERS = ("fashion-mnist", "cifar10", "mnist")
STATES = (2, 3, 4, 5, 8, 16)
EPOCHS = {"fashion-mnist": (12, 6), "cifar10": (6, 3), "mnist": (4, 2)}
"""Epochs in full precision and of tuning: what one shared core does in about two hours."""


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        folder: Folder of the data set.
        states: M, or 0 for full precision.
        thresholds: "lloyd" or "learned".
        per_channel: Whether every output channel has its own levels.
        tuned: Whether it starts from the full-precision network.
    """

    folder: str
    states: int = 0
    thresholds: Thresholds = "lloyd"
    per_channel: bool = False
    tuned: bool = True

    @property
    def name(self) -> str:
        """Folder of its checkpoint."""
        if not self.states:
            return f"{self.folder}/full-tuned" if self.tuned else f"{self.folder}/full"
        extra = "-learned" if self.thresholds == "learned" else ""
        extra += "-channel" if self.per_channel else ""
        return f"{self.folder}/m{self.states}{extra}"


@dataclass(frozen=True)
class Row:
    """One line of the table; sizes in bytes, of the weights and their levels alone."""

    run: str
    data: str
    states: int
    thresholds: str
    levels: str
    activation_bits: int
    full_epochs: int
    tuning_epochs: int
    seed: int
    accuracy: float
    packed_bytes: float
    ideal_bytes: float
    full_bytes: float
    other_bytes: float
    seconds_per_epoch: float


def cells() -> Iterator[Cell]:
    """All runs, each full-precision network before those that start from it."""
    for folder in FOLDERS:
        yield Cell(folder, tuned=False)
        for states in STATES:
            yield Cell(folder, states)
    for per_channel in (False, True):
        for thresholds in get_args(Thresholds):
            yield Cell("fashion-mnist", 3, thresholds, per_channel)
    for folder in FOLDERS:
        yield Cell(folder)


def run(cell: Cell, data: Images, out: Path, seed: int, epochs: tuple[int, int]) -> Row:
    """Train one cell, or finish it, and measure it.

    Args:
        cell: What to train.
        data: Its images.
        out: Folder of the checkpoints of all cells.
        seed: Seed of everything random.
        epochs: Epochs in full precision, and of tuning after them.
    """
    cfg = mqnn_train.shape(data)
    if cell.states:
        cfg = replace(
            cfg, states=cell.states, thresholds=cell.thresholds, per_channel=cell.per_channel
        )
    else:
        cfg = cfg.full_precision()
    full = out / Cell(cell.folder, tuned=False).name / checkpoint.NAME
    net = mqnn_train.network(cfg, seed, full if cell.tuned else None)
    recipe = mqnn_train.recipe(data, cell.tuned, epochs[cell.tuned], seed)

    def done(row: Epoch) -> None:
        print(f"{cell.name}: epoch {row.epoch}, loss {row.loss:.4f}, test accuracy "
              f"{100 * row.test_accuracy:.2f} %, {row.seconds:.0f} s", flush=True)  # fmt: skip

    rows = train(net, data, recipe, out / cell.name, resume=True, done=done)
    return measured(cell, net, rows, seed, epochs[0])


def measured(cell: Cell, net: MqnnNet, rows: list[Epoch], seed: int, full: int) -> Row:
    """Return the line of a finished run."""
    memory = weight_memory(net)
    return Row(
        run=cell.name,
        data=cell.folder,
        states=cell.states,
        thresholds=cell.thresholds if cell.states else "",
        levels=("channel" if cell.per_channel else "layer") if cell.states else "",
        activation_bits=net.cfg.activation_bits,
        full_epochs=full,
        tuning_epochs=len(rows) if cell.tuned else 0,
        seed=seed,
        accuracy=rows[-1].test_accuracy,
        packed_bytes=memory.packed,
        ideal_bytes=round(memory.ideal, 1),
        full_bytes=memory.full,
        other_bytes=memory.other,
        seconds_per_epoch=round(sum(row.seconds for row in rows) / len(rows), 1),
    )


def write(rows: list[Row], path: Path) -> None:
    """Write the table; lines of runs that are not among ``rows`` stay."""
    lines = [asdict(row) for row in rows]
    if path.exists():
        names = {row.run for row in rows}
        with path.open(newline="") as file:
            lines = [line for line in csv.DictReader(file) if line["run"] not in names] + lines
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def main() -> None:
    """Train what is left to train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--only", default="", help="begin of the names of the runs to do")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--epochs", type=int, nargs=2, help="epochs in full precision and of tuning (new --out)"
    )
    parser.add_argument("--table", type=Path, default=TABLE, help="CSV file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded: dict[str, Images] = {}
    for cell in cells():
        if not cell.name.startswith(given.only):
            continue
        if cell.folder not in loaded:
            loaded = {cell.folder: datasets.load(given.data / cell.folder)}
        epochs = tuple(given.epochs or EPOCHS[cell.folder])
        row = run(cell, loaded[cell.folder], given.out, given.seed, epochs)
        write([row], given.table)


if __name__ == "__main__":
    main()
