"""Full-precision twins, starting from them, normalizations, and training what is compiled."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

from tvm_qnn.errors import ModelError  # noqa: E402
from tvm_qnn.nn import checkpoint, export  # noqa: E402
from tvm_qnn.nn.checkpoint import Recipe  # noqa: E402
from tvm_qnn.nn.maqd.networks import ResNetConfig, VggConfig, fuse_training  # noqa: E402
from tvm_qnn.nn.maqd.norm import LayerNorm2d, normalization  # noqa: E402
from tvm_qnn.nn.maqd.start import start_from  # noqa: E402
from tvm_qnn.nn.networks import build  # noqa: E402
from tvm_qnn.nn.train import labels, train  # noqa: E402

SHAPES = {
    "vgg": VggConfig(image_size=8, image_channels=1, channels=(8, 16), pools=(0,), classes=3),
    "resnet": ResNetConfig(
        image_size=8, image_channels=1, stem=8, stages=(8, 12), blocks=1, classes=3
    ),
}
TINY = VggConfig(image_size=8, image_channels=1, channels=(4,), pools=(), classes=3)
QUICK = Recipe(epochs=8, batch=32, optimizer="muon", shift=0, flip=False)


@pytest.mark.parametrize("name", SHAPES)
def test_network_learns_and_its_checkpoint_loads(tiny, tmp_path, name):
    net = build(SHAPES[name], 0)
    rows = train(net, tiny, QUICK, tmp_path)
    assert rows[-1].loss < rows[0].loss
    assert rows[-1].test_accuracy > 0.8
    loaded, recipe, _ = checkpoint.load_trained(tmp_path / checkpoint.NAME)
    assert (loaded.cfg, recipe) == (SHAPES[name], QUICK)
    assert (labels(loaded, tiny.test_images) == labels(net, tiny.test_images)).all()


@pytest.mark.parametrize("bfloat16", [False, True])
def test_resume_equals_uninterrupted_run(tiny, tmp_path, bfloat16):
    recipe = Recipe(epochs=3, batch=32, optimizer="muon", seed=5, cutout=2, bfloat16=bfloat16)
    whole = build(SHAPES["resnet"], recipe.seed)
    expected = train(whole, tiny, recipe, tmp_path / "whole")

    class CutError(Exception):
        pass

    def stop(epoch, step, steps):
        if (epoch, step) == (3, 1):
            raise CutError

    with pytest.raises(CutError):
        train(build(SHAPES["resnet"], 5), tiny, recipe, tmp_path / "cut", report=stop)
    resumed = build(SHAPES["resnet"], 99)
    rows = train(resumed, tiny, recipe, tmp_path / "cut", resume=True)
    assert [(r.loss, r.test_accuracy) for r in rows] == [
        (r.loss, r.test_accuracy) for r in expected
    ]
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_quantized_network_starts_where_its_twin_is(tiny, tmp_path):
    twin = build(replace(SHAPES["vgg"], precision="float"), 0)
    train(twin, tiny, Recipe(epochs=4, batch=32, rate=0.01, shift=0, flip=False), tmp_path)
    known = labels(twin, tiny.test_images)
    assert np.mean(known == tiny.test_labels) > 0.9
    # With many states the start is close to the twin, but for the head, which is left to training.
    net = build(replace(SHAPES["vgg"], weight_states=63, activation_states=64), 1)
    images = torch.from_numpy(tiny.train_images[:200]).float() / 255
    start_from(net, twin, images)
    with torch.no_grad():
        ours = net.head.linear(net.head.pooled(features(net, images).mean((2, 3))))
        theirs = twin.head.linear(features(twin, images).mean((2, 3))) - twin.head.linear.bias
    ours, theirs = (x - x.mean(1, keepdim=True) for x in (ours, theirs))
    alike = torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
    assert alike > 0.8


def test_residual_network_starts_with_the_weights_of_its_twin(tiny):
    twin = build(replace(SHAPES["resnet"], precision="float"), 0)
    net = build(SHAPES["resnet"], 1)
    start_from(net, twin, torch.from_numpy(tiny.train_images[:50]).float() / 255)
    for ours, theirs in ((net.stem, twin.stem), (net.blocks[1].shortcut, twin.blocks[1].shortcut)):
        flat = theirs.weight.detach().flatten(1)
        expected = (flat - flat.mean(1, keepdim=True)) / flat.std(1, correction=0, keepdim=True)
        np.testing.assert_allclose(ours.weight.detach().flatten(1), expected, atol=1e-5)
    norm = net.blocks[1].activation2.norm
    assert norm.running_var.item() != 1.0
    assert norm.gain.std() > 0


def features(net, images):
    found = []
    hook = net.head.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    net.eval()(images)
    hook.remove()
    return found[0]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({}, "ternary (-1, 0, 1), every layer"),
        ({"weight_states": 5, "first_states": 15, "last_states": 15}, "5 states, first and last"),
        ({"last_states": 7}, "ternary (-1, 0, 1), last layer 7 states"),
    ],
)
@pytest.mark.parametrize("shape", [*SHAPES.values(), TINY])
def test_record_tells_the_states_of_every_layer(shape, states, said):
    net = build(replace(shape, **states), 0).eval()
    assert export.describe(net).weights.startswith(said)


def test_twin_is_not_exported():
    with pytest.raises(ModelError, match="full-precision"):
        export.to_onnx(build(replace(TINY, precision="float"), 0))


def test_layer_normalization_is_not_exported():
    with pytest.raises(ModelError, match="activation1: layer normalization"):
        export.to_onnx(build(replace(TINY, norm="layer"), 0))


def test_residual_stream_beyond_int16_is_not_exported():
    cfg = ResNetConfig(
        image_size=8,
        image_channels=1,
        stem=4,
        stages=(128,),
        blocks=1,
        classes=3,
        weight_states=127,
        activation_states=16,
    )
    with pytest.raises(ModelError, match="block1: its residual sums may reach"):
        export.to_onnx(build(cfg, 0))


@pytest.mark.parametrize(
    ("kind", "axes"), [("layer-batch", (0, 1, 2, 3)), ("batch", (0, 2, 3)), ("layer", (1, 2, 3))]
)
def test_normalization_pools_what_its_name_says(kind, axes):
    torch.manual_seed(0)
    z = torch.randn(5, 4, 3, 6) * torch.arange(1.0, 5.0).view(1, 4, 1, 1) + 2
    found = normalization(kind, 4).train()(z)
    var, mean = torch.var_mean(z, dim=axes, correction=0, keepdim=True)
    np.testing.assert_allclose(
        found.detach(), (z - mean) / torch.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5
    )


def test_layer_normalization_ignores_the_rest_of_the_batch():
    torch.manual_seed(0)
    norm, z = LayerNorm2d(3).train(), torch.randn(4, 3, 5, 5)
    np.testing.assert_allclose(norm(z)[:1].detach(), norm(z[:1]).detach(), atol=1e-6)


def test_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match="'group'"):
        normalization("group", 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VggConfig(channels=(8, 8), pools=(2,)), "pools"),
        (lambda: VggConfig(image_size=4, channels=(8, 8, 8), pools=(0, 1, 2)), "4 pixels"),
        (lambda: ResNetConfig(stages=()), "no network"),
    ],
)
def test_impossible_shapes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_zero_points_keep_activations_near_zero():
    zeros = {
        m: build(VggConfig(activation_states=m), 0).blocks[0].activation.zero for m in (2, 4, 8, 16)
    }
    assert zeros == {2: 0, 4: 0, 8: 1, 16: 2}
    assert build(VggConfig(), 0).blocks[-1].activation.zero == 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_fused_training_computes_the_same():
    torch.manual_seed(0)
    images = torch.rand(8, 1, 8, 8)
    outcomes = []
    for fuse in (False, True):
        net = build(TINY, 0).train()
        if fuse:
            fuse_training(net)
        net(images).square().sum().backward()
        outcomes.append(
            [p.grad.clone() for p in net.parameters()] + [net.blocks[0].activation.norm.running_var]
        )
    for plain, fused in zip(*outcomes, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-3, atol=1e-4)
