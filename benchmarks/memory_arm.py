"""Estimate memory networks on the Raspberry Pi boards: ``python -m benchmarks.memory_arm``.

The cycles are those of ``benchmarks.arm``: executed blocks under qemu-user times the cycles that
llvm-mca gives each. Every operator runs alone on one question, 50 slots of 60 elements; the network
is one fused kernel of three hops. Results are compared with the definitions in the same run.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.arm.works import BOARDS
from benchmarks.memory import (
    ANSWERS,
    NETWORKS,
    Q2_5,
    QUESTION,
    SLOTS,
    VOCABULARY,
    WIDTH,
    WORDS,
    questions,
    random_network,
)
from benchmarks.memory_cases import Case, Size, cases
from tvm_qnn._tvm import relax
from tvm_qnn.estimate import blocks, programs
from tvm_qnn.estimate.kernels import Estimate, estimate_call
from tvm_qnn.evaluate import evaluate
from tvm_qnn.frontend import import_model
from tvm_qnn.nn.qmann.export import to_onnx
from tvm_qnn.passes.pipeline import choose_kernels, to_integers, to_kernels
from tvm_qnn.passes.rewrite import calls, constant
from tvm_qnn.schedules.memory_kernel import build_memory
from tvm_qnn.targets.record import Target

RESULTS = Path(__file__).parent / "results" / "memory_arm.json"
NETWORK = "Q-MANN 8-bit, MQ"


def operators() -> list[Case]:
    """The operators of a hop and around it, each once."""
    size = Size(1, SLOTS, WIDTH, WORDS, VOCABULARY, ANSWERS)
    found: dict[str, Case] = {}
    for case in cases(np.random.default_rng(0), Q2_5, size):
        found.setdefault(case.name, case)
    wanted = (
        "bag", "hamming_-3", "similarity_False", "similarity_True", "softmax", "read",
        "dense_False", "dense_True", "output",
    )  # fmt: skip
    return [found[name] for name in wanted]


def operator_cycles(case: Case, target: Target) -> Estimate:
    """Estimate one operator."""
    out = np.zeros_like(case.expected[0])
    function = build_memory(case.work, target, "kernel")
    found = estimate_call(
        function, [programs.Call("kernel", (*case.arguments, out))], target, before={}
    )
    _check(case.name, found, case.expected[0])
    return found


@dataclass(frozen=True)
class Fused:
    """A network that became one kernel.

    Attributes:
        kernel: its PrimFunc.
        prepare: the PrimFunc that unpacks its weights.
        calls: of ``prepare`` and ``kernel``, to run once.
        expected: what the definitions answer.
    """

    kernel: Any
    prepare: Any
    calls: list[programs.Call]
    expected: np.ndarray


def fused(model: onnx.ModelProto, arrays: dict[str, np.ndarray], target: Target) -> Fused:
    """Lower a memory network whose operators all fuse."""
    integers = to_integers(import_model(model).module).module
    expected = evaluate(integers, arrays)[""][0]
    lowered = to_kernels(choose_kernels(integers, target), target).module
    *inputs, weights = lowered["main"].params
    values = dict(zip(inputs, arrays.values(), strict=True))
    packed = np.zeros([int(d.value) for d in weights.ty.shape], str(weights.ty.dtype))
    values[weights] = packed
    ((_, call),) = calls(lowered)
    ((_, unpack),) = [c for c in calls({"main": lowered["prepare"]}) if len(c[1].args) > 1]
    given = [values[a] if isinstance(a, relax.Var) else _array(a) for a in call.args[1].fields]
    stream = _array(unpack.args[1].fields[0])
    return Fused(
        lowered[call.args[0]].with_attr("global_symbol", "kernel"),
        lowered[unpack.args[0]].with_attr("global_symbol", "prepare"),
        [
            programs.Call("prepare", (stream, packed)),
            programs.Call("kernel", (*given, np.zeros_like(expected))),
        ],
        expected,
    )


def network_cycles(target: Target) -> Estimate:
    """Estimate the fused kernel of a network; its weights are prepared and not counted."""
    model = to_onnx(random_network(**NETWORKS[NETWORK]), SLOTS, WORDS, QUESTION)
    network = fused(model, questions(), target)
    before = {"prepare": network.prepare}
    found = estimate_call(network.kernel, network.calls, target, before)
    _check(NETWORK, found, network.expected)
    return found


def _array(expr: Any) -> np.ndarray:
    found = constant(expr)
    assert found is not None
    return np.ascontiguousarray(found)


def _check(name: str, found: Estimate, expected: np.ndarray) -> None:
    if not np.array_equal(found.output, expected):
        raise RuntimeError(f"{name} differs from the definition")


def main() -> None:
    """Estimate, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for the rows (JSON)")
    args = parser.parse_args()
    tools = blocks.Tools.find()
    if tools is None:
        parser.error(blocks.MISSING)
    rows = []
    for target in BOARDS:
        estimates = {case.name: operator_cycles(case, target) for case in operators()}
        estimates["network"] = network_cycles(target)
        for name, found in estimates.items():
            row = {"target": target.name, "kernel": name, "cycles": round(found.cycles)}
            rows.append({**row, "instructions": found.instructions})
            print(f"{target.name:6} {name:20} {found.cycles:10.0f} cycles", flush=True)
    about = {
        "method": "executed blocks under qemu-user x llvm-mca cycles of each block, one core",
        "llvm": tools.version(),
        "network": NETWORK,
        "shape": {"slots": SLOTS, "width": WIDTH, "words": WORDS, "vocabulary": VOCABULARY},
    }
    args.output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
