"""Words in, words out: the encoding of the data set, by what the model file says."""

import numpy as np
import pytest

from tests.nn.memory_networks import random_network
from tvm_qnn.errors import InputError, ModelError
from tvm_qnn.nn.qmann import babi
from tvm_qnn.nn.qmann.export import to_onnx
from tvm_qnn.nn.vocabulary import Vocabulary, read_vocabulary

SENTENCES = [
    "Mary went to the kitchen.",
    "The cat and the mouse: all went.",
    "John went to the garden!",
    "Mary went back to the garden.",
]
LINES = "".join(f"{n} {text}\n" for n, text in enumerate(SENTENCES, start=1))
TEXT = f"{LINES}5 Where is Mary? \tgarden\t4\n"


@pytest.fixture(scope="module")
def task():
    return babi.encode(1, "1k", TEXT * 2, TEXT)


@pytest.fixture(scope="module")
def vocabulary(task):
    questions = task.test
    return Vocabulary(
        task.dictionary, task.dictionary, *questions.story.shape[1:], questions.question.shape[1]
    )


def test_the_encoding_is_that_of_the_training_data(task, vocabulary):
    found = vocabulary.encode(SENTENCES, "Where is Mary?")
    assert found["story"].dtype == found["question"].dtype == np.int32
    assert (found["story"] == task.test.story).all()
    assert (found["question"] == task.test.question).all()


def test_only_the_last_sentences_are_kept(vocabulary):
    longer = vocabulary.encode(["Mary went back."] * 3 + SENTENCES, "Where is Mary?")
    assert (longer["story"] == vocabulary.encode(SENTENCES, "Where is Mary?")["story"]).all()
    assert not vocabulary.encode([], "is")["story"].any()


def test_the_largest_logit_is_the_answer(task, vocabulary):
    logits = np.zeros((2, len(task.dictionary) + 4), np.float32)
    logits[0, task.dictionary.index("garden")] = 1
    logits[1, task.dictionary.index("mary")] = 1
    logits[:, -1] = 9
    assert vocabulary.decode(logits) == ["garden", "mary"]


def test_what_the_model_does_not_know_is_refused(vocabulary):
    with pytest.raises(InputError, match=r"does not know the word 'moon', but 1. others, such as"):
        vocabulary.encode(["Mary went to the moon"], "Where is Mary?")
    with pytest.raises(InputError, match="does not know the word 'null'"):
        vocabulary.encode(["Mary null"], "Where is Mary?")
    with pytest.raises(InputError, match="4 different words, the model takes 3"):
        vocabulary.encode(SENTENCES, "Where is Mary mary back?")


def test_a_file_tells_its_vocabulary(tmp_path):
    net = random_network("dot", np.random.default_rng(1))
    path = tmp_path / "net.onnx"
    path.write_bytes(to_onnx(net, 5, 6, 4).SerializeToString())
    found = read_vocabulary(path)
    assert (found.words[3], found.slots, found.sentence, found.question) == ("word3", 5, 6, 4)
    encoded = found.encode(["word3 word1"], "word2")
    assert encoded["story"][0, 0].tolist() == [3, 1, 14, 0, 0, 0]


def test_files_without_one_are_refused(tmp_path):
    net = random_network("dot", np.random.default_rng(1))
    model = to_onnx(net, 5, 6, 4)
    for damage in ("", "{", "[]", '{"words": 3}'):
        model.metadata_props[0].value = damage
        with pytest.raises(ModelError, match="memory_network: holds no vocabulary"):
            read_vocabulary(model)
    del model.metadata_props[:]
    with pytest.raises(ModelError, match="holds no vocabulary"):
        read_vocabulary(model)
    with pytest.raises(ModelError, match="cannot be read"):
        read_vocabulary(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be read"):
        read_vocabulary(tmp_path / "bad.onnx")
