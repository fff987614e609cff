"""Memory networks with random weights, and their definition, hop by hop."""

import numpy as np

from tvm_qnn import spec
from tvm_qnn.nn.qmann.memory_network import MemoryNetwork
from tvm_qnn.spec import FixedPoint

Q2_5, Q5_2 = FixedPoint(2, 5), FixedPoint(5, 2)
VARIANTS = {
    "dot": {"fmt": Q5_2},
    "dot mq": {"fmt": Q5_2, "control": True},
    "dot binary": {"fmt": Q5_2, "binary": True},
    "dot binary mq": {"fmt": Q5_2, "binary": True, "control": True},
    "hamming": {"fmt": Q2_5, "similarity": "hamming"},
    "hamming mq": {"fmt": Q2_5, "similarity": "hamming", "control": True},
    "hamming binary mq": {
        "fmt": Q2_5, "similarity": "hamming", "binary": True, "control": True,
    },
    "13 bits": {"fmt": FixedPoint(5, 7), "similarity": "hamming", "control": True},
    "5 bits": {"fmt": FixedPoint(2, 2), "control": True},
}  # fmt: skip
"""Keyword arguments of a network by what makes it special."""


def random_network(variant, rng, words=19, width=60, answers=11):
    """Weights as wide as training leaves them."""
    tables = [rng.normal(0, 0.6, (words, width)).astype(np.float32) for _ in range(3)]
    for table in tables:
        table[0] = 0
    key = rng.normal(0, 0.2, (width, width)).astype(np.float32)
    answer = rng.normal(0, 1, (answers, width)).astype(np.float32)
    told = tuple(f"word{i}" for i in range(words - 5))
    return MemoryNetwork(*tables, key, answer, words=told, **VARIANTS[variant])


def random_questions(rng, batch, slots, sentence=6, question=4, words=19):
    """Stories with sentences and empty slots of every length, index 0 behind the words."""
    story = rng.integers(1, words, (batch, slots, sentence))
    story *= np.arange(sentence) < rng.integers(1, sentence + 1, (batch, slots, 1))
    story *= (np.arange(slots) < rng.integers(1, slots + 1, (batch, 1)))[:, :, None]
    asked = rng.integers(1, words, (batch, question))
    asked *= np.arange(question) < rng.integers(1, question + 1, (batch, 1))
    return story.astype(np.int32), asked.astype(np.int32)


def memories(net, story):
    """Return the addresses and contents of each hop, in the format of the activations."""
    pairs = []
    for fmt in net.hop_formats():
        tables = (spec.fixed_quantize(t, fmt) for t in (net.address, net.content))
        bags = (spec.fixed_bag(t, story, fmt) for t in tables)
        pairs.append(tuple(spec.fixed_convert(m, fmt, net.fmt) for m in bags))
    return pairs


def defined(net, pairs, valid, question):
    """Answer questions as the definitions say: every key, and the logits."""
    base, formats = net.fmt, net.hop_formats()
    table = spec.fixed_quantize(net.question, formats[0])
    key = spec.fixed_convert(spec.fixed_bag(table, question, formats[0]), formats[0], base)
    keys = [key]
    for (address, content), fmt in zip(pairs, formats, strict=True):
        if net.similarity == "hamming":
            score = spec.hamming_similarity(address, key, base, net.alpha)
        else:
            score = spec.fixed_similarity(address, key, base, net.binary)
        read = spec.fixed_read(spec.fixed_softmax(score, valid, base), content, base)
        seen = np.where(key >= 0, 1, -1) if net.binary else spec.fixed_convert(key, base, fmt)
        update = spec.fixed_dense(spec.fixed_quantize(net.key, fmt), seen, fmt, net.binary)
        key = spec.fixed_add(spec.fixed_convert(update, fmt, base), read, base)
        keys.append(key)
    return keys, spec.fixed_output(net.answer, key, base)
