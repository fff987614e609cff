"""Networks with M-ary weights: their full-precision twin, start, training and memory."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

from tvm_qnn.errors import ModelError  # noqa: E402
from tvm_qnn.nn import checkpoint  # noqa: E402
from tvm_qnn.nn.mqnn import train as mqnn_train  # noqa: E402
from tvm_qnn.nn.mqnn.lloyd import lloyd_max  # noqa: E402
from tvm_qnn.nn.mqnn.network import CIFAR, MqnnConfig, MqnnNet, weight_memory  # noqa: E402
from tvm_qnn.nn.networks import build  # noqa: E402
from tvm_qnn.nn.train import labels, train  # noqa: E402

SMALL = MqnnConfig(image_size=8, channels=(8, 16), strides=(1, 2), classes=3)


class InterruptedRunError(Exception):
    """Raised by a test in the middle of an epoch."""


@pytest.fixture(scope="module")
def full(tiny, tmp_path_factory):
    """Folder of a run in full precision."""
    out = tmp_path_factory.mktemp("full")
    recipe = replace(mqnn_train.recipe(tiny, False, 15), batch=32, rate=1e-2)
    rows = train(mqnn_train.network(SMALL.full_precision(), 0), tiny, recipe, out)
    assert rows[-1].test_accuracy > 0.9
    return out / checkpoint.NAME


def tuned(tiny, full, cfg, out, epochs=3, resume=False, report=lambda epoch, step, steps: None):
    recipe = replace(mqnn_train.recipe(tiny, True, epochs), batch=32)
    net = mqnn_train.network(cfg, 0, full)
    rows = train(net, tiny, recipe, out, resume=resume, report=report)
    return net, [replace(row, seconds=0.0) for row in rows]


def test_full_precision_twin_has_neither_levels_nor_quantizers():
    net = MqnnNet(replace(SMALL, states=5, thresholds="learned").full_precision())
    names = {name.rsplit(".", 1)[-1] for name in net.state_dict()}
    assert not names & {"levels", "first", "gaps", "scale"}
    x = torch.rand(4, 1, 8, 8)
    np.testing.assert_allclose(net.eval()(0.3 * x).shape, (4, 3))
    memory = weight_memory(net)
    assert memory.packed == memory.ideal == memory.full == 4 * (8 * 9 + 16 * 8 * 9 + 3 * 16)


def test_start_takes_weights_over_and_finds_levels_for_them(full):
    given, _, _ = checkpoint.load_trained(full)
    net = mqnn_train.network(replace(SMALL, states=4, per_channel=True), 7, full)
    for own, other in zip(net.weights(), given.weights(), strict=True):
        assert torch.equal(own.weight, other.weight)
        expected = lloyd_max(other.weight.detach().flatten(1), 4)
        assert torch.equal(own.codebook(), expected)
    for own, other in zip(net.each_block(), given.each_block(), strict=True):
        assert torch.equal(own.norm.running_var, other.norm.running_var)
        assert not own.activation.started
    assert torch.equal(net.linear.bias, given.linear.bias)


def test_start_from_tuned_network_keeps_its_own_quantizers(tiny, full, tmp_path):
    tuned(tiny, full, SMALL, tmp_path, epochs=1)
    net = mqnn_train.network(replace(SMALL, states=8), 0, tmp_path / checkpoint.NAME)
    assert net.linear.codebook().shape == (1, 8)
    assert not net.pooled.started


def test_start_refuses_another_shape_and_another_kind(full, tiny, tmp_path):
    with pytest.raises(ModelError, match=r"channels/strides 8/1, 16/2.*is|one of the same shape"):
        mqnn_train.network(replace(SMALL, channels=(8, 8)), 0, full)
    from tvm_qnn.nn.checkpoint import Recipe
    from tvm_qnn.nn.maqd.small import MaqdConfig

    other = MaqdConfig(image_size=8, channels=(8,), strides=(2,), classes=3)
    train(build(other, 0), tiny, Recipe(epochs=1, batch=96), tmp_path)
    with pytest.raises(ModelError, match="not an MQNN network"):
        mqnn_train.network(SMALL, 0, tmp_path / checkpoint.NAME)
    with pytest.raises(ModelError, match="no checkpoint"):
        mqnn_train.network(SMALL, 0, tmp_path / "none.pt")


@pytest.mark.parametrize(
    "options",
    [
        {"states": 3},
        {"states": 5, "thresholds": "learned", "per_channel": True, "activation_bits": 4},
        {"states": 2, "weight_gradient": "soft"},
        {"states": 16, "weight_gradient": "ttq", "quantized_ends": False},
    ],
)
def test_tuning_learns_and_moves_levels_with_weights(tiny, full, tmp_path, options):
    cfg = replace(SMALL, **options)
    before = mqnn_train.network(cfg, 0, full)
    net, rows = tuned(tiny, full, cfg, tmp_path, epochs=8)
    assert rows[-1].loss < rows[0].loss
    assert rows[-1].test_accuracy > 0.8
    for old, new in zip(before.weights(), net.weights(), strict=True):
        assert not torch.equal(old.weight, new.weight)
        if new.how is not None:
            assert (old.codebook() != new.codebook()).all()
            assert len(torch.unique(new.quantized_weight()[0])) <= cfg.states
    assert (net.weights()[0].how is None) == (not cfg.quantized_ends)
    assert net.blocks[0].activation.started


def test_resume_equals_uninterrupted_run(tiny, full, tmp_path):
    cfg = replace(SMALL, thresholds="learned", weight_gradient="soft")
    whole = tuned(tiny, full, cfg, tmp_path / "whole")

    def stop(epoch, step, steps):
        if (epoch, step) == (3, 2):
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        tuned(tiny, full, cfg, tmp_path / "cut", report=stop)
    cut = tuned(tiny, full, cfg, tmp_path / "cut", resume=True)
    assert cut[1] == whole[1]
    for name, value in whole[0].state_dict().items():
        assert torch.equal(cut[0].state_dict()[name], value), name
    loaded, _, _ = checkpoint.load_trained(tmp_path / "cut" / checkpoint.NAME)
    assert loaded.cfg == cfg
    assert (labels(loaded, tiny.test_images) == labels(whole[0], tiny.test_images)).all()


def test_levels_learn_at_a_tenth_and_sigmoids_narrow():
    net = MqnnNet(replace(SMALL, thresholds="learned"))
    scales = {name.rsplit(".", 1)[-1]: net.rate_scale(name) for name, _ in net.named_parameters()}
    assert {name for name, scale in scales.items() if scale == 0.1} == {
        "levels", "first", "gaps", "scale",
    }  # fmt: skip
    assert set(scales.values()) == {0.1, 1.0}
    widths = []
    for progress in (0.0, 0.5, 1.0):
        net.anneal(progress)
        widths.append(net.linear.temperature)
    assert widths[0] == pytest.approx(0.1)
    assert widths[1] ** 2 == pytest.approx(widths[0] * widths[2])
    assert widths[2] == pytest.approx(0.02)


@pytest.mark.parametrize(("states", "bits"), [(2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (16, 4)])
def test_memory_counts_packed_codes_and_levels(states, bits):
    weights = 8 * 9 + 16 * 8 * 9 + 3 * 16
    memory = weight_memory(MqnnNet(replace(SMALL, states=states)))
    assert memory.packed == weights * bits / 8 + 3 * 4 * states
    assert memory.ideal == pytest.approx(weights * np.log2(states) / 8 + 3 * 4 * states)
    assert memory.full == 4 * weights
    assert memory.other == 4 * (2 * (8 + 16) + 3)
    each = weight_memory(MqnnNet(replace(SMALL, states=states, per_channel=True)))
    assert each.packed - memory.packed == 4 * states * (8 + 16 + 3 - 3)


def test_networks_for_both_sizes_of_images(tiny):
    assert mqnn_train.shape(tiny).image_size == 8
    assert MqnnNet(MqnnConfig()).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert MqnnNet(CIFAR).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_recipes_differ_by_data_and_start(tiny):
    digits = replace(tiny, name="mnist")
    colour = replace(tiny, name="cifar-10", train_images=tiny.train_images.repeat(3, axis=1))
    assert not mqnn_train.recipe(digits, False).flip
    assert mqnn_train.recipe(colour, False, seed=4) == replace(mqnn_train.FULL_COLOUR, seed=4)
    tuned = mqnn_train.recipe(colour, True, 9)
    assert (tuned.epochs, tuned.optimizer, tuned.shift, tuned.flip) == (9, "adamw", 2, True)
    assert mqnn_train.recipe(tiny, True).shift == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"channels": (8, 8), "strides": (1,)}, "stride"),
        ({"channels": (8, 8), "strides": (1, 1), "pools": (2,)}, "pool"),
    ],
)
def test_config_needs_a_stride_and_a_pool_for_every_convolution(options, name):
    with pytest.raises(ValueError, match=name):
        MqnnConfig(**options)
