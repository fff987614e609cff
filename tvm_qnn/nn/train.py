"""Resumable training of the networks in :mod:`tvm_qnn.nn.models` on grey images.

Everything random in an epoch comes from a generator seeded with (seed, epoch), so that a resumed
run equals an uninterrupted one bit for bit on the same machine and thread count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tvm_qnn.errors import ModelError
from tvm_qnn.nn import checkpoint
from tvm_qnn.nn.checkpoint import Epoch, Recipe
from tvm_qnn.nn.data import Images
from tvm_qnn.nn.maqd import LayerBatchNorm
from tvm_qnn.nn.models import MaqdConfig, MaqdNet

Report = Callable[[int, int, int], None]
"""Called after every step with (epoch, steps done in it, steps in it)."""


def train(
    cfg: MaqdConfig,
    data: Images,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    report: Report = lambda epoch, step, steps: None,
    done: Callable[[Epoch], None] = lambda row: None,
) -> tuple[MaqdNet, list[Epoch]]:
    """Train, with a checkpoint and metrics in ``out`` after every epoch.

    Args:
        cfg: Shape of the network.
        data: Training and test images.
        recipe: How to train. A resumed run must use the recipe it was started with.
        out: Folder for ``checkpoint.pt``, ``metrics.csv`` and ``metrics.json``; made if missing.
        resume: Go on from the checkpoint in ``out`` if there is one.
        report: Called after every step.
        done: Called after every epoch.

    Returns:
        The network after the last epoch, in eval mode, and one row per epoch. No epoch is chosen
        by its test accuracy.

    Raises:
        ModelError: ``out`` holds a checkpoint and ``resume`` is off, or the checkpoint is damaged
            or belongs to another recipe or network.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / checkpoint.NAME
    if path.exists() and not resume:
        raise ModelError(f"{path}: already there; pass --resume to go on or choose another --out")
    torch.manual_seed(recipe.seed)
    model = MaqdNet(cfg)
    optimizer = _optimizer(model, recipe)
    rows: list[Epoch] = []
    if path.exists():
        rows = checkpoint.restore(path, model, optimizer, recipe)
    for epoch in range(len(rows) + 1, recipe.epochs + 1):
        start = time.perf_counter()
        loss, accuracy = _epoch(model, optimizer, data, recipe, epoch, report)
        test = float(np.mean(labels(model, data.test_images) == data.test_labels))
        rows.append(Epoch(epoch, loss, accuracy, test, time.perf_counter() - start))
        checkpoint.write_metrics(out, data.name, recipe, rows)
        checkpoint.save(path, model, optimizer, recipe, rows)
        done(rows[-1])
    return model.eval(), rows


def logits(model: nn.Module, images: np.ndarray, batch: int = 500) -> np.ndarray:
    """Logits in eval mode.

    Args:
        model: Network that takes ``[N, 1, H, W]`` float32 in [0, 1].
        images: ``[N, H, W]`` uint8.
        batch: Images evaluated at once.

    Returns:
        ``[N, classes]`` float32.
    """
    training = model.training
    model.eval()
    with torch.no_grad():
        parts = [
            model(as_input(torch.from_numpy(images[i : i + batch].copy()))).numpy()
            for i in range(0, len(images), batch)
        ]
    model.train(training)
    return np.concatenate(parts)


def labels(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Class of the largest logit (the first one in a tie), ``[N]`` int64."""
    return logits(model, images).argmax(axis=1)


def as_input(images: Tensor) -> Tensor:
    """``[N, H, W]`` uint8 to the network's ``[N, 1, H, W]`` float32 in [0, 1]."""
    return images.unsqueeze(1).to(torch.float32).div_(255.0)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    norms = {
        id(p) for m in model.modules() if isinstance(m, LayerBatchNorm) for p in m.parameters()
    }
    latent = [p for p in model.parameters() if id(p) not in norms]
    affine = [p for p in model.parameters() if id(p) in norms]
    groups = [
        {"params": latent, "peak": recipe.rate},
        {"params": affine, "peak": recipe.norm_rate},
    ]
    # Standardization makes the loss blind to the size of the latent weights: no weight decay.
    return torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=0.0)


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Images,
    recipe: Recipe,
    epoch: int,
    report: Report,
) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    model.train()
    total, right, seen = 0.0, 0, 0
    count = len(data.train_images)
    steps = max(1, count // recipe.batch)
    for step, (images, targets) in enumerate(_batches(data, recipe, generator)):
        factor = recipe.factor((epoch - 1 + (step + 1) / steps) / recipe.epochs)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.zero_grad()
        output = model(as_input(images))
        loss = functional.cross_entropy(output, targets, label_smoothing=recipe.smoothing)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(targets)
        right += int((output.detach().argmax(dim=1) == targets).sum())
        seen += len(targets)
        report(epoch, step + 1, steps)
    return total / seen, right / seen


def _batches(
    data: Images, recipe: Recipe, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    images = torch.from_numpy(data.train_images.copy())
    targets = torch.from_numpy(data.train_labels.astype(np.int64))
    size = min(recipe.batch, len(images))
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(images) - size + 1, size):
        chosen = order[start : start + size]
        yield augment(images[chosen], recipe.shift, recipe.flip, generator), targets[chosen]


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift every image at random, filled with zeros, and mirror it at random.

    Args:
        images: ``[N, H, W]`` uint8.
        shift: Largest shift in pixels along both axes.
        flip: Whether to mirror half of the images, left to right.
        generator: Source of randomness.

    Returns:
        ``[N, H, W]`` uint8.
    """
    count, height, width = images.shape
    rows = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator) + torch.arange(height)
    cols = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator) + torch.arange(width)
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        cols[mirrored] = cols[mirrored].flip(1)
    padded = functional.pad(images, (shift, shift, shift, shift))
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], cols[:, None, :]]
