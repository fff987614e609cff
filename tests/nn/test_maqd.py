"""Quantizers, surrogate gradients and normalization of the MaQD layers."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

from tvm_qnn.nn.maqd import layers as maqd  # noqa: E402
from tvm_qnn.nn.maqd.layers import RoundClip  # noqa: E402

STATES = range(2, 17)


def wide_grid(quantizer):
    """Inputs far beyond the outermost states, and none exactly on a threshold."""
    reach = (quantizer.states + 3) * quantizer.step
    return torch.linspace(-reach, reach, 4001) + 1e-3


@pytest.mark.parametrize("states", STATES)
def test_unsigned_quantizer_reaches_exactly_its_states(states):
    quantizer = RoundClip(states, signed=False)
    codes = quantizer.codes(wide_grid(quantizer))
    assert torch.unique(codes).tolist() == list(range(states))
    assert (codes.diff() >= 0).all()
    assert quantizer.largest_code == states - 1
    assert (states - 1) * quantizer.unit == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("states", STATES)
def test_signed_quantizer_reaches_exactly_its_states(states):
    quantizer = RoundClip(states, signed=True)
    codes = quantizer.codes(wide_grid(quantizer))
    if states % 2:
        expected = list(range(-(states // 2), states // 2 + 1))
    else:
        expected = list(range(-(states - 1), states, 2))
    assert torch.unique(codes).tolist() == expected
    assert (codes.diff() >= 0).all()
    assert expected[-1] == quantizer.largest_code
    assert expected[-1] * quantizer.unit == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("states", STATES)
def test_codes_follow_the_formula(states, signed):
    quantizer = RoundClip(states, signed)
    x = np.random.default_rng(states).normal(0, 3, 5000).astype(np.float32)
    scaled, top = x.astype(np.float64) / 3, states - 1
    if signed:
        expected = 2 * np.clip(np.round(top * (scaled + 1) / 2), 0, top) / top - 1
    else:
        expected = np.clip(np.round(top * scaled), 0, top) / top
    codes = quantizer.codes(torch.from_numpy(x)).numpy()
    # Both are M states in [-1, 1] or [0, 1]; compare as the number of the state.
    number = np.round((codes.astype(np.float64) * quantizer.unit + signed) * top / (1 + signed))
    assert (number == np.round((expected + signed) * top / (1 + signed))).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("states", STATES)
def test_codes_change_at_the_thresholds(states, signed):
    quantizer = RoundClip(states, signed)
    steps = torch.tensor(quantizer.thresholds, dtype=torch.float64)
    assert len(steps) == states - 1
    below = quantizer.codes((steps - 1e-9) * quantizer.step)
    above = quantizer.codes((steps + 1e-9) * quantizer.step)
    assert (above - below).tolist() == [quantizer.stride] * (states - 1)


def test_ties_round_to_even_like_onnx():
    ties = torch.tensor([-0.5, 0.5, 1.5, 2.5, 3.5])
    assert RoundClip(4, signed=False).step == 1.0
    assert RoundClip(4, signed=False).codes(ties).tolist() == [0, 0, 2, 2, 3]


@pytest.mark.parametrize(("states", "scale"), [(1, 1 / 3), (0, 1 / 3), (3, 0.0), (3, -1.0)])
def test_impossible_quantizer_is_refused(states, scale):
    with pytest.raises(ValueError, match="quantizer"):
        RoundClip(states, signed=True, scale=scale)


def test_unknown_surrogate_is_refused():
    with pytest.raises(ValueError, match="tanh"):
        maqd.round_clip_codes(torch.zeros(1), RoundClip(3, signed=True), "tanh")


@pytest.mark.parametrize(
    ("states", "signed"), [(2, False), (4, False), (16, False), (2, True), (3, True), (4, True)]
)
def test_sigmoid_surrogate_is_the_sum_over_thresholds(states, signed):
    quantizer = RoundClip(states, signed)
    x = torch.linspace(-6, 12, 1001, dtype=torch.float64, requires_grad=True)
    maqd.round_clip_codes(x, quantizer).sum().backward()
    k = maqd.STEEPNESS / quantizer.step
    expected = 0
    for threshold in quantizer.thresholds:
        s = 1 / (1 + np.exp(-k * (x.detach().numpy() - threshold * quantizer.step)))
        expected = expected + quantizer.stride * k * s * (1 - s)
    found = x.grad.numpy()
    # With three thresholds and more, all but the two nearest are left out.
    bound = 0.0 if states <= 3 else 0.015 * quantizer.stride / quantizer.step
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=bound + 1e-12)
    assert (found <= expected + 1e-12).all()


def test_sigmoid_surrogate_integrates_to_the_code_range():
    quantizer = RoundClip(5, signed=False)
    x = torch.linspace(-40, 60, 200_001, dtype=torch.float64, requires_grad=True)
    maqd.round_clip_codes(x, quantizer).sum().backward()
    area = x.grad.sum().item() * 100 / 200_000
    assert math.isclose(area, 4.0, rel_tol=3e-3)


@pytest.mark.parametrize(("states", "signed"), [(2, True), (3, True), (2, False), (8, False)])
def test_straight_through_is_one_inside_and_zero_outside(states, signed):
    quantizer = RoundClip(states, signed)
    low = quantizer.thresholds[0] - 1
    high = quantizer.thresholds[-1] + 1
    steps = torch.tensor([low - 0.01, low + 0.01, high - 0.01, high + 0.01])
    x = (steps * quantizer.step).requires_grad_()
    maqd.round_clip_codes(x, quantizer, "straight-through").sum().backward()
    slope = quantizer.stride / quantizer.step
    assert x.grad.tolist() == pytest.approx([0, slope, slope, 0])


def test_weight_standardization_ignores_scale_and_offset():
    torch.manual_seed(0)
    weight = torch.randn(7, 5, 3, 3, dtype=torch.float64)
    flat = maqd.standardize_weight(weight).flatten(1)
    np.testing.assert_allclose(flat.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(flat.var(1, correction=0), 1, rtol=1e-4)
    again = maqd.standardize_weight(weight * 4 - 3).flatten(1)
    np.testing.assert_allclose(again, flat, atol=1e-4)


def test_constant_filter_standardizes_to_zero():
    assert maqd.standardize_weight(torch.full((2, 9), 0.25)).tolist() == [[0.0] * 9] * 2


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5, 4)])
def test_layer_batch_norm_gradient(shape):
    torch.manual_seed(1)
    norm = maqd.LayerBatchNorm(shape[1]).double()
    with torch.no_grad():
        norm.gain.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    inputs = (torch.randn(shape, dtype=torch.float64), norm.gain.detach(), norm.bias.detach())

    def function(z, gain, bias):
        return torch.func.functional_call(norm, {"gain": gain, "bias": bias}, (z,))

    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in inputs])


def test_layer_batch_norm_pools_everything_but_scales_channels():
    torch.manual_seed(2)
    z = torch.randn(6, 5, 4, 3) * 3 + 2
    norm = maqd.LayerBatchNorm2d(5)
    with torch.no_grad():
        norm.gain.copy_(torch.arange(1.0, 6.0))
        norm.bias.copy_(-torch.arange(5.0))
    y = norm(z)
    plain = (z - z.mean()) / torch.sqrt(z.var(correction=0) + 1e-5)
    expected = plain * norm.gain.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    np.testing.assert_allclose(y.detach(), expected.detach(), rtol=1e-5, atol=1e-5)
    assert norm.running_mean.item() == pytest.approx(0.1 * z.mean().item(), rel=1e-5)
    assert norm.running_var.item() == pytest.approx(
        0.9 + 0.1 * z.var(correction=0).item(), rel=1e-5
    )


def test_layer_batch_norm_inference_is_its_affine_map():
    torch.manual_seed(3)
    norm = maqd.LayerBatchNorm(8)
    for _ in range(5):
        norm(torch.randn(16, 8) * 4 + 1)
    norm.eval()
    z = torch.randn(3, 8)
    factor, offset = norm.affine()
    assert torch.equal(norm(z), z * factor + offset)
    assert torch.equal(norm(z)[:1], norm(z[:1]))


def test_layer_batch_norm_2d_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        maqd.LayerBatchNorm2d(3)(torch.zeros(2, 3))


@pytest.mark.parametrize("states", [2, 3, 4, 7])
def test_convolution_multiplies_with_weight_codes(states):
    torch.manual_seed(4)
    conv = maqd.MaqdConv2d(3, 5, stride=2, states=states)
    codes = torch.randint(0, 4, (2, 3, 9, 8)).float()
    out = conv(codes)
    assert out.shape == (2, 5, 5, 4)
    sums = torch.nn.functional.conv2d(
        codes.double(), conv.weight_codes().double(), stride=2, padding=1
    )
    assert torch.equal(out.double(), sums)
    out.square().sum().backward()
    assert conv.weight.grad.abs().sum() > 0


def test_activation_returns_codes():
    activation = maqd.MaqdActivation(8)
    step = activation.quantizer.step
    x = torch.tensor([-1.0, 0.4 * step, 0.6 * step, 3.2 * step, 100.0])
    assert activation(x).tolist() == [0, 0, 1, 3, 7]


def test_fixed_quantizer_is_lossless_on_8_bit_images():
    quantizer = maqd.FixedQuantizer(1 / 255)
    codes = torch.arange(256)
    x = (codes.float() / 255).requires_grad_()
    y = quantizer(x)
    assert torch.round(y.detach() * 255).to(torch.int64).tolist() == codes.tolist()
    grid = codes.float() * np.float32(1 / 255)
    assert torch.equal(quantizer.eval()(x), grid)
    assert torch.equal(quantizer(grid), grid)
    assert quantizer(torch.tensor([-1.0, 2.0])).tolist() == [0.0, pytest.approx(1.0)]
    y.sum().backward()
    assert x.grad.tolist() == [1.0] * 256
