"""Resumable training of memory networks, several seeds of one task side by side.

Nothing is random but the initial weights, and the seeds never meet: a seed trained in company
equals the same seed alone, a resumed run an uninterrupted one, bit for bit (with the compiled
kernel; PyTorch's batched products may round otherwise).

Early stopping (ES) only chooses an epoch, so one run answers for both: its last weights are the
result without ES, its best weights the result with ES.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tvm_qnn.nn.qmann import native
from tvm_qnn.nn.qmann import state as storage
from tvm_qnn.nn.qmann.babi import Questions, Task
from tvm_qnn.nn.qmann.config import MATRICES, QmannConfig, QmannRecipe, Weights
from tvm_qnn.nn.qmann.network import QmannNet, initial

Engine = Literal["native", "torch"]


@dataclass(frozen=True)
class QmannEpoch:
    """What one epoch of one seed gave; errors are parts of 1.

    Attributes:
        epoch: Counted from 1.
        loss: Mean cross entropy on the training questions, while training.
        error: Part of the training questions answered wrong, while training.
        validation_loss: Mean cross entropy on the validation questions afterwards.
        validation_error: Part of them answered wrong.
    """

    epoch: int
    loss: float
    error: float
    validation_loss: float
    validation_error: float


@dataclass
class QmannRun:
    """One seed in training.

    Attributes:
        seed: Seed of the initial weights.
        weights: ``wa, wr, wq, wo [V, E]`` and ``wk [E, E]`` (out, in), float32, after the last
            epoch.
        best: Those of the epoch that early stopping chooses.
        epochs: One row for every epoch that was trained.
        best_epoch: Epoch of ``best``; 0 before the first.
        stopped: Epoch in which early stopping ends the run; 0 if it never does.
    """

    seed: int
    weights: Weights
    best: Weights
    epochs: list[QmannEpoch] = field(default_factory=list)
    best_epoch: int = 0
    stopped: int = 0

    def add(self, row: QmannEpoch, recipe: QmannRecipe) -> None:
        """Record an epoch, and let early stopping decide on it."""
        self.epochs.append(row)
        if self.stopped:
            return
        best = self.epochs[self.best_epoch - 1] if self.best_epoch else row
        # A loss that is not a number is beaten by any that is.
        lost = math.isnan(best.validation_loss)
        if best is row or (
            row.validation_error <= best.validation_error
            and (
                row.validation_loss <= best.validation_loss
                or lost > math.isnan(row.validation_loss)
            )
        ):
            self.best, self.best_epoch = self.weights, row.epoch
        elif (
            row.epoch - self.best_epoch > recipe.patience
            and best.validation_error + recipe.margin < row.validation_error
        ):
            self.stopped = row.epoch


Report = Callable[[int, list[QmannRun]], None]
"""Called after every epoch with its number and all runs."""


def train(
    cfg: QmannConfig,
    recipe: QmannRecipe,
    task: Task,
    seeds: list[int],
    *,
    stop: bool = False,
    state: Path | None = None,
    resume: bool = False,
    every: int = 1,
    engine: Engine | None = None,
    report: Report = lambda epoch, runs: None,
) -> list[QmannRun]:
    """Train one network a seed.

    Args:
        cfg: The network.
        recipe: How to train.
        task: Its questions; the test questions are not looked at.
        seeds: One for each network.
        stop: Do not train a seed further that early stopping has ended.
        state: Checkpoint file, written after every ``every`` epochs and at the end.
        resume: Go on from ``state`` if it exists.
        every: Epochs between checkpoints.
        engine: "native" for the compiled kernel, "torch" for PyTorch; None takes the kernel where
            it can be had.
        report: Called after every epoch.

    Returns:
        The runs, in the order of the seeds.

    Raises:
        ModelError: ``state`` exists and ``resume`` is off, or it is damaged or of another run.
    """
    engine = engine or ("native" if native.supported(cfg) else "torch")
    about = storage.describe(cfg, recipe, task, seeds)
    runs = storage.restore(state, about, resume) if state else None
    if runs is None:
        start = initial(cfg, task.vocabulary, seeds, recipe.deviation)
        networks = [{name: start[name][i] for name in MATRICES} for i in range(len(seeds))]
        runs = [QmannRun(seed, w, w) for seed, w in zip(seeds, networks, strict=True)]
    done = max((len(run.epochs) for run in runs), default=0)
    for epoch in range(done + 1, recipe.epochs + 1):
        active = [run for run in runs if not (stop and run.stopped)]
        if not active:
            break
        _epoch(cfg, recipe, task, active, epoch, engine)
        if state and (epoch % every == 0 or epoch == recipe.epochs):
            storage.save(state, about, runs)
        report(epoch, runs)
    return runs


def trained(
    cfg: QmannConfig, recipe: QmannRecipe, task: Task, run: QmannRun, best: bool
) -> storage.Trained:
    """What a run leaves, with its error on the test questions.

    Args:
        cfg: The network.
        recipe: How it was trained.
        task: Its questions.
        run: A finished run.
        best: Take the epoch that early stopping chooses instead of the last one.
    """
    epoch = run.best_epoch if best else len(run.epochs)
    weights = run.best if best else run.weights
    _, error = score(logits(cfg, [weights], task.test)[0], task.test.answer)
    record = {
        **storage.task_record(task),
        "recipe": asdict(recipe),
        "seed": run.seed,
        "epoch": epoch,
        "validation_error": run.epochs[epoch - 1].validation_error,
        "test_error": error,
    }
    return storage.Trained(cfg, weights, record)


def logits(
    cfg: QmannConfig, weights: list[Weights], data: Questions, engine: Engine | None = None
) -> np.ndarray:
    """Logits ``[S, N, V]`` float32 in eval mode, of the networks ``weights``."""
    engine = engine or ("native" if native.supported(cfg) else "torch")
    if engine == "native":
        return np.stack([native.infer(cfg, one, data)[0] for one in weights])
    net = QmannNet(cfg, _stacked(weights)).eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(data), 250):
            part = data.part(start, start + 250)
            parts.append(net(torch.from_numpy(part.story), torch.from_numpy(part.question)))
    return torch.cat(parts, dim=1).numpy()


def score(logit: np.ndarray, answer: np.ndarray) -> tuple[float, float]:
    """Mean cross entropy and error (part of 1) of the logits ``[N, V]`` of one network."""
    values = logit.astype(np.float64)
    top = values.max(axis=1, keepdims=True)
    own = np.take_along_axis(values, answer[:, None], axis=1)
    with np.errstate(invalid="ignore"):
        loss = np.log(np.exp(values - top).sum(axis=1)) - (own - top)[:, 0]
    return float(loss.mean()), float(np.mean(logit.argmax(axis=1) != answer))


def _epoch(
    cfg: QmannConfig,
    recipe: QmannRecipe,
    task: Task,
    runs: list[QmannRun],
    epoch: int,
    engine: Engine,
) -> None:
    weights = [run.weights for run in runs]
    if engine == "native":
        trained = [native.train_epoch(cfg, recipe, one, task.train, epoch) for one in weights]
    else:
        trained = torch_epoch(cfg, recipe, weights, task.train, epoch)
    known = logits(cfg, [one for one, _, _ in trained], task.validation, engine)
    for run, (new, loss, error), logit in zip(runs, trained, known, strict=True):
        run.weights = new
        run.add(QmannEpoch(epoch, loss, error, *score(logit, task.validation.answer)), recipe)


def torch_epoch(
    cfg: QmannConfig, recipe: QmannRecipe, weights: list[Weights], data: Questions, epoch: int
) -> list[tuple[Weights, float, float]]:
    """What :func:`tvm_qnn.nn.qmann.native.train_epoch` does, for several networks in PyTorch."""
    net = QmannNet(cfg, _stacked(weights)).train()
    step = recipe.step(epoch)
    loss, wrong = np.zeros(len(weights)), np.zeros(len(weights))
    for start in range(0, len(data), recipe.batch):
        part = data.part(start, start + recipe.batch)
        logit = net(torch.from_numpy(part.story), torch.from_numpy(part.question))
        answer = torch.from_numpy(part.answer).long().expand(len(weights), -1)
        losses = torch.nn.functional.cross_entropy(logit.mT, answer, reduction="none")
        net.zero_grad()
        losses.sum().backward()
        for name, parameter in net.named_parameters():
            gradient = parameter.grad
            if gradient is None:
                raise AssertionError(f"{name} has no gradient")
            key = name == "wk"
            norm = gradient.norm(dim=(1, 2), keepdim=True)
            clip = (recipe.key_clip if key else recipe.clip) / norm
            rate = step * (recipe.key_rate if key else 1.0)
            parameter.data -= rate * clip.clamp(max=1.0) * gradient
        loss += losses.detach().sum(1).double().numpy()
        wrong += (logit.argmax(2) != answer).sum(1).numpy()
    new = {name: getattr(net, name).detach().numpy() for name in MATRICES}
    means = [(float(x / len(data)), float(y / len(data))) for x, y in zip(loss, wrong, strict=True)]
    return [({name: new[name][i] for name in MATRICES}, *mean) for i, mean in enumerate(means)]


def _stacked(weights: list[Weights]) -> Weights:
    return {name: np.stack([one[name] for one in weights]) for name in MATRICES}
