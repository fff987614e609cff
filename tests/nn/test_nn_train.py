"""Training: it learns, its randomness is seeded, and a resumed run equals an uninterrupted one."""

import csv
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

from tvm_qnn.errors import ModelError  # noqa: E402
from tvm_qnn.nn import checkpoint  # noqa: E402
from tvm_qnn.nn.checkpoint import Recipe  # noqa: E402
from tvm_qnn.nn.maqd.small import MaqdConfig, MaqdNet, maqd_fashion_net  # noqa: E402
from tvm_qnn.nn.networks import build  # noqa: E402
from tvm_qnn.nn.train import augment, cut_out, labels, logits  # noqa: E402
from tvm_qnn.nn.train import train as train_network  # noqa: E402

SMALL = MaqdConfig(image_size=8, channels=(8, 16), strides=(1, 2), classes=3)


class InterruptedRunError(Exception):
    """Raised by a test in the middle of an epoch."""


def train(cfg, data, recipe, out, **options):
    net = build(cfg, recipe.seed)
    return net, train_network(net, data, recipe, out, **options)


def outcome(net, rows):
    state = {key: value.tolist() for key, value in net.state_dict().items()}
    return state, [(row.epoch, row.loss, row.train_accuracy, row.test_accuracy) for row in rows]


def test_learns_and_writes_metrics(tiny, tmp_path):
    recipe = Recipe(epochs=12, batch=32, shift=0, flip=False)
    net, rows = train(SMALL, tiny, recipe, tmp_path)
    assert rows[-1].loss < rows[0].loss
    assert rows[-1].test_accuracy > 0.9
    assert rows[-1].test_accuracy == np.mean(labels(net, tiny.test_images) == tiny.test_labels)
    with (tmp_path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in table] == [row.test_accuracy for row in rows]
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["recipe"]["epochs"] == len(record["epochs"]) == 12


def test_resume_equals_uninterrupted_run(tiny, tmp_path):
    recipe = Recipe(epochs=4, batch=32, seed=3)
    whole = train(SMALL, tiny, recipe, tmp_path / "whole")

    def stop(epoch, step, steps):
        if (epoch, step) == (3, 2):
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        train(SMALL, tiny, recipe, tmp_path / "cut", report=stop)
    torch.manual_seed(99)
    cut = train(SMALL, tiny, recipe, tmp_path / "cut", resume=True)
    assert outcome(*cut) == outcome(*whole)
    loaded, stored, rows = checkpoint.load_trained(tmp_path / "cut" / checkpoint.NAME)
    assert stored == recipe
    assert loaded.cfg == SMALL
    assert outcome(loaded, rows) == outcome(*whole)


def test_seed_decides_the_result(tiny, tmp_path):
    runs = [
        train(SMALL, tiny, Recipe(epochs=1, batch=64, seed=seed), tmp_path / str(number))
        for number, seed in enumerate((1, 1, 2))
    ]
    assert outcome(*runs[0]) == outcome(*runs[1])
    assert outcome(*runs[0])[0] != outcome(*runs[2])[0]


def test_finished_run_is_kept(tiny, tmp_path):
    recipe = Recipe(epochs=1, batch=64)
    first = train(SMALL, tiny, recipe, tmp_path)
    with pytest.raises(ModelError, match="--resume"):
        train(SMALL, tiny, recipe, tmp_path)
    again = train(SMALL, tiny, recipe, tmp_path, resume=True)
    assert outcome(*again) == outcome(*first)


