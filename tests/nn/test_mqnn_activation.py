"""Unsigned activations: the grid of ONNX, and a step that learns."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

from tvm_qnn.nn.mqnn.activation import UnsignedActivation  # noqa: E402
from tvm_qnn.spec import Codes, QType  # noqa: E402


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_values_are_those_of_quantize_and_dequantize(bits):
    activation = UnsignedActivation(bits, scale=0.37).eval()
    x = np.random.default_rng(bits).normal(0, 0.37 * 2**bits, 5000).astype(np.float32)
    qtype = QType(Codes(0, 2**bits - 1), (float(np.float32(0.37)),))
    expected = qtype.dequantize(qtype.quantize(x))
    assert activation(torch.from_numpy(x)).numpy().tolist() == expected.tolist()
    assert len(np.unique(expected)) == 2**bits


def test_ties_round_to_even():
    activation = UnsignedActivation(2, scale=1.0)
    x = torch.tensor([-0.5, 0.5, 1.5, 2.5, 3.5, 9.0])
    assert activation(x).tolist() == [0, 0, 2, 2, 3, 3]


def test_gradient_of_a_learned_step():
    torch.manual_seed(0)
    activation = UnsignedActivation(3, None).double()
    with torch.no_grad():
        activation.scale.fill_(0.3)
        activation.started.fill_(True)
    x = (torch.randn(400, dtype=torch.float64) * 2).requires_grad_()
    factors = torch.randn(400, dtype=torch.float64)
    (activation(x) * factors).sum().backward()
    steps = x.detach() / 0.3
    inside = (steps > 0) & (steps < 7)
    assert torch.equal(x.grad, factors * inside)
    each = torch.where(inside, steps.round() - steps, torch.where(steps >= 7, 7.0, 0.0))
    expected = (factors * each).sum() / np.sqrt(400 * 7)
    assert activation.scale.grad.item() == pytest.approx(expected.item(), rel=1e-9)


def test_first_batch_in_training_sets_the_step_once():
    activation = UnsignedActivation(8)
    x = torch.rand(50, 4)
    activation.eval()(x)
    assert not activation.started
    activation.train()(x)
    first = activation.step().item()
    assert first == pytest.approx(2 * x.mean().item() / np.sqrt(255), rel=1e-5)
    activation(100 * x)
    assert activation.step().item() == first
    silent = UnsignedActivation(8).train()
    silent(-x)
    assert silent.step().item() > 0


def test_fixed_step_is_no_parameter_but_is_kept():
    activation = UnsignedActivation(4, scale=0.5)
    assert list(activation.parameters()) == []
    assert activation.state_dict()["scale"].tolist() == [0.5]
    activation.train()(torch.rand(3) * 100)
    assert activation.step().item() == 0.5


def test_half_precision_gradient_is_near_that_of_float32():
    torch.manual_seed(3)
    x, factors = torch.randn(4000) * 3, torch.rand(4000)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        activation = UnsignedActivation(3)
        with torch.no_grad():
            activation.scale.fill_(0.5)
            activation.started.fill_(True)
        out = activation(x.to(dtype))
        assert out.dtype == dtype
        (out.float() * factors).sum().backward()
        found.append(activation.scale.grad.item())
    assert found[1] == pytest.approx(found[0], rel=0.05)


@pytest.mark.parametrize(("bits", "scale"), [(0, None), (9, None), (8, 0.0), (8, -1.0)])
def test_impossible_activation_is_refused(bits, scale):
    with pytest.raises(ValueError, match=r"bits|scale"):
        UnsignedActivation(bits, scale)
