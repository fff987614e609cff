"""Resumable training of image classifiers.

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
from tvm_qnn.nn.muon import Muon

Report = Callable[[int, int, int], None]
"""Called after every step with (epoch, steps done in it, steps in it)."""


def train(
    model: nn.Module,
    data: Images,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    report: Report = lambda epoch, step, steps: None,
    done: Callable[[Epoch], None] = lambda row: None,
) -> list[Epoch]:
    """Train, with a checkpoint and metrics in ``out`` after every epoch.

    Args:
        model: Network from :func:`tvm_qnn.nn.networks.build`, trained in place and left in eval
            mode. It takes ``[N, C, H, W]`` float32 in [0, 1] and returns logits. If it has a method
            ``rate_scale(name)``, the learning rate of its parameter ``name`` is multiplied with the
            result. If it has a method ``anneal(progress)``, that is called before every step, with
            the part of the training done after it (0..1).
        data: Training and test images.
        recipe: How to train. A resumed run must use the recipe it was started with.
        out: Folder for ``checkpoint.pt``, ``metrics.csv`` and ``metrics.json``; made if missing.
        resume: Go on from the checkpoint in ``out`` if there is one.
        report: Called after every step.
        done: Called after every epoch.

    Returns:
        One row per epoch. No epoch is chosen by its test accuracy.

    Raises:
        ModelError: ``out`` holds a checkpoint and ``resume`` is off, or the checkpoint is damaged
            or belongs to another recipe or network.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / checkpoint.NAME
    if path.exists() and not resume:
        raise ModelError(f"{path}: already there; pass --resume to go on or choose another --out")
    optimizer = _optimizer(model, recipe)
    rows: list[Epoch] = []
    if path.exists():
        rows = checkpoint.restore(path, model, optimizer, recipe)
    for epoch in range(len(rows) + 1, recipe.epochs + 1):
        start = time.perf_counter()
        loss, accuracy = _epoch(model, optimizer, data, recipe, epoch, report)
        test = float(np.mean(labels(model, data.test_images) == data.test_labels))
        rows.append(Epoch(epoch, loss, accuracy, test, time.perf_counter() - start))
        checkpoint.write_metrics(out, data.name, model, recipe, rows)
        checkpoint.save(path, model, optimizer, recipe, rows)
        done(rows[-1])
    model.eval()
    return rows


def logits(model: nn.Module, images: np.ndarray, batch: int = 500) -> np.ndarray:
    """Logits in eval mode.

    Args:
        model: Network that takes ``[N, C, H, W]`` float32 in [0, 1].
        images: ``[N, C, H, W]`` uint8.
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
    """uint8 images to the network's float32 in [0, 1], same shape."""
    return images.to(torch.float32).div_(255.0)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    scale = getattr(model, "rate_scale", lambda name: 1.0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        peak, decay = (recipe.rate, recipe.decay) if parameter.ndim > 1 else (recipe.norm_rate, 0.0)
        groups.setdefault((peak * scale(name), decay), []).append(parameter)
    listed = [
        {"params": parameters, "peak": peak, "lr": peak, "weight_decay": decay}
        for (peak, decay), parameters in groups.items()
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(listed)
    if recipe.optimizer == "muon":
        return Muon(listed, momentum=recipe.momentum)
    return torch.optim.SGD(listed, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


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
    if recipe.bfloat16:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    anneal = getattr(model, "anneal", lambda progress: None)
    total, right, seen = 0.0, 0, 0
    count = len(data.train_images)
    steps = max(1, count // recipe.batch)
    for step, (images, targets) in enumerate(_batches(data, recipe, generator)):
        progress = (epoch - 1 + (step + 1) / steps) / recipe.epochs
        factor = recipe.factor(progress)
        anneal(progress)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            output = model(as_input(images)).float()
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
        batch = augment(images[chosen], recipe.shift, recipe.flip, generator)
        if recipe.cutout:
            cut_out(batch, recipe.cutout, generator)
        yield batch, targets[chosen]


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift every image at random, filled with zeros, and mirror it at random.

    Args:
        images: ``[N, C, H, W]`` uint8.
        shift: Largest shift in pixels along both axes.
        flip: Whether to mirror half of the images, left to right.
        generator: Source of randomness.

    Returns:
        ``[N, C, H, W]`` uint8.
    """
    count, channels, height, width = images.shape
    rows = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator) + torch.arange(height)
    cols = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator) + torch.arange(width)
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        cols[mirrored] = cols[mirrored].flip(1)
    padded = functional.pad(images, (shift, shift, shift, shift))
    image = torch.arange(count)[:, None, None, None]
    channel = torch.arange(channels)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], cols[:, None, None, :]]


def cut_out(images: Tensor, side: int, generator: torch.Generator) -> None:
    """Blank a square at a random place of every image, in place; parts outside are cut off.

    Args:
        images: ``[N, C, H, W]`` uint8.
        side: Height and width of the square, in pixels.
        generator: Source of randomness.
    """
    count, _, height, width = images.shape

    def inside(size: int) -> Tensor:
        first = torch.randint(0, size, (count, 1), generator=generator) - side // 2
        place = torch.arange(size)
        return (place >= first) & (place < first + side)

    hole = inside(height)[:, None, :, None] & inside(width)[:, None, None, :]
    images.masked_fill_(hole, 0)
