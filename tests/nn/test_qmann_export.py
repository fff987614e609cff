"""Exported memory networks: ONNX Runtime gives the integers of the definition."""

import json

import numpy as np
import onnx
import pytest

from tests.nn.fixed_models import run_onnx
from tests.nn.memory_networks import (
    VARIANTS,
    defined,
    memories,
    random_network,
    random_questions,
)
from tvm_qnn import spec
from tvm_qnn.errors import ModelError
from tvm_qnn.frontend.fixed_functions import DOMAIN
from tvm_qnn.nn.qmann import export as qmann_export
from tvm_qnn.nn.qmann.export import to_onnx, to_onnx_with_memory
from tvm_qnn.nn.qmann.memory_network import MemoryNetwork
from tvm_qnn.nn.vocabulary import METADATA
from tvm_qnn.spec import FixedPoint


def with_keys(model, hops=3):
    """Make the key behind each hop an output, too."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.extend(onnx.ValueInfoProto(name=f"key_{h}_out") for h in range(1, hops + 1))
    return seen


@pytest.mark.parametrize(("batch", "slots"), [(1, 50), (3, 7), (1, 1)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_fixed_network(variant, batch, slots):
    rng = np.random.default_rng([len(variant), batch, slots])
    net = random_network(variant, rng)
    story, question = random_questions(rng, batch, slots)
    keys, logits = defined(net, memories(net, story), spec.fixed_valid(story), question)
    model = with_keys(to_onnx(net, slots, 6, 4, batch))
    found = run_onnx(model, {"story": story, "question": question})
    for key, wanted in zip(found[1:], keys[1:], strict=True):
        assert key.dtype == wanted.dtype
        assert (key == wanted).all()
        assert np.unique(key).size > 1
    assert (found[0] == logits).all()


@pytest.mark.parametrize("variant", ["dot", "hamming mq", "13 bits"])
def test_network_with_given_memories(variant):
    rng = np.random.default_rng(len(variant))
    net = random_network(variant, rng)
    story, question = random_questions(rng, 2, 9)
    pairs, valid = memories(net, story), spec.fixed_valid(story)
    feed = {"used": valid.astype(np.uint8) * 3, "question": question}
    for names, arrays in zip(qmann_export.memory_names(net), pairs, strict=True):
        feed |= dict(zip(names, arrays, strict=True))
    model = with_keys(to_onnx_with_memory(net, 9, 4, 2))
    found = run_onnx(model, feed)
    keys, logits = defined(net, pairs, valid, question)
    assert all((key == wanted).all() for key, wanted in zip(found[1:], keys[1:], strict=True))
    assert (found[0] == logits).all()


def test_an_all_empty_memory_leaves_the_question():
    rng = np.random.default_rng(3)
    net = random_network("hamming", rng)
    story, question = np.zeros((1, 8, 6), np.int32), random_questions(rng, 1, 1)[1]
    keys, logits = defined(net, memories(net, story), spec.fixed_valid(story), question)
    assert (keys[1] == spec.fixed_dense(spec.fixed_quantize(net.key, net.fmt), keys[0], net.fmt)
            ).all()  # fmt: skip
    found = run_onnx(to_onnx(net, 8, 6, 4), {"story": story, "question": question})
    assert (found[0] == logits).all()


def float_answer(net, story, question):
    """The float network in float64."""
    address, content = (t.astype(float)[story].sum(axis=2) for t in (net.address, net.content))
    key, valid = net.question.astype(float)[question].sum(axis=1), spec.fixed_valid(story)
    for _ in range(net.hops):
        score = np.where(valid, np.einsum("nle,ne->nl", address, key), -np.inf)
        top = np.maximum(score.max(axis=1, keepdims=True), -1e300)
        weight = np.exp(score - top)
        p = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
        key = key @ net.key.astype(float).T + np.einsum("nl,nle->ne", p, content)
    return key @ net.answer.astype(float).T


def test_float_network_has_standard_operators_only():
    rng = np.random.default_rng(4)
    fixed = random_network("dot", rng)
    net = MemoryNetwork(fixed.address, fixed.content, fixed.question, fixed.key, fixed.answer, None)
    story, question = random_questions(rng, 3, 7)
    story[1] = 0
    model = to_onnx(net, 7, 6, 4, 3)
    assert not model.functions
    assert {o.domain for o in model.opset_import} == {""}
    found = run_onnx(model, {"story": story, "question": question})[0]
    wanted = float_answer(net, story, question)
    assert np.allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_equal_memories_are_filled_once():
    rng = np.random.default_rng(5)
    plain = to_onnx(random_network("hamming", rng), 4, 6, 4)
    mixed = to_onnx(random_network("hamming mq", rng), 4, 6, 4)

    def count(model, op):
        return sum(n.op_type == op and n.domain == DOMAIN for n in model.graph.node)

    assert (count(plain, "FixedBag"), count(mixed, "FixedBag")) == (3, 7)
    assert count(plain, "FixedConvert") == 0
    assert {f.name for f in plain.functions} == {
        "FixedBag", "FixedValid", "HammingSimilarity", "FixedSoftmax", "FixedRead", "FixedDense",
        "FixedAdd", "FixedOutput",
    }  # fmt: skip


def test_the_vocabulary_is_metadata():
    model = to_onnx(random_network("dot", np.random.default_rng(6)), 5, 6, 4)
    told = json.loads({p.key: p.value for p in model.metadata_props}[METADATA])
    assert told["words"][:2] == ["word0", "word1"]
    assert (len(told["words"]), len(told["answers"]), told["slots"]) == (14, 11, 5)


def changed(**changes):
    net = random_network("dot", np.random.default_rng(7))
    fields = {name: getattr(net, name) for name in net.__dataclass_fields__}
    return MemoryNetwork(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": np.zeros((60, 61), np.float32)}, "shapes of its weights do not fit"),
        ({"content": np.ones((19, 60), np.float32)}, "row 0 of its tables"),
        ({"similarity": "hamming-code"}, "similarity 'hamming-code' has no exported form"),
        ({"fmt": None, "binary": True}, "a float network has dot products"),
        ({"control": True, "hops": 2}, "defined for 3 hops"),
        ({"fmt": FixedPoint(0, 7), "control": True}, "no fixed-point format Q-1.8"),
    ],
)
def test_impossible_networks_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        changed(**changes)


def test_impossible_sizes_are_refused():
    net = changed()
    with pytest.raises(ModelError, match="slots 0: must be at least 1"):
        to_onnx(net, 0, 6, 4)
    with pytest.raises(ModelError, match="batch -1"):
        to_onnx_with_memory(net, 1, 6, -1)
    with pytest.raises(ModelError, match="no codes to fill a memory with"):
        to_onnx_with_memory(changed(fmt=None), 1, 6)
