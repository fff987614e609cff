"""Programs of torch.export against torch itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx_evaluate import module_outputs, ops_of, whole
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tvm_qnn.errors import UnsupportedError
from tvm_qnn.frontend import import_model


class Call(nn.Module):
    """A module around a function, with named parameters."""

    def __init__(self, function: Callable[..., Any], **tensors: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in tensors.items():
            self.register_buffer(name, torch.as_tensor(value))

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, **dict(self.named_buffers()))


def check(model: nn.Module, *inputs: Any, tolerance: float = 0.0) -> Any:
    """Export, import, run, and compare with torch; 0 asks for equal values."""
    arrays = [torch.as_tensor(i) for i in inputs]
    imported = import_model(torch.export.export(model.eval(), tuple(arrays)))
    with torch.no_grad():
        expected = model(*arrays)
    expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    feeds = dict(zip((i.name for i in imported.inputs), inputs, strict=True))
    found = module_outputs(imported, feeds)
    for info, e, f in zip(imported.outputs, expected, found, strict=True):
        assert (info.shape, info.dtype) == (f.shape, str(f.dtype))
        if tolerance:
            np.testing.assert_allclose(f, e.numpy(), rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(f, e.numpy())
    return imported


def ties(shape=(3, 4)) -> Any:
    """Values on and beside the ties of rounding."""
    count = int(np.prod(shape))
    return (np.arange(count) * 0.25 - count / 8).astype("float32").reshape(shape)


SAME = {
    "round": torch.round,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "sign": torch.sign,
    "abs": torch.abs,
    "relu": torch.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(-1, 0.5),
    "clamp_min": lambda x: x.clamp(min=0),
    "clamp_max": lambda x: x.clamp(max=0.25),
    "in_place": lambda x: (x + 1).relu_().mul_(3).clamp_(0, 5),
    "scalars": lambda x: 3 - (x * 2 + 1.5) / 3,
    "rsub_alpha": lambda x: torch.sub(x, x + 1, alpha=2),
    "sign_quantizer": lambda x: torch.where(x >= 0, 1.0, -1.0),
    "ternary": lambda x: torch.where(x > 0.3, 1.0, torch.where(x < -0.3, -1.0, 0.0)),
    "shapes": lambda x: x.t().reshape(2, -1).unsqueeze(1).squeeze(1).flatten().view(6, 2),
    "permute": lambda x: x[None].permute(2, 0, -2),
    "cat": lambda x: torch.cat([x, x + 1], -1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=-1.0),
    "sum": lambda x: torch.round(x).sum(-1, keepdim=True),
    "amax": lambda x: x.amax(0),
    "to_int8_and_back": lambda x: torch.round(x).to(torch.int8).to(torch.float32) * 0.5,
    "expand": lambda x: x[:, :1].expand(3, 5),
    "slices": lambda x: x[1, -3::2] + x[-1, 1],
    "leaky_relu": lambda x: F.leaky_relu(x, 0.125),
    "dropout": lambda x: F.dropout(x, 0.5, training=False) + 1,
    "silent_copies": lambda x: x.clone().detach().contiguous() + 0,
    "two_outputs": lambda x: (x + 1, x * 2),
}


@pytest.mark.parametrize("case", SAME)
def test_functions_equal_torch(case: str) -> None:
    check(Call(SAME[case]), ties())


CLOSE = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "softmax": lambda x: x.softmax(-1),
         "mean": lambda x: x.mean(0), "mean_all": torch.mean, "exp": torch.exp,
         "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
         "silu": F.silu}  # fmt: skip


@pytest.mark.parametrize("case", CLOSE)
def test_functions_close_to_torch(case: str) -> None:
    # Approximations of exp differ in the last bits; so do sums in another order.
    check(Call(CLOSE[case]), ties(), tolerance=2e-6)


@pytest.mark.parametrize("scale", [0.25, 0.1, 1 / 3])
@pytest.mark.parametrize("zero", [0, 3])
def test_quantizer_in_plain_arithmetic_is_exact(scale: float, zero: int) -> None:
    def quantize(x: Any) -> Any:
        return (torch.clamp(torch.round(x / scale) + zero, 0, 15) - zero) * scale

    x = np.random.default_rng(0).uniform(-2, 6, [64, 33]).astype("float32")
    imported = check(Call(quantize), x)
    whole_numbers = {"relax.round", "relax.clip"}
    assert whole_numbers < set(ops_of(imported))


POOLS = {
    "max": lambda x: F.max_pool2d(x, 2),
    "max_pads_ceil": lambda x: F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True),
    "max_dilation": lambda x: F.max_pool2d(x, (2, 3), (1, 2), dilation=2),
    "average": lambda x: F.avg_pool2d(x, (2, 3), (2, 1)),
    "average_pads": lambda x: F.avg_pool2d(x, 3, 2, padding=1),
    "average_pads_not_counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average_ceil": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
    "mean": lambda x: x.mean((2, 3)),
}


@pytest.mark.parametrize("case", POOLS)
def test_pools(case: str) -> None:
    # Sums of small integers are exact, the division by the count rounds once or twice.
    check(Call(POOLS[case]), whole([1, 3, 9, 8]), tolerance=0.0 if "max" in case else 1e-6)


def test_adaptive_pool_of_equal_windows() -> None:
    check(Call(lambda x: F.adaptive_avg_pool2d(x, (3, 2))), whole([1, 2, 9, 8]), tolerance=1e-6)


CONVS = {
    "plain": lambda x, w, b: F.conv2d(x, w, b),
    "strided": lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "same": lambda x, w, b: F.conv2d(x, w, b, padding="same"),
    "valid": lambda x, w, b: F.conv2d(x, w, padding="valid") + b[:, None, None],
    "groups": lambda x, w, b: F.conv2d(x, w[:, :2], b, groups=2),
}


@pytest.mark.parametrize("case", CONVS)
def test_convolutions(case: str) -> None:
    model = Call(CONVS[case], w=whole([6, 4, 3, 2], seed=1), b=whole([6], seed=2))
    check(model, whole([2, 4, 8, 9]))


class Net(nn.Module):
    """A small quantized network as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)
        self.register_buffer("step", torch.tensor(0.5))
        with torch.no_grad():
            self.norm.running_mean.copy_(torch.arange(4) - 1.5)
            self.norm.running_var.copy_(torch.arange(4) + 0.5)

    def forward(self, x: Any) -> Any:
        w = torch.round(self.conv.weight / self.step).clamp(-1, 1) * self.step
        x = F.conv2d(torch.clamp(torch.round(x / 0.25), 0, 15) * 0.25, w, padding=1)
        x = F.relu6(self.norm(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def test_network_with_names_from_the_graph() -> None:
    torch.manual_seed(0)
    # Sums of the linear layer may be taken in another order.
    imported = check(Net(), ties([1, 3, 4, 4]), tolerance=1e-5)
    assert imported.source == "torch"
    assert [i.name for i in imported.inputs] == ["x"]
    assert imported.names["conv2d"] == "conv2d"
    assert imported.names["batch_norm_multiply"] == imported.names["batch_norm"] == "batch_norm"
    assert imported.names["linear_matmul"] == imported.names["linear"] == "linear"
    assert "relax.nn.batch_norm" not in ops_of(imported)


def test_unknown_operators_are_decomposed_by_torch_where_it_can() -> None:
    check(Call(lambda x: F.hardswish(x) + F.hardsigmoid(x)), ties(), tolerance=1e-6)


def test_quantizers_of_export_quantization() -> None:
    pytest.importorskip("torch.ao.quantization.fx._decomposed", reason="moved out of this torch")
    q = torch.ops.quantized_decomposed

    def function(x: Any, w: Any, s: Any, z: Any) -> Any:
        x = q.quantize_per_tensor(x, 0.1, 3, -128, 127, torch.int8)
        x = q.dequantize_per_tensor(x, 0.1, 3, -128, 127, torch.int8)
        x = F.conv2d(x, q.dequantize_per_channel(w, s, z, 0, -127, 127, torch.int8))
        return q.quantize_per_channel(x, s, z, 1, 0, 255, torch.uint8), x

    w = whole([2, 3, 3, 3], -127, 128).astype("int8")
    model = Call(function, w=w, s=np.array([0.5, 0.25], "float32"), z=np.array([0, 1]))
    x = np.random.default_rng(1).uniform(-9, 9, [1, 3, 5, 5]).astype("float32")
    imported = import_model(torch.export.export(model, (torch.as_tensor(x),)))
    codes, values = module_outputs(imported, {imported.inputs[0].name: x})
    expected, reals = model(torch.as_tensor(x))
    # Sums of multiples of 0.1 round, in another order than torch's.
    np.testing.assert_allclose(values, reals.numpy(), rtol=1e-5, atol=1e-4)
    assert np.abs(codes.astype(int) - expected.numpy().astype(int)).max() <= 1
    first = ops_of(imported)
    assert first[:6] == [f"relax.{k}" for k in ("multiply", "round", "add", "clip", "astype")] + [
        "qnn.dequantize"
    ]


@pytest.mark.parametrize("scale", [0.1, 0.3])
def test_export_quantizer_is_exact(scale: float) -> None:
    pytest.importorskip("torch.ao.quantization.fx._decomposed", reason="moved out of this torch")
    q = torch.ops.quantized_decomposed

    def function(x: Any) -> Any:
        return q.quantize_per_tensor(x, scale, -5, -128, 127, torch.int8)

    check(Call(function), np.random.default_rng(2).uniform(-50, 50, [64, 50]).astype("float32"))


def refusal(model: nn.Module, *inputs: Any, **options: Any) -> str:
    program = torch.export.export(model, tuple(torch.as_tensor(i) for i in inputs), **options)
    with pytest.raises(UnsupportedError) as error:
        import_model(program)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_everything_in_the_way_is_reported_at_once() -> None:
    def function(x: Any) -> Any:
        a = torch.fft.rfft(x).real
        return torch.cumsum(x, 0), F.pad(x, (1, 1), mode="reflect"), a, torch.sort(x)[0]

    message = refusal(Call(function), ties())
    for part in ("cumsum.default is not supported (1 node: 'cumsum')", "_fft_r2c", "sort"):
        assert part in message


def test_training_mode_is_refused() -> None:
    message = refusal(Net().train(), ties([2, 3, 4, 4]))
    assert "model.eval()" in message


def test_dynamic_shapes_are_refused() -> None:
    batch = torch.export.Dim("batch", min=2, max=8)
    shapes = {"inputs": ({0: batch},)}
    message = refusal(Call(torch.relu), ties(), dynamic_shapes=shapes)
    assert "has the dynamic shape" in message
    assert "fix the batch size" in message


def test_other_dtypes_are_refused() -> None:
    message = refusal(Call(torch.relu), ties().astype("float64"))
    assert message.startswith("torch model: input 'inputs_0': has type float64")


def test_outputs_must_be_different_tensors() -> None:
    message = refusal(Call(lambda x: (x + 1, 3, None)), ties())
    assert message == ("torch model: output '1': is not a tensor; output '2': is not a tensor")
    message = refusal(Call(lambda x: [x + 1] * 2), ties())
    assert message == "torch model: output 'add': is returned twice"


def test_other_sources_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import pathlib, tvm_qnn.zoo; "
        "from tvm_qnn.frontend import import_model; "
        "import_model(next(pathlib.Path(tvm_qnn.zoo.__file__).parent.glob('*.onnx')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
