"""M-ary weights: levels, partitions, their gradients, and the methods that they generalize."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

from tvm_qnn.nn.mqnn import layers as mqnn  # noqa: E402
from tvm_qnn.nn.mqnn.layers import Mary, MaryConv2d, MaryLinear, MaryWeight  # noqa: E402
from tvm_qnn.nn.mqnn.lloyd import lloyd_max  # noqa: E402

# Levels, entropy in bits and relative squared error of the Lloyd-Max quantizer of N(0, 1).
NORMAL = {
    2: ([-0.798, 0.798], 1.00, 0.363),
    3: ([-1.224, 0, 1.224], 1.54, 0.190),
    4: ([-1.510, -0.453, 0.453, 1.510], 1.91, 0.118),
    5: ([-1.724, -0.765, 0, 0.765, 1.724], 2.20, 0.080),
    6: ([-1.894, -1.000, -0.318, 0.318, 1.000, 1.894], 2.44, 0.058),
    7: ([-2.033, -1.188, -0.561, 0, 0.561, 1.188, 2.033], 2.65, 0.044),
    8: ([-2.152, -1.344, -0.756, -0.245, 0.245, 0.756, 1.344, 2.152], 2.83, 0.035),
}


def normal(count=100_001):
    """The quantiles of N(0, 1): as normal as ``count`` numbers can be."""
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.distributions.Normal(0.0, 1.0).icdf(places)


def layer(how, shape=(6, 5, 3, 3), seed=0):
    torch.manual_seed(seed)
    return MaryWeight(shape, how).double()


def grouped(states, groups=2, count=40, seed=0):
    """Random weights, levels and thresholds, the latter not at the midpoints."""
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, count, generator=rng, dtype=torch.float64)
    levels = torch.randn(groups, states, generator=rng, dtype=torch.float64).sort(dim=1).values
    share = torch.rand(groups, states - 1, generator=rng, dtype=torch.float64) * 0.6 + 0.2
    return weight, levels, levels[:, :-1] + share * levels.diff(dim=1)


def smoothed(weight, levels, thresholds, width):
    """The sum-of-steps form with sigmoids for steps."""
    steps = torch.sigmoid((weight[..., None] - thresholds[:, None]) / width)
    return levels[:, :1] + (steps * levels.diff(dim=1)[:, None]).sum(-1)


def central(function, x, step=1e-6):
    """Gradient of a scalar function by central differences, at the tensor ``x``."""
    found = torch.zeros_like(x)
    for i in range(x.numel()):
        shifted = [x.clone(), x.clone()]
        for side, sign in zip(shifted, (1, -1), strict=True):
            side.view(-1)[i] += sign * step
        found.view(-1)[i] = (function(shifted[0]) - function(shifted[1])) / (2 * step)
    return found


@pytest.mark.parametrize("states", NORMAL)
def test_start_values_of_normal_weights(states):
    levels, entropy, error = NORMAL[states]
    values = normal()
    found = lloyd_max(values[None], states)[0]
    np.testing.assert_allclose(found, levels, atol=2e-3)
    index = torch.searchsorted((found[1:] + found[:-1]) / 2, values)
    share = torch.bincount(index) / len(values)
    assert -(share * share.log2()).sum().item() == pytest.approx(entropy, abs=0.006)
    squared = (found[index] - values).square().mean() / values.square().mean()
    assert squared.item() == pytest.approx(error, abs=0.001)


@pytest.mark.parametrize("states", [2, 5, 16])
def test_k_means_stops_where_levels_are_means_of_their_bins(states):
    values = torch.from_numpy(np.random.default_rng(states).gamma(2.0, 1.0, (2, 3001)))
    for row, levels in zip(values, lloyd_max(values, states), strict=True):
        index = torch.searchsorted((levels[1:] + levels[:-1]) / 2, row)
        means = [row[index == m].mean().item() for m in range(states)]
        np.testing.assert_allclose(means, levels, atol=1e-4)


def test_k_means_of_fewer_values_than_states():
    values = torch.tensor([[3.0, -1.0, 3.0, 0.5], [2.0, 2.0, 2.0, 2.0]])
    found = lloyd_max(values, 7)
    assert (found.diff(dim=1) >= 0).all()
    assert set(found[0].tolist()) >= {3.0, -1.0, 0.5}
    assert found[1].tolist() == [2.0] * 7


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(2, 0), torch.tensor([[1.0, np.nan]])])
def test_k_means_refuses_what_has_no_means(bad):
    with pytest.raises(ValueError, match="values"):
        lloyd_max(bad, 2)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("thresholds", ["lloyd", "learned"])
@pytest.mark.parametrize("states", [2, 3, 4, 5, 8, 16])
def test_every_weight_becomes_the_level_of_its_bin(states, thresholds, per_channel):
    found = layer(Mary(states, thresholds, per_channel))
    groups = 6 if per_channel else 1
    levels, borders = found.codebook(), found.thresholds()
    assert levels.shape == (groups, states)
    assert borders.shape == (groups, states - 1)
    assert (levels.diff(dim=1) >= 0).all()
    assert (borders.diff(dim=1) > 0).all()
    index, quantized = found.index(), found.quantized_weight()
    for row in range(6):
        g = row if per_channel else 0
        for w, i, q in zip(
            found.weight[row].flatten(), index[row].flatten(), quantized[row].flatten(), strict=True
        ):
            lower = borders[g, i - 1] if i > 0 else -math.inf
            upper = borders[g, i] if i < states - 1 else math.inf
            assert lower < w <= upper
            assert q == levels[g, i]
    if thresholds == "learned" and states <= 5:
        # They start at the midpoints, but a distance is never quite 0.
        middle = (levels[:, 1:] + levels[:, :-1]) / 2
        np.testing.assert_allclose(borders.detach(), middle.detach(), atol=1e-3)


def test_levels_of_a_channel_ignore_the_other_channels():
    one = layer(Mary(3, per_channel=True))
    for row in range(6):
        expected = lloyd_max(one.weight[row].flatten()[None].float(), 3)[0]
        assert torch.equal(one.codebook()[row].float(), expected)


@pytest.mark.parametrize("states", [2, 3, 6])
def test_gradient_of_levels_with_fixed_bins(states):
    weight, levels, thresholds = grouped(states)
    width = torch.full((2, 1), 0.1, dtype=torch.float64)
    factors = torch.randn(2, 40, dtype=torch.float64)
    for how in (Mary(states), Mary(states, "learned", weight_gradient="soft")):

        def loss(r, how=how):
            found = mqnn.quantize(weight, r, thresholds, how, width)
            return (found * factors + found.square()).sum()

        given = levels.clone().requires_grad_()
        loss(given).backward()
        np.testing.assert_allclose(given.grad, central(loss, levels), atol=1e-6)


def test_scaled_gradient_of_levels():
    weight, levels, thresholds = grouped(4)
    width, grads = torch.full((2, 1), 0.1, dtype=torch.float64), []
    for scaled in (False, True):
        given = levels.clone().requires_grad_()
        mqnn.quantize(
            weight, given, thresholds, Mary(4, scale_level_gradient=scaled), width
        ).square().sum().backward()
        grads.append(given.grad)
    index = torch.searchsorted(thresholds, weight)
    counts = torch.stack([(index == m).sum(dim=1) for m in range(4)], dim=1).double()
    expected = grads[0] / (counts.clamp_min(1) * 4).sqrt()
    np.testing.assert_allclose(grads[1], expected, rtol=1e-12)


@pytest.mark.parametrize("states", [2, 3, 5])
def test_soft_gradients_are_those_of_the_smoothed_quantizer(states):
    weight, levels, thresholds = grouped(states)
    width = torch.tensor([[0.07], [0.2]], dtype=torch.float64)
    factors = torch.randn(2, 40, dtype=torch.float64)
    given = [x.clone().requires_grad_() for x in (weight, thresholds)]
    how = Mary(states, "learned", weight_gradient="soft")
    (mqnn.quantize(given[0], levels, given[1], how, width) * factors).sum().backward()

    def loss(w, d):
        return (smoothed(w, levels, d, width[..., None]) * factors).sum()

    np.testing.assert_allclose(
        given[1].grad, central(lambda d: loss(weight, d), thresholds), atol=1e-7
    )
    inside = (weight >= 2 * levels[:, :1] - thresholds[:, :1]) & (
        weight <= 2 * levels[:, -1:] - thresholds[:, -1:]
    )
    expected = central(lambda w: loss(w, thresholds), weight) * inside
    assert not inside.all()
    np.testing.assert_allclose(given[0].grad, expected, atol=1e-7)


@pytest.mark.parametrize("per_channel", [False, True])
def test_gradient_of_learned_thresholds_reaches_their_parameters(per_channel):
    found = layer(Mary(5, "learned", per_channel))
    factors = torch.randn(found.weight.shape, dtype=torch.float64)
    (found.quantized_weight() * factors).sum().backward()
    rows = found.weight.detach().reshape(6 if per_channel else 1, -1)
    width = 0.1 * rows.std(dim=1, correction=0)[:, None, None]

    def loss():
        soft = smoothed(rows, found.codebook(), found.thresholds(), width)
        return (soft.view(factors.shape) * factors).sum().item()

    for parameter in (found.first, found.gaps):
        before = parameter.detach().clone()

        def at(value, parameter=parameter):
            parameter.data.copy_(value)
            return loss()

        expected = central(at, before)
        parameter.data.copy_(before)
        assert expected.abs().max() > 1e-3
        np.testing.assert_allclose(parameter.grad, expected, atol=1e-6)


def test_lloyd_thresholds_follow_the_levels_and_have_no_gradient():
    found = layer(Mary(3))
    with torch.no_grad():
        found.levels.copy_(torch.tensor([-1.0, 0.5, 4.0]))
    assert found.thresholds().tolist() == [[-0.25, 2.25]]
    assert not found.thresholds().requires_grad
    assert {name for name, _ in found.named_parameters()} == {"weight", "levels"}


@pytest.mark.parametrize("states", [2, 3, 9])
def test_order_of_learned_thresholds_survives_any_step(states):
    found = layer(Mary(states, "learned", per_channel=True))
    for step in range(20):
        with torch.no_grad():
            for parameter in (found.first, found.gaps):
                parameter.add_(torch.randn_like(parameter) * 3 ** (step - 10))
        assert (found.thresholds().diff(dim=1) >= 0).all()
        assert found.index().max() < states


def test_levels_that_pass_each_other_swap_roles():
    one, other = layer(Mary(3)), layer(Mary(3))
    with torch.no_grad():
        other.levels.copy_(one.levels[[1, 0, 2]])
    assert torch.equal(one.quantized_weight(), other.quantized_weight())
    for found in (one, other):
        found.quantized_weight().square().sum().backward()
    assert torch.equal(one.levels.grad[[1, 0, 2]], other.levels.grad)


def test_straight_through_gradient_stops_beyond_the_outer_bins():
    how = Mary(3)
    levels = torch.tensor([[-1.0, 0.0, 3.0]])
    thresholds = torch.tensor([[-0.5, 1.5]])
    weight = torch.tensor([[-1.6, -1.4, 0.0, 4.4, 4.6]], requires_grad=True)
    mqnn.quantize(weight, levels, thresholds, how, torch.ones(1, 1)).sum().backward()
    assert weight.grad.tolist() == [[0, 1, 1, 1, 0]]


def test_two_symmetric_levels_are_binary_weights():
    torch.manual_seed(1)
    half = torch.randn(4, 25, dtype=torch.float64)
    found = MaryWeight((8, 25), Mary(2)).double()
    with torch.no_grad():
        found.weight.copy_(torch.cat([half, -half]))
    found.start()
    alpha = half.abs().mean().item()
    # XNOR-Net and BWN: mean |w| times the sign.
    np.testing.assert_allclose(found.codebook().detach(), [[-alpha, alpha]], rtol=1e-12)
    np.testing.assert_allclose(
        found.quantized_weight().detach(), alpha * found.weight.detach().sign(), rtol=1e-12
    )
    found.quantized_weight().sum().backward()
    assert torch.equal(found.weight.grad, (found.weight.abs() <= 2 * alpha).double())


def test_three_levels_around_zero_are_trained_ternary_quantization():
    positive, negative, delta = 0.7, 0.4, 0.25
    levels = torch.tensor([[-negative, 0.0, positive]], dtype=torch.float64, requires_grad=True)
    thresholds = torch.tensor([[-delta, delta]], dtype=torch.float64)
    weight = torch.linspace(-0.5, 0.9, 58, dtype=torch.float64)[None].requires_grad_()
    factors = torch.randn(1, 58, dtype=torch.float64)
    how = Mary(3, "learned", weight_gradient="ttq")
    found = mqnn.quantize(weight, levels, thresholds, how, torch.ones(1, 1, dtype=torch.float64))
    w = weight.detach()
    up, down = w > delta, w < -delta
    expected = positive * up.double() - negative * down.double()
    assert torch.equal(found.detach(), expected)
    (found * factors).sum().backward()
    # TTQ scales the latent gradient by W_p, 1 and W_n; here W_p and W_n are divided by mean |r|.
    assert levels.grad[0, 2].item() == pytest.approx(factors[up].sum().item())
    assert levels.grad[0, 0].item() == pytest.approx(factors[down].sum().item())
    mean = (positive + negative) / 3
    scale = 1 + up.double() * (positive / mean - 1) + down.double() * (negative / mean - 1)
    np.testing.assert_allclose(weight.grad, factors * scale, rtol=1e-12)


@pytest.mark.parametrize("states", [3, 5, 16])
def test_evenly_spaced_levels_are_a_uniform_quantizer(states):
    step, low = 0.25, -(states // 2)
    found = layer(Mary(states))
    with torch.no_grad():
        found.levels.copy_(step * torch.arange(low, low + states))
        found.weight.mul_(2)
    w = found.weight.detach()
    expected = step * torch.round(w / step).clamp(low, low + states - 1)
    assert torch.equal(found.quantized_weight().detach(), expected)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"states": 1}, "2 to 16"),
        ({"states": 17}, "2 to 16"),
        ({"states": 3, "thresholds": "fixed"}, "thresholds.*lloyd"),
        ({"states": 3, "weight_gradient": "none"}, "weight_gradient.*ttq"),
    ],
)
def test_bad_options_are_refused(options, name):
    with pytest.raises(ValueError, match=name):
        Mary(**options)


@pytest.mark.parametrize("how", [None, Mary(3), Mary(16, "learned", per_channel=True)])
def test_layers_multiply_with_their_quantized_weights(how):
    torch.manual_seed(2)
    conv, linear = MaryConv2d(1, 5, stride=2, how=how), MaryLinear(7, 4, how)
    # A kernel of 9 weights has fewer values than 16 states.
    x, z = torch.randn(2, 1, 9, 8), torch.randn(3, 7)
    with torch.no_grad():
        linear.bias.uniform_(-1, 1)
    out = conv(x)
    assert out.shape == (2, 5, 5, 4)
    expected = torch.nn.functional.conv2d(x, conv.quantized_weight(), stride=2, padding=1)
    assert torch.equal(out, expected)
    expected = z @ linear.quantized_weight().T + linear.bias
    np.testing.assert_allclose(linear(z).detach(), expected.detach(), atol=1e-6)
    (out.square().sum() + linear(z).square().sum()).backward()
    for found in (conv, linear):
        assert all(torch.isfinite(p.grad).all() for p in found.parameters())
        assert found.weight.grad.abs().sum() > 0


def test_convolution_keeps_the_memory_layout_of_its_weights():
    conv = MaryConv2d(4, 8, how=Mary(3)).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)
    assert conv(x).is_contiguous(memory_format=torch.channels_last)
    expected = torch.nn.functional.conv2d(x.contiguous(), conv.quantized_weight(), padding=1)
    np.testing.assert_allclose(conv(x).detach(), expected.detach(), atol=1e-5)
