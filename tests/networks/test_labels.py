"""The network that ships gives PyTorch's labels: on the samples, and on the whole test set."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvm_qnn
from tvm_qnn import targets, zoo
from tvm_qnn.emulation import run_emulated

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")
functional = torch.nn.functional

MODEL = "zoo:maqd-fashion"
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fashion-mnist"


class TorchModel:
    """The operators of the file, one by one, in PyTorch."""

    def __init__(self, path):
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        self.constants = {
            t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy())
            for t in graph.initializer
        }

    def __call__(self, images):
        values = {**self.constants, "image": torch.from_numpy(images)}
        for node in self.nodes:
            attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            x, *rest = (values[name] for name in node.input)
            values[node.output[0]] = getattr(self, node.op_type)(attrs, x, *rest)
        return values[self.nodes[-1].output[0]].numpy()

    def QuantizeLinear(self, attrs, x, scale, zero):  # noqa: N802
        info = torch.iinfo(zero.dtype)
        return torch.clamp(torch.round(x / scale) + zero, info.min, info.max).to(zero.dtype)

    def DequantizeLinear(self, attrs, q, scale, zero):  # noqa: N802
        return (q.to(torch.int32) - zero.to(torch.int32)).to(torch.float32) * scale

    def Conv(self, attrs, x, w):  # noqa: N802
        assert len(set(attrs["pads"])) == 1
        return functional.conv2d(x, w, stride=attrs["strides"], padding=attrs["pads"][0])

    def BatchNormalization(self, attrs, x, gain, bias, mean, variance):  # noqa: N802
        return functional.batch_norm(x, mean, variance, gain, bias, eps=attrs["epsilon"])

    def Clip(self, attrs, x, low, high):  # noqa: N802
        return torch.clamp(x, low, high)

    def GlobalAveragePool(self, attrs, x):  # noqa: N802
        return x.mean(dim=(2, 3), keepdim=True)

    def Flatten(self, attrs, x):  # noqa: N802
        return x.flatten(1)

    def Gemm(self, attrs, x, w):  # noqa: N802
        assert attrs["transB"] == 1
        return x @ w.T


@pytest.mark.emulated
@pytest.mark.parametrize("target", ["rpi3", "rpi4", "rpi5"])
def test_emulated_board_gives_the_same_scores(target, tmp_path):
    bundle = tvm_qnn.compile(MODEL, target, tmp_path / "bundle", bundle=True).path
    for image in zoo.samples(MODEL)["image"][:2]:
        np.savez(tmp_path / "in.npz", image=image[None])
        (got,) = run_emulated(bundle, targets.get(target).qemu_cpu, tmp_path / "in.npz").values()
        assert (got == program().run({"image": image[None]})["logits"]).all()


@cache
def program():
    return tvm_qnn.compile(MODEL).program


def compare(images):
    """Return the indices whose labels differ, and PyTorch's margin there."""
    with torch.no_grad():
        expected = TorchModel(zoo.path(MODEL))(images)
    got = np.concatenate([program().run({"image": i[None]})["logits"] for i in images])
    different = np.flatnonzero(got.argmax(axis=1) != expected.argmax(axis=1))
    top = np.sort(expected, axis=1)
    return [(int(i), float(top[i, -1] - top[i, -2])) for i in different]


def test_samples():
    assert compare(zoo.samples(MODEL)["image"]) == []


@pytest.mark.skipif(not DATA.exists(), reason="the Fashion-MNIST files are not beside the project")
def test_all_test_images():
    from tvm_qnn.nn import data

    images = data.load(DATA).test_images.astype(np.float32) / np.float32(255)
    assert len(images) == 10_000
    assert compare(images) == []
