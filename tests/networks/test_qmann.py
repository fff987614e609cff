"""Memory networks from the file to the logits: all variants, this machine and emulated boards."""

from functools import cache

import numpy as np
import pytest

import tvm_qnn
from tests.nn.fixed_models import run_onnx
from tests.nn.memory_networks import (
    VARIANTS,
    defined,
    memories,
    random_network,
    random_questions,
)
from tvm_qnn import spec, targets
from tvm_qnn.arrays import random_arrays
from tvm_qnn.emulation import run_emulated
from tvm_qnn.errors import InputError
from tvm_qnn.frontend import import_model
from tvm_qnn.nn.qmann.export import memory_names, to_onnx, to_onnx_with_memory
from tvm_qnn.verification import verify


@cache
def case(variant, batch=1, slots=50):
    """Return a network, its model, questions with empty slots, and the defined logits."""
    rng = np.random.default_rng([len(variant), batch, slots])
    net = random_network(variant, rng)
    story, question = random_questions(rng, batch, slots)
    _, logits = defined(net, memories(net, story), spec.fixed_valid(story), question)
    feed = {"story": story, "question": question}
    return net, to_onnx(net, slots, 6, 4, batch), feed, logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_file_onnxruntime_definition_and_program_agree(variant, tmp_path):
    _, model, feed, logits = case(variant)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    artifact = tvm_qnn.compile(path)
    assert artifact.inspection.refusals == artifact.inspection.notes == ()
    assert (run_onnx(model, feed)[0] == logits).all()
    assert (artifact.run(feed)["logits"] == logits).all()
    empty = {**feed, "story": np.zeros_like(feed["story"])}
    assert (artifact.run(empty)["logits"] == run_onnx(model, empty)[0]).all()


@pytest.mark.parametrize(("batch", "slots"), [(3, 7), (1, 1), (2, 50)])
@pytest.mark.parametrize("variant", ["dot mq", "dot binary", "hamming mq"])
def test_other_sizes(variant, batch, slots):
    _, model, feed, logits = case(variant, batch, slots)
    assert (run_onnx(model, feed)[0] == logits).all()
    assert (tvm_qnn.compile(model).run(feed)["logits"] == logits).all()


@pytest.mark.parametrize("variant", ["dot", "hamming mq", "hamming binary mq"])
def test_every_integer_of_every_operator(variant):
    _, model, feed, logits = case(variant, 2, 5)
    names = {node.name for node in model.graph.node}
    outcome = verify(model, {name: np.concatenate([a, a[::-1]]) for name, a in feed.items()})
    assert outcome.first_wrong is None
    assert {layer.name for layer in outcome.layers} == names
    assert all(layer.exact for layer in outcome.layers)
    assert (outcome.outputs["logits"] == np.concatenate([logits, logits[::-1]])).all()


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("target", "variant"),
    [("rpi3", "dot"), ("rpi4", "hamming mq"), ("rpi4", "13 bits"), ("rpi5", "dot binary mq")],
)
def test_emulated_boards(variant, target, tmp_path):
    _, model, feed, logits = case(variant, 3 if variant == "dot" else 1, 7)
    bundle = tvm_qnn.compile(model, target, tmp_path / "bundle", bundle=True).path
    np.savez(tmp_path / "in.npz", **feed)
    outputs = run_emulated(bundle, targets.get(target).qemu_cpu, tmp_path / "in.npz")
    assert (outputs["logits"] == logits).all()


@pytest.mark.emulated
@pytest.mark.parametrize("target", ["rpi3", "rpi5"])
def test_every_integer_on_emulated_boards(target):
    _, model, feed, logits = case("hamming mq", 1, 7)
    outcome = verify(model, feed, target)
    assert outcome.first_wrong is None
    assert {layer.name for layer in outcome.layers} == {node.name for node in model.graph.node}
    assert (outcome.outputs["logits"] == logits).all()


