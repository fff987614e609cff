"""Trained memory networks in the zoo: what PyTorch answers, the file answers."""

import json

import numpy as np
import pytest

from tests.nn.fixed_models import run_onnx
from tvm_qnn.errors import ModelError
from tvm_qnn.nn.qmann import babi
from tvm_qnn.nn.qmann import publish as qmann_publish
from tvm_qnn.nn.qmann import state as qmann_state
from tvm_qnn.nn.qmann import train as qmann_train
from tvm_qnn.nn.qmann.config import CONFIGS, MATRICES
from tvm_qnn.nn.qmann.export import trained_to_onnx
from tvm_qnn.nn.qmann.publish import described, runtime_logits
from tvm_qnn.nn.qmann.state import Trained

STORY = """1 Mary went to the kitchen.
2 John went to the garden.
3 Where is Mary? \tkitchen\t1
4 Mary went back to the garden.
5 Where is Mary? \tgarden\t4
1 John is in the office.
2 Where is John? \toffice\t1
"""


@pytest.fixture(scope="module")
def task():
    return babi.encode(1, "1k", STORY * 5, STORY)


def trained(task, name="qmann8-es-mq", wide=1.0):
    """A network with random weights of several sizes, so that all formats saturate somewhere."""
    config, _ = CONFIGS[name]
    rng = np.random.default_rng(len(name))
    rows, width = task.vocabulary, config.embedding
    weights = {n: rng.normal(0, wide, (rows, width)).astype(np.float32) for n in MATRICES}
    weights["wk"] = rng.normal(0, 0.2, (width, width)).astype(np.float32)
    for table in ("wa", "wr", "wq"):
        weights[table][0] = 0
    record = {
        **qmann_state.task_record(task), "seed": 0, "epoch": 3, "validation_error": 0.5,
        "test_error": 0.5, "recipe": {"epochs": 100},
    }  # fmt: skip
    return Trained(config, weights, record)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "float"])
def test_logits_equal_pytorch_bit_for_bit(task, name):
    net = trained(task, name)
    model = trained_to_onnx(net, batch=len(task.test))
    given = run_onnx(model, {"story": task.test.story, "question": task.test.question})[0]
    wanted = qmann_train.logits(net.config, [net.weights], task.test, engine="torch")[0]
    assert (given == wanted).all()
    assert np.unique(given).size > 10


def test_float_networks_answer_alike(task):
    net = trained(task, "float", wide=0.3)
    model = trained_to_onnx(net, batch=len(task.test))
    given = run_onnx(model, {"story": task.test.story, "question": task.test.question})[0]
    wanted = qmann_train.logits(net.config, [net.weights], task.test, engine="torch")[0]
    assert np.allclose(given, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_a_published_network_has_its_file_samples_and_record(task, tmp_path):
    qmann_state.save_trained(tmp_path / "net.npz", trained(task))
    found = qmann_state.load_trained(tmp_path / "net.npz")
    record = qmann_publish.write(found, task, tmp_path / "zoo", "qmann-1", 2)
    assert json.loads((tmp_path / "zoo" / "zoo.json").read_text())["qmann-1"] == record
    stored = np.load(tmp_path / "zoo" / "qmann-1.npz")
    assert (stored["story"] == task.test.story[:2]).all()
    assert (stored["labels"] == task.test.answer[:2]).all()
    logits = runtime_logits(tmp_path / "zoo" / "qmann-1.onnx", task.test)
    assert record["test_accuracy"] == np.mean(logits.argmax(axis=1) == task.test.answer)
    assert record["weights"].startswith("8-bit fixed point (Q1.6, Q2.5, Q3.4)")
    assert "Attribution 3.0" in record["data_notice"]
    assert "after epoch 3 of 100, the one with the lowest" in record["protocol"]


def test_another_dictionary_is_refused(task, tmp_path):
    net = trained(task)
    net.record["dictionary"][3] = "another"
    with pytest.raises(ModelError, match="another dictionary"):
        qmann_publish.write(net, task, tmp_path / "zoo", "qmann-1")
    assert not (tmp_path / "zoo").exists()


def test_descriptions_name_formats_and_keys():
    assert described(CONFIGS["mann1"][0])["activations"].startswith("binary keys, memory")
    assert "dot products" in described(CONFIGS["mann8"][0])["description"]
    assert described(CONFIGS["float"][0])["weights"] == "float32"
