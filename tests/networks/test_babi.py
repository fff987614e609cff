"""Trained memory networks of the zoo on real questions, all 1,000 of them where the data is."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import tvm_qnn
from tests.nn.fixed_models import run_onnx
from tvm_qnn import targets, zoo
from tvm_qnn.emulation import run_emulated
from tvm_qnn.nn.qmann import babi
from tvm_qnn.verification import verify

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "babi"
BATCH = 100
NETWORKS = [entry.name for entry in zoo.entries() if entry.name.startswith("qmann-")]
ON_NETWORKS = pytest.mark.parametrize("name", NETWORKS)


def in_batches(model, size):
    """Return a model of batch size 1 for another batch size: no weight and no node changes."""
    larger = onnx.ModelProto()
    larger.CopyFrom(model)
    for info in (*larger.graph.input, *larger.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = size
    return larger


def task_of(name):
    """Return the number of the bAbI task: "bAbI 15 (qa15_...): ..."."""
    return int(zoo.entry(name).task.split()[1])


@ON_NETWORKS
def test_compiled_networks_answer_the_samples_like_onnxruntime(name):
    model = onnx.load(zoo.path(name))
    samples = zoo.samples(name)
    program = tvm_qnn.compile(f"zoo:{name}").program
    for n in range(50):
        feed = {key: samples[key][n : n + 1] for key in ("story", "question")}
        assert (program.run(feed)["logits"] == run_onnx(model, feed)[0]).all()


@pytest.mark.emulated
@pytest.mark.parametrize("name", NETWORKS[:1])
def test_answers_on_an_emulated_board(name, tmp_path):
    model = in_batches(onnx.load(zoo.path(name)), 20)
    feed = {key: zoo.samples(name)[key][:20] for key in ("story", "question")}
    bundle = tvm_qnn.compile(model, "rpi4", tmp_path / "bundle", bundle=True).path
    np.savez(tmp_path / "in.npz", **feed)
    outputs = run_emulated(bundle, targets.get("rpi4").qemu_cpu, tmp_path / "in.npz")
    assert (outputs["logits"] == run_onnx(model, feed)[0]).all()


@ON_NETWORKS
def test_every_integer_on_all_test_questions(name):
    """Every operator equals its definition, and the answers are as accurate as the zoo says."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA}: the bAbI tasks are not here")
    entry = zoo.entry(name)
    questions = babi.load(DATA, task_of(name)).test
    assert entry.test_samples == len(questions) == 1000
    model = in_batches(onnx.load(zoo.path(name)), BATCH)
    feed = {"story": questions.story, "question": questions.question}
    outcome = verify(model, feed)
    assert outcome.first_wrong is None
    assert {layer.name for layer in outcome.layers} == {node.name for node in model.graph.node}
    assert all(layer.exact for layer in outcome.layers)
    logits = outcome.outputs["logits"]
    parts = [
        run_onnx(model, {key: a[n : n + BATCH] for key, a in feed.items()})[0]
        for n in range(0, 1000, BATCH)
    ]
    assert (logits == np.concatenate(parts)).all()
    assert np.mean(logits.argmax(axis=1) == questions.answer) == entry.test_accuracy


@ON_NETWORKS
def test_samples_are_real_questions(name):
    """They are the first ones of the official test set."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA}: the bAbI tasks are not here")
    samples, questions = zoo.samples(name), babi.load(DATA, task_of(name)).test
    count = len(samples["labels"])
    assert samples["story"].dtype == np.int32
    assert (samples["story"] == questions.story[:count]).all()
    assert (samples["question"] == questions.question[:count]).all()
    assert (samples["labels"] == questions.answer[:count]).all()
