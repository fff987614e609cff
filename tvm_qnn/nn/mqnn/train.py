"""How MQNN is trained: full precision first, then M-ary from its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from tvm_qnn.errors import ModelError
from tvm_qnn.nn import checkpoint
from tvm_qnn.nn.checkpoint import Recipe
from tvm_qnn.nn.data import Images
from tvm_qnn.nn.mqnn.network import CIFAR, MqnnConfig, MqnnNet
from tvm_qnn.nn.networks import build

FULL = Recipe(epochs=12, rate=3e-3, norm_rate=3e-3, decay=0.01, warmup=0.05, bfloat16=True)
"""Full precision, from random weights, grey images."""
FULL_COLOUR = replace(
    FULL,
    optimizer="sgd",
    rate=0.2,
    norm_rate=0.2,
    decay=5e-4,
    warmup=0.2,
    schedule="linear",
    smoothing=0.1,
    shift=2,
)
"""Full precision, from random weights, colour images."""
TUNING = replace(FULL, epochs=6, rate=2e-3, norm_rate=2e-3, decay=0.0)
"""From weights trained before."""


def shape(data: Images) -> MqnnConfig:
    """The network for a data set: a larger one for colour images."""
    channels, size = data.train_images.shape[1:3]
    base = CIFAR if channels == 3 else MqnnConfig()
    return replace(base, image_channels=channels, image_size=size)


def recipe(data: Images, tuned: bool, epochs: int | None = None, seed: int = 0) -> Recipe:
    """Recipe for a data set: colour images shift further, and digits are not mirrored.

    Args:
        data: What to train on.
        tuned: Whether to start from weights trained before.
        epochs: Number of epochs instead of the recipe's own.
        seed: Seed of everything random.
    """
    colour = data.train_images.shape[1] == 3
    start = TUNING if tuned else FULL_COLOUR if colour else FULL
    return replace(
        start,
        epochs=epochs or start.epochs,
        seed=seed,
        shift=FULL_COLOUR.shift if colour else FULL.shift,
        flip=data.name != "mnist",
    )


def network(cfg: MqnnConfig, seed: int, pretrained: Path | None = None) -> MqnnNet:
    """A new network, or one that starts from trained weights by k-means.

    Args:
        cfg: Shape and options.
        seed: Seed of its random weights.
        pretrained: Checkpoint of a network of the same shape, usually in full precision.

    Raises:
        ModelError: The checkpoint is missing, damaged, or of another kind or shape.
    """
    net = cast("MqnnNet", build(cfg, seed))
    if pretrained is not None:
        given, _, _ = checkpoint.load_trained(pretrained)
        if not isinstance(given, MqnnNet):
            raise ModelError(
                f"{pretrained}: not an MQNN network; give one made by 'tvm-qnn train mqnn'"
            )
        net.start_from(given)
    return net
