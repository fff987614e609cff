"""How MaQD is trained: full precision, then few states from its weights, then on from these."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from tvm_qnn.errors import ModelError
from tvm_qnn.nn import checkpoint
from tvm_qnn.nn.checkpoint import Recipe
from tvm_qnn.nn.data import Images
from tvm_qnn.nn.maqd.networks import MaqdResNet, MaqdVgg, ResNetConfig, VggConfig
from tvm_qnn.nn.maqd.small import MaqdConfig
from tvm_qnn.nn.maqd.start import start_from
from tvm_qnn.nn.networks import build, config
from tvm_qnn.nn.train import as_input

NETWORKS: dict[str, Any] = {"small": MaqdConfig, "vgg": VggConfig, "resnet": ResNetConfig}
"""Shape of every network, by the name that a user gives it."""
SMALL = Recipe()
"""The small network."""
FULL = Recipe(
    epochs=20, batch=256, optimizer="muon", rate=0.1, norm_rate=0.02, decay=0.05,
    schedule="linear", warmup=0.05, smoothing=0.1, shift=3, cutout=8, bfloat16=True,
)  # fmt: skip
"""The other networks in full precision."""
QUANTIZED = replace(FULL, rate=0.03, norm_rate=0.05, decay=0.0, shift=2, cutout=0)
"""The other networks with few states."""
TUNING = replace(QUANTIZED, shift=FULL.shift, cutout=FULL.cutout)
"""On from few states: a network that has learned its images needs others to learn more."""
CALIBRATION_IMAGES = 500


def recipe(
    network: str, data: Images, base: Recipe, epochs: int | None = None, seed: int = 0
) -> Recipe:
    """Recipe of a network of :data:`NETWORKS`; digits are not mirrored.

    Args:
        network: Its name.
        data: What to train on.
        base: :data:`FULL`, :data:`QUANTIZED` or :data:`TUNING`; the small network has its own.
        epochs: Number of epochs instead of the recipe's own.
        seed: Seed of everything random.
    """
    base = SMALL if network == "small" else base
    return replace(base, epochs=epochs or base.epochs, seed=seed, flip=data.name != "mnist")


def network(
    cfg: VggConfig | ResNetConfig, seed: int, data: Images, pretrained: Path
) -> tuple[MaqdVgg | MaqdResNet, Recipe]:
    """Return a network with few states that starts from a trained one, and the recipe for that.

    Args:
        cfg: Shape and options.
        seed: Seed of what the other does not give.
        data: Training images, of which a few hundred are seen.
        pretrained: Checkpoint of the full-precision twin, or of the network itself.

    Raises:
        ModelError: The checkpoint is missing, damaged, or of another network.
    """
    twin, _, _ = checkpoint.load_trained(pretrained)
    if config(twin) == cfg:
        return cast("MaqdVgg | MaqdResNet", twin), TUNING
    if config(twin) != cfg.full_precision():
        raise ModelError(
            f"{pretrained}: neither this network nor its full-precision twin; make the twin with "
            "the same options and --weight-states 0"
        )
    net = cast("MaqdVgg | MaqdResNet", build(cfg, seed))
    images = torch.from_numpy(data.train_images[:CALIBRATION_IMAGES].copy())
    start_from(net, twin, as_input(images))
    return net, QUANTIZED
