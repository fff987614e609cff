"""Memory networks, questions that they can learn, and their definition in integers."""

from dataclasses import replace

import numpy as np

from tvm_qnn.nn.qmann import babi
from tvm_qnn.nn.qmann.config import QmannConfig
from tvm_qnn.spec import fixed
from tvm_qnn.spec.fixed import FixedPoint

DOT = QmannConfig(FixedPoint(5, 2), embedding=20)
HAMMING = QmannConfig(FixedPoint(2, 5), "hamming", embedding=20)
FIXED = {
    "dot": DOT,
    "dot mq": replace(DOT, control=True),
    "dot binary": replace(DOT, binary=True),
    "dot binary mq": replace(DOT, binary=True, control=True),
    "hamming": HAMMING,
    "hamming mq": replace(HAMMING, control=True),
    "hamming binary mq": replace(HAMMING, binary=True, control=True),
    "13 bits": replace(DOT, format=FixedPoint(5, 7)),
    "hamming 10 bits": replace(HAMMING, format=FixedPoint(2, 7)),
    "1 hop": replace(DOT, hops=1, embedding=17),
}
CODE = replace(HAMMING, similarity="hamming-code", read_gradient="quantized")
ALL = {
    "float": QmannConfig(embedding=20),
    **FIXED,
    "quantized read gradient": replace(HAMMING, read_gradient="quantized"),
    "consistent sign": replace(HAMMING, sign_term="consistent"),
    "printed sign": replace(HAMMING, sign_term="printed"),
    "authors' code": CODE,
    "authors' code binary mq": replace(CODE, binary=True, control=True),
}
VOCABULARY = 18


def questions(count, seed=0, slots=7, words=5):
    """Random questions; stories of every length, the empty one included."""
    rng = np.random.default_rng(seed)
    story = np.zeros((count, slots, words), np.int32)
    asked = np.zeros((count, 4), np.int32)
    for i in range(count):
        for slot in range(i % (slots + 1)):
            story[i, slot, : slot % words + 1] = some_words(rng, slot % words + 1)
        asked[i, : i % 4 + 1] = some_words(rng, i % 4 + 1)
    return babi.Questions(story, asked, rng.integers(0, VOCABULARY, count).astype(np.int32))


def some_words(rng, count):
    return rng.choice(np.arange(1, VOCABULARY), count, replace=False)


def learnable(count, seed=0):
    """Tell who is where in three sentences, ask for one; the text of a bAbI file."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        people = rng.permutation(["Mary", "John", "Daniel"])
        places = rng.choice(["office", "garden", "hallway", "kitchen"], 3)
        for i, (person, place) in enumerate(zip(people, places, strict=True)):
            lines.append(f"{i + 1} {person} went to the {place}.")
        asked = rng.integers(3)
        lines.append(f"4 Where is {people[asked]}? \t{places[asked]}\t{asked + 1}")
    return "\n".join(lines) + "\n"


def definition(cfg, weights, data):
    """Logits, and the codes of similarities ``[N, R, L]`` and keys ``[N, R + 1, E]``."""
    formats, base = cfg.hop_formats(), cfg.format
    valid = fixed.fixed_valid(data.story)
    asked = fixed.fixed_bag(codes(weights["wq"], formats[0]), data.question, formats[0])
    key = fixed.fixed_convert(asked, formats[0], base)
    scores, keys = [], [key]
    for own in formats:
        memory, content = (
            fixed.fixed_convert(
                fixed.fixed_bag(codes(weights[name], own), data.story, own), own, base
            )
            for name in ("wa", "wr")
        )
        if cfg.similarity == "hamming":
            score = fixed.hamming_similarity(memory, key, base, cfg.alpha)
        else:
            score = fixed.fixed_similarity(memory, key, base, cfg.binary)
        p = fixed.fixed_softmax(score, valid, base)
        update = fixed.fixed_dense(
            codes(weights["wk"], own), fixed.fixed_convert(key, base, own), own, cfg.binary
        )
        read = fixed.fixed_read(p, content, base)
        key = fixed.fixed_add(fixed.fixed_convert(update, own, base), read, base)
        scores.append(np.where(valid, score, 0))
        keys.append(key)
    logits = fixed.fixed_output(weights["wo"], key, base)
    return logits, np.stack(scores, 1), np.stack(keys, 1)


def codes(weight, fmt):
    return fixed.fixed_quantize(weight, fmt)
