"""The section on MQNN in docs/results.md, written from benchmarks/results/mqnn.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.markdown import kibibytes, percent, table

TABLE = Path(__file__).parent / "results" / "mqnn.csv"
NAMES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
Row = dict[str, str]


def read(path: Path = TABLE) -> list[Row]:
    """Read the measured runs."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def label(row: Row) -> str:
    """Write what a run is."""
    if row["states"] != "0":
        return row["states"]
    return "full precision, tuned as long" if int(row["tuning_epochs"]) else "full precision"


def main_rows(rows: list[Row], data: str) -> list[Row]:
    """Return the runs with one set of midpoint levels a layer, full precision first."""
    kept = [
        row
        for row in rows
        if row["data"] == data and row["thresholds"] in ("", "lloyd") and row["levels"] != "channel"
    ]
    return sorted(kept, key=lambda row: (int(row["states"]), int(row["tuning_epochs"])))


def accuracies(rows: list[Row], data: str) -> str:
    """Write the table of one data set."""
    lines = [
        [
            label(row),
            percent(row["accuracy"]),
            kibibytes(row["packed_bytes"]),
            kibibytes(row["ideal_bytes"]),
            f"{float(row['full_bytes']) / float(row['packed_bytes']):.1f}",
        ]
        for row in main_rows(rows, data)
    ]
    headings = ["M", "accuracy", "weights packed, KiB", "at log2 M bits, KiB", "times smaller"]
    return table(headings, lines)


def ablation(rows: list[Row]) -> str:
    """Write the table of thresholds and levels at M = 3."""
    lines = [
        [
            {"lloyd": "midpoints", "learned": "learned"}[row["thresholds"]],
            row["levels"],
            percent(row["accuracy"]),
            kibibytes(row["packed_bytes"]),
        ]
        for row in rows
        if row["data"] == "fashion-mnist" and row["states"] == "3"
    ]
    return table(["thresholds", "levels for each", "accuracy", "weights packed, KiB"], lines)


def epochs(rows: list[Row], data: str) -> str:
    """Write how long the runs of a data set were."""
    found = [row for row in rows if row["data"] == data]
    full = found[0]["full_epochs"]
    tuned = max(int(row["tuning_epochs"]) for row in found)
    return f"{NAMES[data]}: {full} epochs in full precision, then {tuned} for each M"


def section() -> str:
    """Write the section: protocol, deviations and tables."""
    rows = read()
    sets = [data for data in NAMES if any(row["data"] == data for row in rows)]
    parts = "\n\n".join(f"### {NAMES[data]}\n\n{accuracies(rows, data)}" for data in sets)
    lengths = "\n".join(f"* {epochs(rows, data)}" for data in sets)
    return f"""## MQNN: weights with M free levels

`python -m benchmarks.mqnn --data DIR --out DIR`

MQNN (ICME 2020) could be read in its abstract only. The layers follow that abstract and what is
known of related methods (TTQ, LQ-Nets, LSQ); the assumptions are listed in
`tvm_qnn/nn/mqnn/layers.py`. The abstract gives no number, so there is none to compare with, and
none is claimed.

Protocol. A network in full precision is trained first; every M starts from its weights by k-means
and is trained on. One seed. The accuracy is that of the last epoch on all 10,000 official test
images, in float32; no epoch is chosen by it. Trained in bfloat16 on the official training images
with random shifts, and mirroring but for digits. Every convolution and the linear layer are M-ary,
with one set of levels a layer; thresholds are the midpoints of the levels. Lengths of the runs:

{lengths}

Deviations from what the abstract suggests: activations have 8 bits (a learned scale a layer), so
that a compiled network computes with integers, where the abstract speaks of weights alone; networks
and training are small, of a size for one shared processor core. "Full precision, tuned as long" is
the float network with as many epochs more as the M-ary ones had. Sizes count weights and their
levels; normalization and biases stay float ({other(rows)}).

{parts}

### Thresholds and levels, M = 3, Fashion-MNIST

{ablation(rows)}
"""


def other(rows: list[Row]) -> str:
    """Write the size of what stays float, by data set."""
    found = {NAMES[row["data"]]: kibibytes(row["other_bytes"]) for row in rows}
    return ", ".join(f"{name} {size} KiB" for name, size in found.items())


if __name__ == "__main__":
    print(section())
