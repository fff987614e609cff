"""Memory networks: integers equal the definition, gradients equal readable ones, bounds hold."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

import qmann_cases as cases
import torch

from tvm_qnn.nn.qmann import native
from tvm_qnn.nn.qmann.config import MATRICES, SIGN_TERMS, QmannConfig, QmannRecipe, parse_format
from tvm_qnn.nn.qmann.functions import fix, hamming, ones, read, softmax
from tvm_qnn.nn.qmann.network import QmannNet, initial
from tvm_qnn.spec.fixed import FixedPoint, fixed_quantize

Q2_5 = FixedPoint(2, 5)


def weights(cfg, deviation, seeds=(3,)):
    return initial(cfg, cases.VOCABULARY, list(seeds), deviation)


def one(stacked, index=0):
    return {name: array[index] for name, array in stacked.items()}


def tensors(data):
    return torch.from_numpy(data.story), torch.from_numpy(data.question)


@pytest.mark.parametrize("fmt", [Q2_5, FixedPoint(5, 2), FixedPoint(0, 7), FixedPoint(5, 7)])
def test_quantizer_is_the_definition(fmt):
    grid = np.arange(-300, 301, dtype=np.float32) / 64
    x = np.concatenate([grid, grid * 37, np.nextafter(grid, 0), np.nextafter(grid, 99)])
    assert (fix(torch.from_numpy(x), fmt) * 2**fmt.fraction).tolist() == fixed_quantize(
        x, fmt
    ).tolist()


# Small, common, and saturating weights.
@pytest.mark.parametrize("deviation", [0.1, 0.6, 3.0])
@pytest.mark.parametrize("name", cases.FIXED)
def test_eval_mode_gives_the_integers_of_the_definition(name, deviation):
    cfg, data = cases.FIXED[name], cases.questions(24)
    stacked = weights(cfg, deviation)
    expected = cases.definition(cfg, one(stacked), data)
    with torch.no_grad():
        logits, scores, keys = QmannNet(cfg, stacked).eval().trace(*tensors(data))
    scale = 2**cfg.format.fraction
    assert logits[0].tolist() == expected[0].tolist()
    assert (torch.stack(scores, 2)[0] * scale).tolist() == expected[1].tolist()
    assert (torch.stack(keys, 2)[0] * scale).tolist() == expected[2].tolist()


@pytest.mark.skipif(native.kernel(32) is None, reason="needs a C compiler")
@pytest.mark.parametrize("deviation", [0.1, 0.6, 3.0])
@pytest.mark.parametrize("name", cases.FIXED)
def test_kernel_gives_the_integers_of_the_definition(name, deviation):
    cfg, data = cases.FIXED[name], cases.questions(24)
    network = one(weights(cfg, deviation))
    expected = cases.definition(cfg, network, data)
    logits, scores, keys = native.infer(cfg, network, data)
    scale = 2**cfg.format.fraction
    assert logits.tolist() == expected[0].tolist()
    assert (scores * scale).tolist() == expected[1].tolist()
    assert (keys * scale).tolist() == expected[2].tolist()


@pytest.mark.skipif(native.kernel(32) is None, reason="needs a C compiler")
@pytest.mark.parametrize("name", cases.ALL)
def test_kernel_takes_the_gradient_of_pytorch(name):
    cfg, data = cases.ALL[name], cases.questions(24)
    stacked = weights(cfg, 0.6)
    net = QmannNet(cfg, stacked).train()
    answer = torch.from_numpy(data.answer).long()
    torch.nn.functional.cross_entropy(net(*tensors(data))[0], answer, reduction="sum").backward()
    # One step of rate 1 on the summed gradient, without clips.
    recipe = QmannRecipe(batch=24, rate=24.0, key_rate=1.0, clip=1e9, key_clip=1e9)
    before = one(stacked)
    after, loss, _ = native.train_epoch(cfg, recipe, before, data, 1)
    assert math.isfinite(loss)
    for weight in MATRICES:
        wanted = getattr(net, weight).grad[0].numpy()
        # A gradient that is truncated may fall on the other side: 1/64 and what follows from it.
        allowed = 1 / 32 if cfg.read_scale else 1e-4 * np.abs(wanted).max()
        assert np.abs(before[weight] - after[weight] - wanted).max() <= allowed, weight


def test_float_gradient_is_that_of_finite_differences():
    cfg, data = replace(cases.ALL["float"], embedding=6, hops=2), cases.questions(8)
    net = QmannNet(cfg, weights(cfg, 0.6)).double().train()
    answer = torch.from_numpy(data.answer).long()

    def loss():
        story, asked = tensors(data)
        return torch.nn.functional.cross_entropy(net(story, asked)[0], answer, reduction="sum")

    loss().backward()
    step = 1e-6
    for name, *position in (("wa", 5, 1), ("wr", 3, 2), ("wq", 7, 4), ("wk", 1, 3), ("wo", 2, 5)):
        position = (0, *position)
        parameter = getattr(net, name)
        with torch.no_grad():
            parameter[position] += step
            above = loss()
            parameter[position] -= 2 * step
            below = loss()
            parameter[position] += step
        slope = float(above - below) / (2 * step)
        assert slope == pytest.approx(float(parameter.grad[position]), abs=1e-6), name


@pytest.mark.parametrize("sign_term", SIGN_TERMS)
def test_hamming_gradient_is_equation_7_bit_by_bit(sign_term):
    cfg = replace(cases.HAMMING, sign_term=sign_term, embedding=1)
    codes = torch.tensor([-127, -64, -5, -1, 0, 1, 2, 63, 127], dtype=torch.float32)
    u = codes.repeat_interleave(len(codes)).div(32).view(-1, 1, 1, 1).requires_grad_()
    v = codes.repeat(len(codes)).div(32).view(-1, 1, 1).requires_grad_()
    hamming(u, v, Q2_5, cfg).sum().backward()
    for i in range(len(u)):
        a, b = round(u[i].item() * 32), round(v[i].item() * 32)
        assert u.grad[i].item() == equation_7(a, b, sign_term)
        assert v.grad[i].item() == equation_7(b, a, sign_term)


def equation_7(own, other, sign_term):
    """Slope of the similarity toward the code ``own``, 2**alpha = 1/8."""
    own_sign, other_sign = (-1 if x < 0 else 1 for x in (own, other))
    if sign_term == "printed":
        slope = own_sign * (own_sign - other_sign)
    elif sign_term == "code":
        slope = own_sign * (int(own < 0) - int(other < 0))
    else:
        slope = other_sign - own_sign
    for bit in range(7):
        slope -= other_sign * ((abs(own) >> bit & 1) - (abs(other) >> bit & 1))
    return slope / 8


def test_magnitude_gradient_is_the_slope_between_the_bits():
    """Between 0 and 1 a bit counts in XNOR as ``1 - |difference|``: the smoothed form of eq. 6."""
    cfg = replace(cases.HAMMING, embedding=1)
    for other in (0, 5, 96, 127):
        for bit in range(7):
            pair = torch.tensor([0, 1 << bit]) / 32.0
            key = torch.full((2, 1, 1), other / 32.0)
            raw = [127 - (code ^ other) for code in (0, 1 << bit)]
            memory = pair.view(2, 1, 1, 1).requires_grad_()
            hamming(memory, key, Q2_5, cfg).sum().backward()
            slopes = memory.grad.flatten().tolist()
            # Flipping one bit by hand changes the raw sum by its weight, and the gradient, where
            # every bit weighs the same, by one step.
            assert abs(raw[1] - raw[0]) == 1 << bit
            assert slopes[1] - slopes[0] == -1 / 8


def test_bounds_of_the_hamming_similarity():
    cfg = QmannConfig(Q2_5, "hamming")
    rng = np.random.default_rng(0)
    u = torch.from_numpy(rng.integers(-127, 128, (1, 1, 1, 60)) / 32).float()
    u[u == 0] = 1 / 32
    largest = 60 * 127 / 2048
    assert largest == pytest.approx(3.7207, abs=1e-4)
    assert largest < Q2_5.limit / 32
    assert hamming(u, u[:, :, 0], Q2_5, cfg).item() == math.floor(largest * 32) / 32
    assert hamming(u, -u[:, :, 0], Q2_5, cfg).item() == -math.floor(largest * 32) / 32


def test_similarity_of_the_authors_code():
    """Twice the weight, the distance of the magnitudes, no truncation to the format."""
    cfg = replace(cases.CODE, embedding=1)
    for a, b in ((5, 5), (5, 9), (-5, -9), (-5, 9), (100, -100), (0, -1)):
        u, v = torch.tensor(a / 32.0).view(1, 1, 1, 1), torch.tensor(b / 32.0).view(1, 1, 1)
        apart = (a < 0) != (b < 0)
        equal = 127 - (min(abs(a) + abs(b), 127) if apart else abs(abs(a) - abs(b)))
        assert hamming(u, v, Q2_5, cfg).item() == (-equal if apart else equal) * 2 / 2048


def test_gradient_of_the_read_in_fixed_point():
    p = torch.tensor([[[0.5, 0.25]]], requires_grad=True)
    rows = torch.tensor([[[[1.0, -3.0], [0.5, 2.0]]]], requires_grad=True)
    grad = torch.tensor([[[0.3, -0.013]]])
    read(p, rows, Q2_5, replace(cases.HAMMING, read_gradient="quantized")).backward(grad)
    # 0.3 is 19/64 and -0.013 is 0; rows saturate at 127/64; all in steps of 1/64.
    assert (rows.grad * 64).tolist() == [[[[9, 0], [4, 0]]]]
    assert (p.grad * 64).tolist() == [[[19, 9]]]
    p.grad = rows.grad = None
    read(p, rows, Q2_5, cases.HAMMING).backward(grad)
    assert p.grad.tolist() == (rows.detach() * grad).sum(-1).tolist()


def test_softmax_ignores_empty_slots_and_survives_empty_stories():
    score = torch.tensor([[[1.0, 3.0, 0.5], [1.0, 1.0, 1.0]]], requires_grad=True)
    valid = torch.tensor([[True, False, True], [False, False, False]])
    p = softmax(score, valid, Q2_5, True)
    assert (p * 32).tolist() == [[[19, 0, 12], [0, 0, 0]]]
    p[0, 0, 0].backward()
    assert score.grad[0, 1].tolist() == [0, 0, 0]
    assert score.grad[0, 0, 0].item() == pytest.approx(0.6225 * 0.3775, abs=1e-3)


def test_ones_counts_bits():
    values = [*range(300), 2**12 - 1, 2**15 - 1]
    assert ones(torch.tensor(values, dtype=torch.int32)).tolist() == [x.bit_count() for x in values]


def test_formats_of_the_hops():
    assert [str(f) for f in cases.FIXED["hamming mq"].hop_formats()] == ["Q3.4", "Q2.5", "Q1.6"]
    assert [str(f) for f in cases.FIXED["dot"].hop_formats()] == ["Q5.2"] * 3
    assert QmannConfig().hop_formats() == ()
    assert parse_format("Q2.5") == Q2_5


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"similarity": "hamming"}, "need a fixed-point format"),
        ({"binary": True}, "need a fixed-point format"),
        ({"similarity": "cosine"}, "no similarity"),
        ({"format": FixedPoint(7, 7)}, "the most are 13 bits"),
        ({"format": FixedPoint(0, 7), "control": True}, "at least 1 bit on either side"),
        ({"format": Q2_5, "control": True, "hops": 2}, "3 hops"),
        ({"hops": 9}, "1 to 8 hops"),
        ({"sign_term": "none"}, "sign_term"),
        ({"read_gradient": "int8"}, "read_gradient"),
    ],
)
def test_networks_that_cannot_be(fields, reason):
    with pytest.raises(ValueError, match=reason):
        QmannConfig(**fields)


@pytest.mark.parametrize("text", ["2.5", "Q2", "Q2.5x", "Q-1.4", "Q9.9"])
def test_formats_that_cannot_be(text):
    with pytest.raises(ValueError):
        parse_format(text)
