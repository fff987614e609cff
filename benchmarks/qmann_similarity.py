"""How wide the similarities of task 8 grow during training: dot product against Hamming.

    python -m benchmarks.qmann_similarity --data DIR      (train; writes the table, then the plot)
    python -m benchmarks.qmann_similarity                 (draw the plot from the table)

Needs `tvm-qnn[plot]` and, to train, a C compiler. Formats are those of the paper's analysis. The
similarities are those of the validation questions with every sentence in memory, all hops.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from tvm_qnn.nn.qmann import babi
from tvm_qnn.nn.qmann import native as qmann_native
from tvm_qnn.nn.qmann.config import QmannConfig, QmannRecipe, parse_format
from tvm_qnn.nn.qmann.train import QmannRun, train

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "qmann_similarity.csv"
PLOT = ROOT / "docs" / "img" / "qmann-similarity.svg"
TASK = 8
FORMATS = ("Q5.7", "Q5.4", "Q5.1", "Q2.7")
COLUMNS = ("similarity", "format", "epoch", "low", "high", "deviation", "validation_error")


def networks() -> list[tuple[str, str, QmannConfig]]:
    """Similarity, format, network; the float network first."""
    found = [("dot", "float", QmannConfig())]
    for similarity in ("dot", "hamming"):
        for name in FORMATS:
            fmt = parse_format(name)
            cfg = QmannConfig(fmt) if similarity == "dot" else QmannConfig(fmt, "hamming")
            found.append((similarity, name, cfg))
    return found


def measure(data: Path, epochs: int) -> None:
    """Train one seed of every network and write the table."""
    task = babi.load(data, TASK)
    filled = (task.validation.story != 0).any(axis=2)
    rows: list[dict[str, object]] = []
    for similarity, name, cfg in networks():

        def report(
            epoch: int,
            runs: list[QmannRun],
            similarity: str = similarity,
            name: str = name,
            cfg: QmannConfig = cfg,
        ) -> None:
            _, scores, _ = qmann_native.infer(cfg, runs[0].weights, task.validation)
            values = scores.transpose(0, 2, 1)[filled]
            low, high = np.percentile(values, (1, 99))
            error = runs[0].epochs[-1].validation_error
            numbers = (round(float(x), 4) for x in (low, high, values.std(), error))
            row = (similarity, name, epoch, *numbers)
            rows.append(dict(zip(COLUMNS, row, strict=True)))

        train(cfg, QmannRecipe(epochs=epochs), task, [0], engine="native", report=report)
        print(f"{similarity} {name}: {rows[-1]}", flush=True)
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def draw() -> None:
    """Draw the plot from the table."""
    import matplotlib as mpl
    from matplotlib import pyplot

    # Reproducible bytes: no random ids, no date.
    mpl.rcParams["svg.hashsalt"] = "qmann-similarity"
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    titles = {"dot": "dot product (MANN)", "hamming": "Hamming (Q-MANN)"}
    for panel, (similarity, title) in zip(panels, titles.items(), strict=True):
        for name in ("float", *FORMATS):
            chosen = [r for r in rows if (r["similarity"], r["format"]) == (similarity, name)]
            if not chosen:
                continue
            error = 100 * float(chosen[-1]["validation_error"])
            panel.plot(
                [int(r["epoch"]) for r in chosen],
                [float(r["high"]) - float(r["low"]) for r in chosen],
                label=f"{name}: {error:.0f} % wrong at the end",
                color="black" if name == "float" else f"C{FORMATS.index(name)}",
            )
        panel.set_title(title)
        panel.set_xlabel("epoch")
        panel.set_yscale("log")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", loc="center right")
    panels[0].set_ylabel("width of the similarities\n(1st to 99th percentile)")
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the bAbI archives; train anew")
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()
    if options.data is not None:
        measure(options.data, options.epochs)
    draw()


if __name__ == "__main__":
    main()