@pytest.mark.parametrize("variant", ["dot", "hamming mq"])
def test_given_memories(variant):
    net, _, feed, logits = case(variant, 2, 7)
    model = to_onnx_with_memory(net, 7, 4, 2)
    arrays = {"question": feed["question"]}
    arrays["used"] = spec.fixed_valid(feed["story"]).astype(np.uint8)
    for names, pair in zip(memory_names(net), memories(net, feed["story"]), strict=True):
        arrays |= dict(zip(names, pair, strict=True))
    assert (tvm_qnn.compile(model).run(arrays)["logits"] == logits).all()


def test_a_hundred_thousand_slots_answer_in_one_call():
    """One slot among them is like the question, so all hops read it."""
    net = random_network("dot", np.random.default_rng(8))
    model = to_onnx_with_memory(net, 100_000, 4)
    arrays = random_arrays(import_model(model).inputs, seed=9)
    arrays["used"][0, ::3] = 0
    arrays["used"][0, 77_777] = 1
    table = spec.fixed_quantize(net.question, net.fmt)
    key = spec.fixed_bag(table, arrays["question"], net.fmt)
    arrays["memory_a"] = np.sign(arrays["memory_a"])
    arrays["memory_a"][0, 77_777] = np.where(key[0] < 0, -127, 127)
    pair = (arrays["memory_a"], arrays["memory_r"])
    keys, logits = defined(net, [pair] * 3, arrays["used"] != 0, arrays["question"])
    update = spec.fixed_dense(spec.fixed_quantize(net.key, net.fmt), key, net.fmt)
    assert (keys[1] == spec.fixed_add(update, arrays["memory_r"][:, 77_777], net.fmt)).all()
    assert (tvm_qnn.compile(model).run(arrays)["logits"] == logits).all()


def test_words_outside_of_the_vocabulary():
    """The definition gives them a meaning, so a program never reads beyond its tables."""
    net, model, feed, _ = case("hamming mq", 1, 5)
    story = feed["story"].copy()
    story[0, 0], story[0, 1, 0], story[0, 2, 0] = 2**31 - 1, -1, 19
    _, logits = defined(net, memories(net, story), spec.fixed_valid(story), feed["question"])
    wild = {"story": story, "question": feed["question"]}
    assert (tvm_qnn.compile(model).run(wild)["logits"] == logits).all()
    assert (run_onnx(model, wild)[0] == logits).all()
    with pytest.raises(InputError, match=r"'story': 2147483647 lies outside of 0..18"):
        verify(model, wild)


def test_the_manifest_knows_formats_and_bounds(tmp_path):
    _, model, _, _ = case("hamming mq", 1, 5)
    manifest = tvm_qnn.compile(model, "host", tmp_path / "out").manifest
    assert [(i.name, i.dtype, i.bounds) for i in manifest.inputs] == [
        ("story", "int32", (0, 18)), ("question", "int32", (0, 18)),
    ]  # fmt: skip
    formats = {r["operator"]: r["result"]["format"] for r in manifest.quantization if "result" in r}
    assert (formats["memory_a_1"], formats["memory_a_3"]) == ("Q3.4", "Q1.6")
    assert (formats["score_2"], formats["key_3"]) == ("Q2.5", "Q2.5")


def test_inspection_counts_weights_once():
    _, model, _, _ = case("hamming", 1, 5)
    rows = {row.name: row for row in tvm_qnn.inspect(model).rows}
    assert (rows["memory_a"].weight_bits, rows["memory_a"].weight_bytes) == (8, 19 * 60)
    assert [rows[f"update_{hop}"].weight_bytes for hop in (1, 2, 3)] == [3600, 0, 0]
    assert (rows["score_1"].macs, rows["score_1"].activation_bits) == (300, 8)
    assert (rows["answer"].weight_bits, rows["answer"].weight_bytes) == (32, 11 * 60 * 4)
