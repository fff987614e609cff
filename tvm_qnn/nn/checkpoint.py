"""Recipes, checkpoints and metrics of training runs."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tvm_qnn.errors import ModelError
from tvm_qnn.nn.networks import config, config_of, fields_of

NAME = "checkpoint.pt"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a training run besides data, network and machine.

    Attributes:
        epochs: Passes over the training images.
        seed: Seed of weights, order and augmentation.
        batch: Images in a step; a rest smaller than this is left out of the epoch.
        optimizer: "adamw", "sgd" with Nesterov momentum, or "muon" (:mod:`tvm_qnn.nn.muon`).
        rate: Peak learning rate of weights (parameters of two or more axes).
        norm_rate: Peak learning rate of all other parameters (gains, biases, levels).
        momentum: Momentum of "sgd" and "muon".
        decay: Weight decay of weights; other parameters have none.
        schedule: How the rate falls to zero after the warm-up: "cosine" or "linear".
        warmup: Part of all steps in which the rate rises linearly.
        smoothing: Label smoothing.
        shift: Largest random shift in pixels, along both axes, filled with zeros.
        flip: Whether images are mirrored at random.
        cutout: Side of the square that is blanked at a random place of each image, in pixels.
        bfloat16: Whether convolutions and matrix products run in bfloat16, channels last. About
            twice as fast on processors that have it; evaluation is always float32.
    """

    epochs: int = 30
    seed: int = 0
    batch: int = 128
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    rate: float = 0.03
    norm_rate: float = 0.02
    momentum: float = 0.9
    decay: float = 0.0
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: float = 0.02
    smoothing: float = 0.05
    shift: int = 1
    flip: bool = True
    cutout: int = 0
    bfloat16: bool = False

    def factor(self, progress: float) -> float:
        """Learning rate relative to its peak after the part ``progress`` (0..1) of all steps."""
        if progress < self.warmup:
            return progress / self.warmup
        left = (1 - progress) / (1 - self.warmup)
        return left if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: one row of ``metrics.csv``.

    Attributes:
        epoch: 1-based number.
        loss: Mean training loss, label smoothing included.
        train_accuracy: Part of the augmented training images labelled right while training.
        test_accuracy: Part of the test images labelled right afterwards.
        seconds: Wall time.
    """

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float


def load_trained(path: Path) -> tuple[nn.Module, Recipe, list[Epoch]]:
    """Network (in eval mode), recipe and finished epochs of a checkpoint, or of a run's folder.

    Raises:
        ModelError: The checkpoint is missing or damaged.
    """
    state = _read(path / NAME if path.is_dir() else path)
    model = state["network"].build()
    model.load_state_dict(state["model"])
    return model.eval(), state["recipe"], [Epoch(**row) for row in state["epochs"]]


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    rows: list[Epoch],
) -> None:
    """Write a checkpoint so that ``path`` always holds a whole one, whenever the run is cut off."""
    state = {
        "network": fields_of(config(model)),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "recipe": asdict(recipe),
        "epochs": [asdict(row) for row in rows],
    }
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    # The old checkpoint stays whole until the new one is on disk.
    os.replace(partial, path)


def restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> list[Epoch]:
    """Load a checkpoint into ``model`` and ``optimizer``; return the finished epochs.

    Raises:
        ModelError: The checkpoint is damaged or belongs to another recipe or network.
    """
    state = _read(path)
    before = {**fields_of(state["network"]), **asdict(state["recipe"])}
    now = {**fields_of(config(model)), **asdict(recipe)}
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise ModelError(
            f"{path}: was trained with {changed[0]}={before.get(changed[0])}, not "
            f"{now[changed[0]]}; resume with the same options or choose another --out"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return [Epoch(**row) for row in state["epochs"]]


def write_metrics(
    out: Path, data: str, model: nn.Module, recipe: Recipe, rows: list[Epoch]
) -> None:
    """Write ``metrics.csv`` (a row an epoch) and ``metrics.json`` (with recipe and versions)."""
    with (out / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    record = {
        "data": data,
        "network": fields_of(config(model)),
        "recipe": asdict(recipe),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "epochs": [asdict(row) for row in rows],
    }
    (out / "metrics.json").write_text(json.dumps(record, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not {"network", "model", "optimizer", "recipe", "epochs"} <= set(state):
            raise ValueError("not a checkpoint of this package")
        state["network"], state["recipe"] = config_of(state["network"]), Recipe(**state["recipe"])
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no checkpoint there; train first") from error
    except Exception as error:  # damaged bytes lead the unpickler anywhere
        raise ModelError(f"{path}: damaged checkpoint; delete it and train again") from error
    return state
