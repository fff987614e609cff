"""The sections of docs/results.md on tuned kernels; each is there if its result file is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

RESULTS = Path(__file__).parent / "results"
RESNET18 = ("conv3x3 64ch", "conv3x3 128ch", "conv3x3 256ch", "conv3x3 512ch")
MODES = ("operator", "weights ready")
DATABASE = "python -m benchmarks.tune_kernels --database DIR"


def load(name: str) -> dict[str, Any] | None:
    """Read a result file; None if there is none."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else None


def spread(ratio: dict[str, float]) -> str:
    """Write a ratio with its 10th and 90th percentile."""
    return f"{ratio['median']:.3g} ({ratio['p10']:.3g} to {ratio['p90']:.3g})"


def machine(facts: dict[str, Any]) -> str:
    """Write what the figures depend on in one line."""
    return ", ".join(f"{name} {value}" for name, value in facts["machine"].items())


def mean(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def geometric_means(facts: dict[str, Any]) -> str:
    """Write the mean ratios over the four 3x3 convolutions of ResNet-18."""
    peers = {"ONNX Runtime int8": "ratio"}
    if "openvino" in facts:
        peers["OpenVINO int8"] = "openvino_ratio"
    cases = [case for case in facts["cases"] if case["case"].startswith(RESNET18)]
    rows = []
    for bits in ("w1a1", "w1a2", "w2a2", "w8a8"):
        found = [case[bits] for case in cases if bits in case]
        if not found:
            continue
        row = [bits.upper()]
        for ratio in peers.values():
            ratios = [figures[ratio] for figures in found]
            row += (
                [f"{mean(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"] if found else []
            )
        rows += [row] if found else []
    headings = ["bits"]
    for peer in peers:
        headings += [f"faster than {peer}, geometric mean", "over the four shapes"]
    return table(headings, rows)


def kernels(facts: dict[str, Any]) -> str:
    """Write the section of tuned kernels."""
    rows = [
        [
            case["case"],
            bits.upper(),
            f"`{found['kernel']}`",
            found["schedule"],
            f"{found['gain']:.2f}" if "gain" in found else "",
            f"{found['gmacs_per_s']:.0f}",
            f"{found['ratio']:.2f}",
            *([f"{found['openvino_ratio']:.2f}"] if "openvino" in facts else []),
        ]
        for case in facts["cases"]
        for bits, found in case.items()
        if isinstance(found, dict) and "ratio" in found
    ]
    headings = [
        "layer",
        "bits",
        "kernel",
        "schedule",
        "faster than default",
        "GMAC/s",
        "faster than ONNX Runtime int8",
        *([f"than OpenVINO {facts['openvino']} int8"] if "openvino" in facts else []),
    ]
    more = ", with `--openvino PATH`" if "openvino" in facts else ""
    return f"""## Tuned kernels on x86

`{DATABASE}`, then
`python -m benchmarks.kernels --database DIR --json benchmarks/results/kernels_tuned.json`{more}
({machine(facts)}; target {facts["target"]})

Of each layer the fastest family of the database; where no schedule was faster than the default one,
that is what runs. The gain over the default schedule is from the tuning session.

{geometric_means(facts)}

{table(headings, rows)}
"""


def networks(facts: dict[str, Any]) -> str:
    """Write the section of tuned networks."""
    rows = [
        [
            f"`{row['model']}`",
            f"{row['tuned']['kernels']} of {row['tuned']['of']}",
            spread(row["onnxruntime"]["ratio"]),
            spread(row["tvm float"]["ratio"]),
        ]
        for row in facts["models"]
    ]
    headings = [
        "network",
        "kernels with a record of tuning",
        "faster than ONNX Runtime",
        "faster than plain TVM float",
    ]
    return f"""## Tuned networks

`{DATABASE} NAME ...`, then
`python -m benchmarks.network NAME ... --database DIR --json benchmarks/results/network_tuned.json`
({machine(facts)})

{table(headings, rows)}
"""


def peak(facts: dict[str, Any]) -> str:
    """Write the section of what the core can do at most."""
    rows = [
        [
            row["case"],
            f"`{row['kernel']}`",
            row["schedule"],
            f"{row['gmacs_per_s']:.0f}",
            f"{row['peak_gmacs_per_s']:.0f}",
            f"{100 * row['of_peak']['median']:.1f} % ({100 * row['of_peak']['p10']:.1f} to "
            f"{100 * row['of_peak']['p90']:.1f})",
        ]
        for row in facts["rows"]
    ]
    headings = ["layer", "kernel", "schedule", "GMAC/s", "peak of the core", "reached"]
    return f"""## Kernels and the peak of the core

`python -m benchmarks.peak --database DIR --json benchmarks/results/peak.json`
({machine(facts)})

The peaks are loops that stay in registers, measured turn about with the kernels: AND, VPOPCNTD and
addition for one bit, VPDPBUSD for eight. The kernels include padding, packing and requantization.

{table(headings, rows)}
"""


def relay(facts: dict[str, Any]) -> str:
    """Write the section of the bit-serial operators of TVM 0.19."""
    rows = [
        [
            row["case"],
            row["bits"].upper(),
            row["schedule"],
            *(f"{spread(row[mode]['ratio'])}, {row[mode]['layout'].upper()}" for mode in MODES),
        ]
        for row in facts["rows"]
    ]
    means = [
        [
            bits.upper(),
            *(f"{_mean(facts, bits, mode):.2f}" for mode in ("operator", "weights ready")),
        ]
        for bits in dict.fromkeys(row["bits"] for row in facts["rows"])
    ]
    ways = ["faster than its operator", "faster than its loops without the weights"]
    trials = max(row[mode]["trials"] for row in facts["rows"] for mode in MODES)
    return f"""## TVM {facts["peer"]["version"]}, bit-serial operators

`python -m benchmarks.relay --python PATH --database DIR --json benchmarks/results/relay.json`
({machine(facts)})

`topi.x86.bitserial_conv2d` for `llvm -mcpu={facts["peer"]["cpu"]}`, each layout tuned by AutoTVM
with {trials} schedules, results checked against the numpy definition; the faster layout counts. Its
operator packs weights or lays them out in every call; the last column leaves that away, which no
network of that TVM can. Its kernels take codes, pack them and return sums, ours take and return bit
planes and requantize.

{table(["bits", *(f"{way}, geometric mean" for way in ways)], means)}

{table(["layer", "bits", "our schedule", *ways], rows)}
"""


def headline() -> list[str]:
    """Write what the README says of tuned kernels: nothing where nothing was measured."""
    found = []
    if (tuned := load("kernels_tuned.json")) is not None:
        found += ["The same, tuned:", geometric_means(tuned)]
    if (peer := load("relay.json")) is not None:
        means, alone = (
            [
                f"{_mean(peer, bits, mode):.1f} ({bits.upper()})"
                for bits in dict.fromkeys(row["bits"] for row in peer["rows"])
            ]
            for mode in MODES
        )
        found.append(
            "Against the bit-serial operators of TVM "
            f"{peer['peer']['version']}, tuned by AutoTVM, our kernels are as many times faster: "
            f"{', '.join(means)}; against their loops without the weights that they lay out in "
            f"every call: {', '.join(alone)}."
        )
    return found


def state(network: dict[str, Any]) -> str:
    """Tell in a word whether the kernels of measured networks were tuned."""
    records = sum(row.get("tuned", {"kernels": 0})["kernels"] for row in network["models"])
    return "with the tuned kernels that ship" if records else "untuned"


def _mean(facts: dict[str, Any], bits: str, mode: str) -> float:
    rows = [row for row in facts["rows"] if row["bits"] == bits]
    return mean([row[mode]["ratio"]["median"] for row in rows])


def boards(facts: dict[str, Any]) -> str:
    """Write the section of tuned estimates for boards."""
    rows = [
        [
            row["target"],
            row["work"],
            f"`{row['kernel']}`",
            row["schedule"],
            f"{100 * row['inner_loop']['of_limit']:.0f} %",
            f"{100 * row['whole']['of_limit']:.0f} %",
        ]
        for row in facts["rows"]
    ]
    headings = ["board", "layer", "kernel", "schedule", "inner loop", "whole kernel"]
    return f"""## Tuned kernels on Raspberry Pi, estimated

`{DATABASE} --target rpi4 --device estimate` and so on, then
`python -m benchmarks.arm --database DIR --output benchmarks/results/arm_tuned.json`
({facts["llvm"]})

Estimated cycles as in the last section, as shares of what the vector pipes of the core allow: three
instructions for 128 bits, or for 16 products of bytes without a dot product instruction. The model
of the Cortex-A53 has latencies of 6 cycles, which keep any loop from that limit.

{table(headings, rows)}
"""


SECTIONS = (
    ("kernels_tuned.json", kernels),
    ("peak.json", peak),
    ("network_tuned.json", networks),
    ("relay.json", relay),
)


def sections() -> str:
    """Write the sections on this machine whose result files exist."""
    found = [(load(name), write) for name, write in SECTIONS]
    return "".join(f"\n{write(facts)}" for facts, write in found if facts is not None)


def board_section() -> str:
    """Write the section on boards, if its result file exists."""
    facts = load("arm_tuned.json")
    return "" if facts is None else f"\n{boards(facts)}"
