"""Operators of memory networks with inputs, and what the definitions make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_qnn import spec
from tvm_qnn.schedules.memory import Argument, padded_size, place, round_up
from tvm_qnn.schedules.memory_work import Operation, Work
from tvm_qnn.spec import FixedPoint
from tvm_qnn.spec.fixed import softmax_table


@dataclass(frozen=True)
class Size:
    """How large a memory network is."""

    batch: int
    slots: int
    width: int
    words: int = 5
    vocabulary: int = 17
    answers: int = 11


@dataclass(frozen=True)
class Case:
    """A kernel, its arguments and what it must compute."""

    name: str
    work: Work
    arguments: list[np.ndarray]
    expected: list[np.ndarray]


def codes(rng: np.random.Generator, fmt: FixedPoint, *shape: int) -> np.ndarray:
    """Codes of which one in four is an extreme, and one in four lies near to 0."""
    m = fmt.limit
    drawn = rng.integers(-m, m + 1, shape)
    kind = rng.integers(0, 4, shape)
    drawn = np.where(kind == 0, rng.choice([-m, m], shape), drawn)
    drawn = np.where(kind == 1, rng.integers(-1, 2, shape), drawn)
    return drawn.astype(fmt.dtype)


def packed(weights: np.ndarray, biased: bool = False) -> np.ndarray:
    """What ``prepare`` makes of weights; ``biased`` adds 128 to even columns, modulo 256."""
    rows, width = weights.shape
    flat = np.zeros(padded_size(rows, width), weights.dtype)
    matrix = flat.reshape(-1, round_up(width))
    matrix[:rows, :width] = weights
    if biased:
        matrix[:, ::2] ^= -128
    return flat


def one(
    kind: str, fmt: FixedPoint | None, arrays: list[np.ndarray], expected: Any, prepared: int = -1,
    biased: bool = False, **more: Any,
) -> Case:  # fmt: skip
    """A kernel of one operator.

    Args:
        kind: as in :class:`Operation`.
        fmt: its format.
        arrays: its inputs.
        expected: its result.
        prepared: which input are weights that ``prepare`` pads.
        biased: whether it also adds 128 to even columns.
        more: further fields of the operation.
    """
    arguments, given = {}, []
    for i, array in enumerate(arrays):
        weights = place({i: array.shape}, [i] * biased)[0] if i == prepared else ()
        plain = np.ascontiguousarray(array)
        given.append(packed(array, biased) if i == prepared else plain)
        arguments[i] = Argument(f"in{i}", given[-1].shape, str(array.dtype), weights)
    out = len(arrays)
    expected = np.asarray(expected)
    results = {out: Argument("out", expected.shape, str(expected.dtype))}
    operation = Operation(kind, tuple(range(out)), out, fmt, **more)
    name = f"{kind}_{'_'.join(map(str, more.values()))}".rstrip("_").replace(".", "_")
    return Case(name, Work(arguments, results, {}, (operation,)), given, [expected])


def cases(rng: np.random.Generator, fmt: FixedPoint, size: Size) -> list[Case]:
    """One case for each operator, of random codes."""
    n, slots, width = size.batch, size.slots, size.width
    memory, key = codes(rng, fmt, n, slots, width), codes(rng, fmt, n, width)
    # A row and a key that saturate, or that agree wholly.
    memory[:, :1] = fmt.limit
    key[0] = fmt.limit
    scores = codes(rng, fmt, n, slots)
    valid = rng.random((n, slots)) < 0.7
    valid[0] = False
    table = codes(rng, fmt, size.vocabulary, width)
    table[0] = 0
    words = rng.integers(-1, size.vocabulary + 2, (n, slots, size.words)).astype(np.int32)
    words[:, -1] = 0
    square = codes(rng, fmt, width + 3, width)
    weights = rng.normal(0, 1, (size.answers, width)).astype(np.float32)
    exponentials = softmax_table(fmt).astype(np.int32)
    probabilities = np.where(rng.random((n, slots)) < 0.5, 0, scores).astype(fmt.dtype)
    found = [
        one("bag", fmt, [table, words], spec.fixed_bag(table, words, fmt), prepared=0),
        one("bag", fmt, [table, words[:, 0]], spec.fixed_bag(table, words[:, 0], fmt)),
        one("valid", None, [words], spec.fixed_valid(words)),
        one("softmax", fmt, [scores, valid, exponentials], spec.fixed_softmax(scores, valid, fmt)),
        one("read", fmt, [probabilities, memory], spec.fixed_read(probabilities, memory, fmt)),
        one("add", fmt, [key, key[::-1]], spec.fixed_add(key, key[::-1], fmt)),
        one("output", fmt, [weights.T, key], spec.fixed_output(weights, key, fmt)),
    ]
    if fmt.bits <= 8 and size.words < 256:
        bags = spec.fixed_bag(table, words, fmt)
        found.append(one("bag", fmt, [table, words], bags, prepared=0, biased=True))
    for alpha in (-3, 0):
        hamming = spec.hamming_similarity(memory, key, fmt, alpha)
        found.append(one("hamming", fmt, [memory, key], hamming, alpha=alpha))
    for binary in (False, True):
        dense = spec.fixed_dense(square, key, fmt, binary)
        similar = spec.fixed_similarity(memory, key, fmt, binary)
        found += [
            one("dense", fmt, [square, key], dense, prepared=0, binary=binary),
            one("dense", fmt, [square, key], dense, binary=binary),
            one("similarity", fmt, [memory, key], similar, binary=binary),
        ]
    finer = FixedPoint(max(fmt.integer - 1, 0), min(fmt.fraction + 1, 15 - max(fmt.integer - 1, 0)))
    for dst in (finer, FixedPoint(0, 15)):
        converted = spec.fixed_convert(memory, fmt, dst)
        back = spec.fixed_convert(converted, dst, fmt)
        found += [
            one("convert", dst, [memory], converted, src=fmt),
            one("convert", fmt, [converted], back, src=dst),
        ]
    return found