@pytest.mark.parametrize(
    ("recipe", "cfg", "name"),
    [
        (Recipe(epochs=2, batch=64), SMALL, "epochs=1, not 2"),
        (Recipe(epochs=1, batch=64, seed=5), SMALL, "seed=0, not 5"),
        (
            Recipe(epochs=1, batch=64),
            MaqdConfig(8, 1, (8, 16), (1, 2), 3, weight_states=5),
            "weight_states=3, not 5",
        ),
    ],
)
def test_resume_refuses_another_run(tiny, tmp_path, recipe, cfg, name):
    train(SMALL, tiny, Recipe(epochs=1, batch=64), tmp_path)
    with pytest.raises(ModelError, match=name):
        train(cfg, tiny, recipe, tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_damaged_checkpoint_is_one_clear_line(tiny, tmp_path, damage):
    recipe = Recipe(epochs=1, batch=64)
    train(SMALL, tiny, recipe, tmp_path)
    path = tmp_path / checkpoint.NAME
    blob = path.read_bytes()
    if damage == "other":
        torch.save({"weights": torch.zeros(1)}, path)
    else:
        path.write_bytes({"cut": blob[: len(blob) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(ModelError, match="damaged checkpoint") as caught:
        train(SMALL, tiny, recipe, tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_missing_checkpoint(tmp_path):
    with pytest.raises(ModelError, match="no checkpoint"):
        checkpoint.load_trained(tmp_path / checkpoint.NAME)


def test_learning_rate_rises_then_falls_to_zero():
    recipe = Recipe(warmup=0.1)
    assert recipe.factor(0.05) == pytest.approx(0.5)
    assert recipe.factor(0.1) == pytest.approx(1.0)
    assert recipe.factor(0.55) == pytest.approx(0.5)
    assert recipe.factor(1.0) == pytest.approx(0.0)
    assert Recipe(warmup=0.0).factor(0.0) == 1.0
    linear = Recipe(warmup=0.2, schedule="linear")
    assert [linear.factor(p) for p in (0.1, 0.2, 0.4, 1.0)] == pytest.approx([0.5, 1, 0.75, 0])


def test_augment_shifts_and_mirrors_whole_images():
    images = torch.zeros(64, 2, 9, 9, dtype=torch.uint8)
    images[:, 0, 4, 3:6] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    images[:, 1, 4, 3:6] = torch.tensor([7, 8, 9], dtype=torch.uint8)
    moved = augment(images, 2, True, torch.Generator().manual_seed(0))
    seen = set()
    for image, second in moved:
        row, col = (int(v[0]) for v in torch.where(image == 2))
        line = image[row, col - 1 : col + 2].tolist()
        assert line in ([1, 2, 3], [3, 2, 1])
        assert second[row, col - 1 : col + 2].tolist() == [v + 6 for v in line]
        assert int(image.sum()) == 6
        seen.add((row - 4, line == [3, 2, 1]))
    assert {shift for shift, _ in seen} == {-2, -1, 0, 1, 2}
    assert {mirrored for _, mirrored in seen} == {False, True}
    same = augment(images, 0, False, torch.Generator().manual_seed(0))
    assert torch.equal(same, images)


def test_cutout_blanks_one_square_of_all_channels():
    images = torch.ones(200, 3, 9, 9, dtype=torch.uint8)
    cut_out(images, 4, torch.Generator().manual_seed(0))
    sizes = set()
    for image in images:
        assert torch.equal(image[0], image[1])
        assert torch.equal(image[0], image[2])
        rows, cols = torch.where(image[0] == 0)
        height, width = (int(v.max() - v.min()) + 1 for v in (rows, cols))
        assert len(rows) == height * width
        sizes.add((height, width))
    assert max(sizes) == (4, 4)
    assert min(min(size) for size in sizes) == 2  # the part of a square that lies inside


@pytest.mark.parametrize("options", [{"optimizer": "sgd", "rate": 0.5, "decay": 1e-5}, {}])
def test_bfloat16_and_sgd_learn_and_resume(tiny, tmp_path, options):
    recipe = Recipe(epochs=30, batch=32, shift=0, flip=False, bfloat16=True, **options)
    whole = train(SMALL, tiny, recipe, tmp_path / "whole")
    assert whole[1][-1].test_accuracy > 0.8
    assert logits(whole[0], tiny.test_images).dtype == np.float32

    def stop(epoch, step, steps):
        if epoch == 20:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        train(SMALL, tiny, recipe, tmp_path / "cut", report=stop)
    cut = train(SMALL, tiny, recipe, tmp_path / "cut", resume=True)
    assert outcome(*cut) == outcome(*whole)


def test_network_can_slow_down_some_of_its_parameters(tiny, tmp_path):
    net = build(SMALL, 0)
    net.rate_scale = lambda name: 0.0 if name.startswith("blocks.0.") else 1.0
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train_network(net, tiny, Recipe(epochs=1, batch=64), tmp_path)
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("blocks.0."), name


def test_evaluation_leaves_the_mode_and_ignores_the_batch(tiny):
    torch.manual_seed(0)
    net = MaqdNet(SMALL).train()
    whole = logits(net, tiny.test_images)
    assert net.training
    assert whole.shape == (64, 3)
    assert (logits(net, tiny.test_images, batch=7).argmax(1) == whole.argmax(1)).all()


def test_fashion_net_is_ternary_with_four_states():
    net = maqd_fashion_net()
    assert net.cfg.pooled_size == 7
    # 49 pixels of at most 3 fit in 8 bits, so that the pool loses nothing.
    assert net.pooled.scale == np.float32(1 / 49)
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    for block in net.blocks:
        assert set(torch.unique(block.conv.weight_codes()).tolist()) == {-1, 0, 1}


def test_config_needs_a_stride_for_every_convolution():
    with pytest.raises(ValueError, match="stride"):
        MaqdConfig(channels=(8, 8), strides=(1,))
