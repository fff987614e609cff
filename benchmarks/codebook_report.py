"""The section on codebook kernels in docs/results.md, from benchmarks/results/codebook.json.

python -m benchmarks.codebook_report   # prints the section
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

RESULTS = Path(__file__).with_name("results") / "codebook.json"
Row = dict[str, Any]


def boards(rows: Sequence[Row]) -> str:
    """Write the table of the boards: one line for each shape, values and bits."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    keys = list(dict.fromkeys((row["case"], row["values"], row["bits"]) for row in rows))
    found = {(row["case"], row["values"], row["bits"], row["target"]): row for row in rows}
    lines = []
    for case, values, bits in keys:
        line = [case, str(values), str(bits)]
        for target in targets:
            row = found[case, values, bits, target]
            line.append(f"{row['macs_per_cycle']:.1f} ({family(row)})")
            line.append(f"{row['ratio']:.2f}")
        lines.append(line)
    headings = ["layer", "M", "activation bits"]
    for target in targets:
        headings += [f"{target}, MAC/cycle", "faster than our int8 `dot`"]
    return table(headings, lines)


def family(row: Row) -> str:
    """Return the family of a kernel's name."""
    return str(row["kernel"]).rpartition("_")[2]


def host(rows: Sequence[Row]) -> str:
    """Write the table of the machine that measured."""
    lines = []
    for row in rows:
        ratio = row["ratio"]
        lines.append(
            [
                row["case"],
                row["target"],
                str(row["values"]),
                str(row["bits"]),
                family(row),
                f"{row['gmacs_per_s']:.0f}",
                f"{row['quiet']:.2f} ({ratio['p10']:.2f} to {ratio['p90']:.2f})",
            ]
        )
    headings = [
        "layer",
        "target",
        "M",
        "activation bits",
        "kernel",
        "GMAC/s",
        "faster than our int8 `dot`",
    ]
    return table(headings, lines)


def section() -> str:
    """Write the section."""
    facts = json.loads(RESULTS.read_text())
    machine = ", ".join(f"{k} {v}" for k, v in facts["machine"].items())
    return f"""## Codebook kernels

`python -m benchmarks.codebook`

Convolutions whose weights take one of M free values, from codes to codes, in the kernel that the
compiler chooses, beside our own int8 `dot` product of the same shape. Weights are random with all
codes equally frequent, the worst case; every result equals the definition. 8-bit activations take
`taps`, which adds activations and multiplies none (`schedules/codebook_taps.py`).

Boards: model cycles of one core (executed blocks under qemu-user, each costed by llvm-mca,
{facts["llvm"]}); no board was measured. The model knows no caches, and no loads that cross a cache
line, of which `taps` has some and `dot` has none.

{boards(facts["boards"])}

This machine ({machine}): both kernels turn about on one thread; the ratio of the 10th percentiles
of their times, which other programs disturb least, and in brackets the 10th to the 90th percentile
of the ratio over all turns.

{host(facts["host"])}
"""


if __name__ == "__main__":
    print(section())
