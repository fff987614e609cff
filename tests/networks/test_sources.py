"""Every kind of model that the API takes, through the whole pipeline."""

import numpy as np
import pytest
from tvm.relax.frontend.onnx import from_onnx

import tvm_qnn
from tests.networks.models import ALL
from tvm_qnn import zoo

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")


class Quantizer(torch.nn.Module):
    """Clamp and round to states 0..n-1 of size ``step``: plain arithmetic."""

    def __init__(self, states, step):
        super().__init__()
        self.states, self.step = states, step

    def forward(self, x):
        return torch.round(torch.clamp(x / self.step, 0, self.states - 1)) * self.step


class Network(torch.nn.Module):
    """Ternary weights and 4-state activations, with scales that are powers of two."""

    def __init__(self):
        super().__init__()
        self.entry, self.act = Quantizer(256, 0.015625), Quantizer(4, 0.5)
        self.conv1 = torch.nn.Conv2d(5, 33, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(33, eps=0.0)
        self.conv2 = torch.nn.Conv2d(33, 33, 3, padding=1, stride=2, groups=33)
        self.linear = torch.nn.Linear(33, 7)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in (self.conv1, self.conv2, self.linear):
                codes = torch.randint(-1, 2, layer.weight.shape, generator=generator)
                layer.weight.copy_(codes * 0.5)
                if layer.bias is not None:
                    layer.bias.copy_(torch.randint(-4, 5, layer.bias.shape, generator=generator))
            self.norm.running_var.fill_(4.0)
            self.norm.running_mean.copy_(torch.randint(-2, 3, (33,), generator=generator))

    def forward(self, x):
        x = self.act(self.norm(self.conv1(self.entry(x))))
        x = self.act(self.conv2(x))
        return self.linear(self.act(x.amax(dim=(2, 3))))


def test_torch_program():
    network, x = (
        Network().eval(),
        torch.rand(2, 5, 8, 6, generator=torch.Generator().manual_seed(1)),
    )
    program = torch.export.export(network, (x,))
    inspection = tvm_qnn.inspect(program)
    kinds = {row.operator for row in inspection.rows}
    assert {"conv2d", "depthwise", "dense"} <= kinds
    artifact = tvm_qnn.compile(program)
    (info,) = artifact.program.inputs
    (got,) = artifact.run({info.name: x.numpy()}).values()
    with torch.no_grad():
        assert (got == network(x).numpy()).all()
    assert np.unique(got).size > 4


def test_relax_module():
    import onnx

    model = onnx.load(zoo.path("maqd-fashion"))
    images = zoo.samples("maqd-fashion")["image"][:4]
    artifact, expected = tvm_qnn.compile(from_onnx(model)), tvm_qnn.compile(model)
    assert any(row.kernel.startswith("qconv2d_w2a8") for row in artifact.inspection.rows)
    for image in images:
        (got,) = artifact.run({"image": image[None]}).values()
        (wanted,) = expected.run({"image": image[None]}).values()
        assert (got == wanted).all()


def test_path_and_load(tmp_path):
    import onnx

    graph = ALL["mobile"]()
    model, x = graph.model(graph.out), graph.input()
    onnx.save(model, tmp_path / "mobile.onnx")
    folder = tvm_qnn.compile(tmp_path / "mobile.onnx", output=tmp_path / "mobile").path
    (got,) = tvm_qnn.load(folder).run({"x": x}).values()
    (wanted,) = tvm_qnn.compile(model).run({"x": x}).values()
    assert (got == wanted).all()
