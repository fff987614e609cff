"""The section on the speed of memory networks in docs/results.md, from benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BOARDS = {"rpi3": "Pi 3 (A53)", "rpi4": "Pi 4 (A72)", "rpi5": "Pi 5 (A76)"}
KERNELS = {
    "bag": "embedding of 50 sentences",
    "hamming_-3": "Hamming similarity",
    "similarity_False": "dot similarity",
    "similarity_True": "dot similarity, binary key",
    "softmax": "softmax",
    "read": "weighted sum, half of the slots",
    "dense_False": "dense 60-63",
    "dense_True": "dense 60-63, binary key",
    "output": "output layer",
    "network": "whole network, fused",
}


def load(name: str) -> dict[str, Any]:
    """Read measured figures."""
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table whose columns are numbers, but for the first."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(row: dict[str, Any], digits: int = 1) -> list[str]:
    """Write the median and the range of ten to ninety percent of the turns."""
    low, high = (f"{row[key]:.{digits}f}" for key in ("p10_us", "p90_us"))
    return [f"{row['median_us']:.{digits}f}", f"{low} to {high}"]


def answers(found: dict[str, Any]) -> str:
    """Write how long one answer takes."""
    rows = [
        [
            f"{'compiled ' if 'torch' in row else ''}{name}",
            *spread(row, 2 if "torch" in row else 1),
            *(f"{row[key]:.1f}x" if key in row else "" for key in ("torch", "onnxruntime")),
        ]
        for name, row in found["rows"].items()
    ]
    headings = ["network", "us", "10 % to 90 %", "PyTorch / ours", "ONNX Runtime / ours"]
    return table(headings, rows)


def similarities(found: dict[str, Any]) -> str:
    """Write how fast a large memory is compared with a key."""
    rows = []
    for place in ("cached", "main memory"):
        for name, row in found[place].items():
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            rows.append([f"{name}, {place}", *spread(row), f"{row['gb_per_s']:.1f}", ratio])
    return table(["", "us", "10 % to 90 %", "GB/s", "time / reading once"], rows)


def boards(found: dict[str, Any]) -> str:
    """Write the modelled cycles of the operators on the boards."""
    cycles = {(row["kernel"], row["target"]): row["cycles"] for row in found["rows"]}
    rows = [
        [text, *(f"{cycles[name, target]:,}" for target in BOARDS)]
        for name, text in KERNELS.items()
    ]
    return table(["operator", *BOARDS.values()], rows)


def section() -> str:
    """Return the section in Markdown."""
    here, arm = load("memory.json"), load("memory_arm.json")
    answer, compared, large = here["answer"], here["similarity"], here["large_answer"]
    shape = answer["shape"]
    machine = here["machine"]
    return f"""## Memory networks: speed

One question to a memory of {shape["slots"]} slots x {shape["width"]} elements, \
{shape["hops"]} hops, {shape["words"]} words a sentence, on one thread of {machine["cpu"]} \
(PyTorch {machine["torch"]}, ONNX Runtime {machine["onnxruntime"]}); the weights are random, as \
wide as trained ones. The float network is written in eager PyTorch three ways, and the fastest \
(*{answer["fastest_torch"].removeprefix("PyTorch, ")}*) is compared. All sides run in turns; \
ratios are medians over the turns. Times include the call from Python, about half of ours. \
Measured by `python -m benchmarks.memory --json benchmarks/results/memory.json`.

{answers(answer)}

The similarity of a key with {compared["slots"]:,} slots x {compared["width"]} int8, \
{compared["bytes"] / 1e6:.0f} MB, against a copy of that memory by numpy. A copy reads and writes \
every byte, and its bandwidth counts both; reading the memory once at that bandwidth takes half as \
long as the copy. *Cached*: the same memory again and again, as far as the caches hold it; *main \
memory*: 24 memories in turn.

{similarities(compared)}

A whole answer over {large["slots"]:,} slots, {large["hops"]} hops in one call, takes \
{large["median_us"]:.0f} us.

Cycles on Raspberry Pi boards, one core, one question as above ({arm["network"]} for the network): \
{arm["method"]}, {arm["llvm"]}; no measurements on boards. Written by \
`python -m benchmarks.memory_arm`.

{boards(arm)}
"""
