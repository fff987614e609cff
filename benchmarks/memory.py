"""Time memory networks: Q-MANN against the float network, similarity against memory copies.

    python -m benchmarks.memory [--rounds N] [--json FILE]

All sides run in turns on one thread. The float network is the same memory network (one question, 50
slots, 3 hops) as eager PyTorch modules, of which the fastest counts, and as ONNX model of standard
operators in ONNX Runtime with all its optimizations. Our side is called from Python too; the inputs
are in place on all sides.

The similarity of one key with 100,000 slots x 60 int8 is compared with a copy of the same memory by
numpy. A copy reads and writes each byte, so its bandwidth counts every byte twice, and reading the
memory once at that bandwidth takes half as long as the copy. ``ratio`` is the time of the kernel
over that half. Once the memory stays in the caches (where this machine has room for it), once 24
memories are visited in turn, so that each comes from main memory; the copies do the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import tvm_qnn
from benchmarks.cases import host_target
from benchmarks.kernels import machine, summary
from benchmarks.memory_cases import codes, one
from benchmarks.network import in_turns, ours, peer
from tvm_qnn import spec
from tvm_qnn._tvm import tvm
from tvm_qnn.nn.qmann.export import to_onnx, to_onnx_with_memory
from tvm_qnn.nn.qmann.memory_network import MemoryNetwork
from tvm_qnn.schedules.memory_kernel import build_memory
from tvm_qnn.spec import FixedPoint

SLOTS, WORDS, QUESTION, VOCABULARY, WIDTH, ANSWERS = 50, 8, 4, 90, 60, 40
LARGE = 100_000
COLD = 24
"""Memories that together are larger than the caches."""

Q2_5, Q5_2 = FixedPoint(2, 5), FixedPoint(5, 2)
NETWORKS: dict[str, dict[str, Any]] = {
    "Q-MANN 8-bit, MQ": {"fmt": Q2_5, "similarity": "hamming", "control": True},
    "Q-MANN 8-bit": {"fmt": Q2_5, "similarity": "hamming"},
    "Q-MANN 8/1-bit, MQ": {
        "fmt": Q2_5, "similarity": "hamming", "binary": True, "control": True,
    },
    "MANN 8-bit": {"fmt": Q5_2},
}  # fmt: skip
SIMILARITIES = ("dot", "dot, binary key", "hamming")


def random_network(**kind: Any) -> MemoryNetwork:
    """A network of random weights, as wide as training leaves them."""
    rng = np.random.default_rng(0)
    tables = [rng.normal(0, 0.6, (VOCABULARY, WIDTH)).astype(np.float32) for _ in range(3)]
    for table in tables:
        table[0] = 0
    key = rng.normal(0, 0.2, (WIDTH, WIDTH)).astype(np.float32)
    answer = rng.normal(0, 1, (ANSWERS, WIDTH)).astype(np.float32)
    return MemoryNetwork(*tables, key, answer, **kind)


def questions() -> dict[str, np.ndarray]:
    """One question about a full story of sentences of different lengths."""
    rng = np.random.default_rng(1)
    story = rng.integers(1, VOCABULARY, (1, SLOTS, WORDS))
    story *= np.arange(WORDS) < rng.integers(4, WORDS + 1, (1, SLOTS, 1))
    asked = rng.integers(1, VOCABULARY, (1, QUESTION))
    return {"story": story.astype(np.int32), "question": asked.astype(np.int32)}


class Gathered(nn.Module):
    """The float network for any batch; embeddings are gathered, then summed."""

    def __init__(self, net: MemoryNetwork) -> None:
        super().__init__()
        self.hops = net.hops
        for name in ("address", "content", "question", "key", "answer"):
            self.register_buffer(name, torch.from_numpy(getattr(net, name)))

    def embed(self, words: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Sum the rows of each bag."""
        return F.embedding(words, table).sum(-2)

    def forward(self, story: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        """Answer questions [N, W] about stories [N, L, W]."""
        address, content = self.embed(story, self.address), self.embed(story, self.content)
        key = self.embed(question, self.question)
        empty = (story == 0).all(-1)
        for _ in range(self.hops):
            score = (address @ key.unsqueeze(2)).squeeze(2).masked_fill_(empty, float("-inf"))
            read = (score.softmax(-1).unsqueeze(1) @ content).squeeze(1)
            key = F.linear(key, self.key) + read
        return F.linear(key, self.answer)


class Bagged(Gathered):
    """The same with the fused operator for bags."""

    def embed(self, words: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Sum the rows of each bag."""
        flat = words.reshape(-1, words.shape[-1])
        return F.embedding_bag(flat, table, mode="sum", padding_idx=0).view(*words.shape[:-1], -1)


class Single(Bagged):
    """The same written for one question: matrix times vector throughout."""

    def forward(self, story: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        """Answer the question [1, W] about the story [1, L, W]."""
        address, content = self.embed(story[0], self.address), self.embed(story[0], self.content)
        key = self.embed(question, self.question)[0]
        empty = (story[0] == 0).all(-1)
        for _ in range(self.hops):
            share = torch.mv(address, key).masked_fill_(empty, float("-inf")).softmax(0)
            key = torch.addmv(torch.mv(content.t(), share), self.key, key)
        return torch.mv(self.answer, key)[None]


def torch_runner(module: nn.Module, arrays: dict[str, np.ndarray]) -> Callable[[int], float]:
    """Return what times a module: the median of a number of inferences."""
    # Embeddings take 64-bit indices faster.
    inputs = [torch.from_numpy(a.astype(np.int64)) for a in arrays.values()]

    def run(number: int) -> float:
        times = []
        with torch.inference_mode():
            module(*inputs)
            for _ in range(number):
                start = time.perf_counter()
                module(*inputs)
                times.append(time.perf_counter() - start)
        return float(np.median(times))

    return run


def answers(rounds: int) -> dict[str, Any]:
    """Time one answer of each network, and the whole answer over a large memory."""
    torch.set_num_threads(1)
    arrays = questions()
    net = random_network(fmt=None)
    model = to_onnx(net, SLOTS, WORDS, QUESTION).SerializeToString()
    modules = {f"PyTorch, {m.__name__.lower()}": m(net) for m in (Gathered, Bagged, Single)}
    expected = peer_output(model, arrays)
    runners: dict[str, Callable[[int], float]] = {}
    for name, module in modules.items():
        found = module(*(torch.from_numpy(a.astype(np.int64)) for a in arrays.values()))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
        runners[name] = torch_runner(module, arrays)
    runners["ONNX Runtime, float"] = peer(model, arrays)
    for name, kind in NETWORKS.items():
        fixed = to_onnx(random_network(**kind), SLOTS, WORDS, QUESTION)
        runners[name] = ours(tvm_qnn.compile(fixed, "host"), arrays)
    times = in_turns(runners, rounds)
    found = {name: summary(seconds) for name, seconds in times.items()}
    best = min(modules, key=lambda name: float(np.median(times[name])))
    for name in NETWORKS:
        for other, key in ((best, "torch"), ("ONNX Runtime, float", "onnxruntime")):
            ratios = np.asarray(times[other]) / np.asarray(times[name])
            found[name][key] = float(np.median(ratios))
    return {"shape": shape(), "fastest_torch": best, "rows": found}


def shape() -> dict[str, int]:
    """The sizes of the network."""
    return {
        "batch": 1, "slots": SLOTS, "words": WORDS, "question": QUESTION,
        "vocabulary": VOCABULARY, "width": WIDTH, "answers": ANSWERS, "hops": 3,
    }  # fmt: skip


def peer_output(model: bytes, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What ONNX Runtime computes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, arrays)[0])


@dataclass
class Visited:
    """Functions that are called in turn, as often as asked.

    Attributes:
        calls: one for each memory.
        place: whose turn it is.
    """

    calls: list[Callable[[], Any]]
    place: int = 0

    def __call__(self, number: int) -> float:
        """Return the median seconds of a call."""
        times = []
        for _ in range(number):
            call = self.calls[self.place]
            self.place = (self.place + 1) % len(self.calls)
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return float(np.median(times))


def similarity_calls(kind: str, memories: list[np.ndarray]) -> list[Callable[[], Any]]:
    """Compile a similarity; one call for each memory, whose first result is checked."""
    key = codes(np.random.default_rng(2), Q2_5, 1, WIDTH)
    name, binary = ("hamming", False) if kind == "hamming" else ("similarity", "binary" in kind)
    if name == "hamming":
        expected = spec.hamming_similarity(memories[0], key, Q2_5)
    else:
        expected = spec.fixed_similarity(memories[0], key, Q2_5, binary)
    case = one(name, Q2_5, [memories[0], key], expected, binary=binary)
    target = host_target()
    function = build_memory(case.work, target, "similarity")
    module = tvm.compile(tvm.IRModule({"similarity": function}), target.tvm())["similarity"]
    out = tvm.runtime.tensor(np.zeros_like(expected))
    given = [[tvm.runtime.tensor(m), tvm.runtime.tensor(key), out] for m in memories]
    module(*given[0])
    np.testing.assert_array_equal(out.numpy(), expected)
    return [lambda a=a: module(*a) for a in given]


def similarities(rounds: int) -> dict[str, Any]:
    """Time similarities and copies of memories, in the caches and from main memory."""
    rng = np.random.default_rng(3)
    first = codes(rng, Q2_5, 1, LARGE, WIDTH)
    found: dict[str, Any] = {"slots": LARGE, "width": WIDTH, "bytes": first.nbytes}
    for place, count in (("cached", 1), ("main memory", COLD)):
        memories = [first, *(np.roll(first, i, axis=1) for i in range(1, count))]
        targets = [np.zeros_like(m) for m in memories]
        copies = [lambda a=a, b=b: np.copyto(a, b) for a, b in zip(targets, memories, strict=True)]
        runners = {"copy": Visited(copies)}
        runners |= {kind: Visited(similarity_calls(kind, memories)) for kind in SIMILARITIES}
        times = {name: [] for name in runners}
        for _ in range(rounds):
            for name, run in runners.items():
                times[name].append(run(COLD))
        rows = {name: summary(seconds) for name, seconds in times.items()}
        rows["copy"]["gb_per_s"] = 2 * first.nbytes / rows["copy"]["median_us"] / 1e3
        for kind in SIMILARITIES:
            ratios = np.asarray(times[kind]) / (np.asarray(times["copy"]) / 2)
            rows[kind]["gb_per_s"] = first.nbytes / rows[kind]["median_us"] / 1e3
            rows[kind]["ratio"] = float(np.median(ratios))
        found[place] = rows
    return found


def large_answer(rounds: int) -> dict[str, Any]:
    """Time a whole answer, 3 hops, over a large memory that is an input."""
    net = random_network(fmt=Q2_5, similarity="hamming")
    artifact = tvm_qnn.compile(to_onnx_with_memory(net, LARGE, QUESTION), "host")
    rng = np.random.default_rng(4)
    arrays: dict[str, np.ndarray] = {
        info.name: codes(rng, Q2_5, *info.shape).astype(info.dtype)
        for info in artifact.program.inputs
    }
    arrays["used"] = np.ones((1, LARGE), np.uint8)
    arrays["question"] = questions()["question"]
    times = in_turns({"answer": ours(artifact, arrays)}, rounds)["answer"]
    return {"slots": LARGE, "hops": net.hops, **summary(times)}


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="turns of each side")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    facts = {
        "machine": {**machine(), "torch": torch.__version__},
        "answer": answers(args.rounds),
        "similarity": similarities(args.rounds),
        "large_answer": large_answer(args.rounds),
    }
    text = json.dumps(facts, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
