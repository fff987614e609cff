"""Write docs/results.md and the figures of the README from the committed result files.

    python -m benchmarks.report

Reads benchmarks/results/, benchmarks/arm/results.json and the record of the model zoo.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import (
    codebook_report,
    maqd_report,
    memory_report,
    mqnn_report,
    qmann_report,
    tuned_report,
)
from benchmarks.markdown import table
from benchmarks.tuned_report import geometric_means, machine, spread
from tvm_qnn import targets, zoo

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN = "<!-- results: written by `python -m benchmarks.report`, do not edit -->"
END = "<!-- end of results -->"
PEER = (
    "ONNX Runtime runs the same file with all its optimizations, but for networks of random "
    "weights below 8 bits the same shapes in 8 bits."
)


def load(name: str) -> dict[str, Any]:
    """Read a result file."""
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


def networks(facts: dict[str, Any]) -> str:
    """Write the table of whole networks."""
    rows = []
    for row in facts["models"]:
        accuracy = "random weights"
        if row["model"].startswith("zoo:"):
            accuracy = f"{100 * zoo.entry(row['model']).test_accuracy:.2f} %"
        rows.append(
            [
                f"`{row['model']}`",
                accuracy,
                f"{row['float_weight_bytes'] / row['weight_bytes']:.1f}",
                spread(row["onnxruntime"]["ratio"]),
                spread(row["tvm float"]["ratio"]),
            ]
        )
    headings = [
        "network",
        "accuracy, 10,000 test images",
        "weights smaller than float32",
        "faster than ONNX Runtime",
        "faster than plain TVM float",
    ]
    return table(headings, rows)


def kernels(facts: dict[str, Any]) -> str:
    """Write the table of kernels."""
    rows = []
    for case in facts["cases"]:
        for name, figures in case.items():
            if isinstance(figures, dict) and "ratio" in figures:
                rows.append(
                    [
                        case["case"],
                        name.upper(),
                        f"`{figures['kernel']}`",
                        f"{figures['gmacs_per_s']:.0f}",
                        f"{figures['ratio']:.2f}",
                    ]
                )
    return table(["layer", "bits", "kernel", "GMAC/s", "faster than ONNX Runtime int8"], rows)


def arm(facts: dict[str, Any]) -> str:
    """Write the table of estimated cycles, beside the best inner loop of the same model."""
    rows = []
    for row in facts["rows"]:
        rates = targets.get(row["target"]).rates
        bits = row["kernel"].endswith("bitserial")
        reached = row["plane_macs_per_cycle"] if bits else row["macs_per_cycle"]
        limit = rates.bitserial if bits else rates.dot
        rows.append(
            [
                row["target"],
                row["work"],
                f"`{row['kernel']}`",
                f"{row['macs_per_cycle']:.2f}",
                f"{100 * reached / limit:.0f} %",
            ]
        )
    return table(["board", "layer", "kernel", "MAC/cycle", "of the best inner loop"], rows)


def methods(memory: dict[str, Any], codebook: dict[str, Any]) -> str:
    """Write the two figures of memory networks and codebooks."""
    answer = memory["answer"]
    ratios = [row["torch"] for row in answer["rows"].values() if "torch" in row]
    taps = [
        row["ratio"]
        for row in codebook["boards"]
        if (row["target"], row["values"], row["bits"]) == ("rpi4", 3, 8)
    ]
    return (
        f"A compiled Q-MANN (batch 1, {answer['shape']['slots']} slots, 3 hops) answers "
        f"{min(ratios):.0f} to {max(ratios):.0f} times faster than the float network in PyTorch. "
        "Convolutions with three free weight values and 8-bit activations take "
        f"{min(taps):.1f} to {max(taps):.1f} times fewer cycles than 8-bit ones on a Pi 4 "
        "(estimated)."
    )


def document(network: dict[str, Any], kernel: dict[str, Any], boards: dict[str, Any]) -> str:
    """Write docs/results.md."""
    entries = table(
        ["model", "task", "accuracy", "of", "weights", "activations", "bytes"],
        [
            [
                f"`zoo:{e.name}`",
                e.task,
                f"{100 * e.test_accuracy:.2f} %",
                f"{e.test_samples:,}",
                e.weights,
                e.activations,
                f"{e.size_bytes:,}",
            ]
            for e in zoo.entries()
        ],
    )
    costs = "\n".join(
        f"* `{row['model']}` for {target}: {cost['seconds']} s, {cost['peak_mib']} MiB at the peak"
        for row in network["models"]
        for target, cost in row.get("compile", {}).items()
    )
    return f"""# Results

Written by `python -m benchmarks.report` from the files in `benchmarks/results/`. Times are ratios
between programs that ran turn about in one process on one thread; the spread is the 10th to the
90th percentile of the rounds.

## Whole networks

`python -m benchmarks.network --json benchmarks/results/network.json`
({machine(network)})

{networks(network)}

{PEER}

Compiling, in a process of its own:

{costs}

`import tvm_qnn.runtime` takes {network["import_runtime_seconds"]} s.

## Trained networks

{entries}

Accuracies are those of ONNX Runtime on whole official test sets. `tvm-qnn zoo --json` tells of each
model how it was trained and measured, what chose it, and which method it follows how closely.

{mqnn_report.section()}
{maqd_report.section()}
{qmann_report.section()}
{memory_report.section()}
{codebook_report.section()}
## Kernels on x86

`python -m benchmarks.kernels --json benchmarks/results/kernels.json`
({machine(kernel)}; target {kernel["target"]})

Untuned. The peer takes 8-bit activations and weights in its fastest layout whatever our bits are,
since it has no kernels below 8 bits.

{kernels(kernel)}
{tuned_report.sections()}
## Kernels on Raspberry Pi, estimated

`python -m benchmarks.arm`

No board was measured. The figures are executed blocks (qemu-user) times the cycles that llvm-mca
gives each block, for the whole kernel with padding, packing and epilogue. Results are checked in
the same run. Bit-serial kernels are compared with the best loop of AND, popcount and add, others
with the best loop of 8-bit products, both in the same model (the rates of the target).

{arm(boards)}
{tuned_report.board_section()}"""


def main() -> None:
    """Write both files."""
    network, kernel = load("network.json"), load("kernels.json")
    boards = json.loads((ROOT / "benchmarks" / "arm" / "results.json").read_text())
    (ROOT / "docs" / "results.md").write_text(document(network, kernel, boards))
    readme = (ROOT / "README.md").read_text()
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n\n".join(
        [
            networks(network),
            PEER,
            "The four 3x3 convolutions of ResNet-18, one kernel at a time, untuned:",
            geometric_means(kernel),
            *tuned_report.headline(),
            methods(load("memory.json"), load("codebook.json")),
            f"One thread, networks {tuned_report.state(network)}; {machine(network)}.",
        ]
    )
    text = f"{BEGIN}\n{text}\n{END}"
    (ROOT / "README.md").write_text(before + text + after)


if __name__ == "__main__":
    main()
