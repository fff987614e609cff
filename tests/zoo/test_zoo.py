"""The models that ship: records match files, samples run, unknown names are clear."""

import hashlib
import subprocess
import sys

import numpy as np
import onnx
import pytest

from tvm_qnn import zoo
from tvm_qnn.errors import ModelError

NAMES = [entry.name for entry in zoo.entries()]


def test_the_zoo_is_not_empty():
    assert "maqd-fashion" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_record_matches_the_file(name):
    entry, path = zoo.entry(name), zoo.path(name)
    assert path.name == entry.file
    assert path.stat().st_size == entry.size_bytes < 2_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
    onnx.checker.check_model(onnx.load(path), full_check=True)
    for text in (entry.description, entry.source, entry.recipe, entry.protocol, entry.data_notice):
        assert text
    assert entry.versions["torch"]


@pytest.mark.parametrize("name", NAMES)
def test_prefixed_name_is_the_same_model(name):
    assert zoo.path(f"zoo:{name}") == zoo.path(name)
    assert zoo.entry(f"zoo:{name}") == zoo.entry(name)


def test_fashion_samples_are_images_and_labels():
    samples = zoo.samples("maqd-fashion")
    assert list(samples) == ["image", "labels"]
    assert samples["image"].shape == (256, 1, 28, 28)
    assert samples["image"].dtype == np.float32
    assert samples["labels"].shape == (256,)
    assert samples["labels"].dtype == np.int64
    # The first labels of the official test set.
    assert samples["labels"][:12].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5]
    codes = samples["image"] * 255
    assert np.abs(codes - np.round(codes)).max() < 1e-4
    assert (samples["image"].min(), samples["image"].max()) == (0, 1)


def test_sample_accuracy_is_near_the_recorded_one():
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs tvm-qnn[onnx]")
    entry, samples = zoo.entry("maqd-fashion"), zoo.samples("maqd-fashion")
    session = onnxruntime.InferenceSession(
        str(zoo.path("maqd-fashion")), providers=["CPUExecutionProvider"]
    )
    images = samples["image"]
    found = [session.run(None, {"image": images[i : i + 1]})[0].argmax() for i in range(256)]
    accuracy = np.mean(np.array(found) == samples["labels"])
    deviation = (entry.test_accuracy * (1 - entry.test_accuracy) / 256) ** 0.5
    assert abs(accuracy - entry.test_accuracy) < 4 * deviation
    assert entry.test_accuracy >= 0.9


def test_fashion_model_is_low_bit_in_every_layer():
    model = onnx.load(zoo.path("maqd-fashion"))
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.endswith("_codes")
    ]
    assert len(weights) == sum(node.op_type in ("Conv", "Gemm") for node in model.graph.node) == 6
    for codes in weights:
        assert codes.dtype == np.int8
        assert set(np.unique(codes).tolist()) == {-1, 0, 1}


@pytest.mark.parametrize("name", ["nothing", "zoo:nothing", "", "zoo.json", "../maqd-fashion"])
@pytest.mark.parametrize("function", [zoo.path, zoo.samples, zoo.entry])
def test_unknown_name_lists_the_models(name, function):
    with pytest.raises(ModelError, match="maqd-fashion") as caught:
        function(name)
    assert "\n" not in str(caught.value)


def test_zoo_needs_neither_torch_nor_tvm():
    program = (
        "import sys; from tvm_qnn import zoo; zoo.samples('maqd-fashion');"
        "print(sorted({'torch', 'tvm', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
