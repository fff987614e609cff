"""Muon: its steps are orthogonal and of a given size, other parameters follow Adam."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

from tvm_qnn.nn.muon import Muon, orthogonalize  # noqa: E402


@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (16, 16), (1, 9)])
def test_singular_values_become_equal(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) * 1e-3
    found = orthogonalize(matrix)
    assert found.shape == shape
    assert found.square().mean().item() == pytest.approx(1.0, rel=1e-5)
    values = torch.linalg.svdvals(found)
    assert values.median() > 0.6 * values.max()
    if 1 not in shape:
        before = torch.linalg.svdvals(matrix)
        assert values.min() / values.max() > 1.2 * before.min() / before.max()
    # The singular vectors stay.
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.diagonal(left.T @ found @ right.T).min() > 0


def test_zero_gradient_moves_nothing():
    weight = torch.nn.Parameter(torch.ones(3, 4))
    weight.grad = torch.zeros(3, 4)
    Muon([weight], lr=0.1).step()
    assert weight.tolist() == [[1.0] * 4] * 3


def test_step_of_a_weight_is_relative_to_its_first_values():
    torch.manual_seed(1)
    weight = torch.nn.Parameter(0.02 * torch.randn(8, 3, 3, 3))
    size = weight.detach().square().mean().sqrt().item()
    optimizer = Muon([{"params": [weight], "lr": 0.05}])
    for _ in range(2):
        before = weight.detach().clone()
        weight.grad = torch.randn_like(weight) * 1e4
        optimizer.step()
        step = (weight - before).square().mean().sqrt().item()
        assert step == pytest.approx(0.05 * size, rel=1e-4)
    assert ((weight - before) * weight.grad).sum() < 0


def test_vectors_follow_adam():
    torch.manual_seed(2)
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    muon, adam = Muon([ours], lr=0.01), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(10):
        grad = torch.randn(5)
        for parameter, optimizer in ((ours, muon), (theirs, adam)):
            parameter.grad = grad.clone()
            optimizer.step()
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-5)


def test_state_survives_saving():
    torch.manual_seed(3)
    gradients = [torch.randn(4, 6) for _ in range(4)]

    def go(weight, optimizer, chosen):
        for grad in chosen:
            weight.grad = grad.clone()
            optimizer.step()

    whole = torch.nn.Parameter(torch.zeros(4, 6))
    go(whole, Muon([whole]), gradients)
    first = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = Muon([first])
    go(first, optimizer, gradients[:2])
    second = torch.nn.Parameter(first.detach().clone())
    resumed = Muon([second])
    resumed.load_state_dict(optimizer.state_dict())
    go(second, resumed, gradients[2:])
    assert torch.equal(whole, second)


def test_closure_is_refused():
    with pytest.raises(ValueError, match="closure"):
        Muon([torch.nn.Parameter(torch.zeros(2))]).step(lambda: 0.0)
