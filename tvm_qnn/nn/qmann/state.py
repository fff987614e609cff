"""Files of memory networks: checkpoints of runs, and trained networks to export. Needs no torch."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_qnn.errors import ModelError
from tvm_qnn.nn.qmann.babi import Task
from tvm_qnn.nn.qmann.config import MATRICES, QmannConfig, QmannRecipe, Weights, parse_format

if TYPE_CHECKING:
    from tvm_qnn.nn.qmann.train import QmannRun


@dataclass(frozen=True)
class Trained:
    """A trained memory network, with what it takes to ask it.

    Attributes:
        config: The network.
        weights: Float master weights: ``wa, wr, wq [V, E]``, ``wk [E, E]`` (out, in),
            ``wo [V, E]``, float32.
        record: ``task``, ``name``, ``size``, ``seed``, ``dictionary``, ``slots``, ``words``,
            ``question_words``, ``recipe``, ``epoch``, ``validation_error``, ``test_error``
            (errors as parts of 1).
    """

    config: QmannConfig
    weights: Weights
    record: dict[str, Any]


def config_to_json(cfg: QmannConfig) -> dict[str, Any]:
    """The fields of a configuration, its format as text."""
    return {**asdict(cfg), "format": str(cfg.format) if cfg.format else None}


def config_from_json(fields: dict[str, Any]) -> QmannConfig:
    """The inverse of :func:`config_to_json`."""
    fmt = fields["format"]
    return QmannConfig(**{**fields, "format": parse_format(fmt) if fmt else None})


def save_trained(path: Path, trained: Trained) -> None:
    """Write a trained network, a numpy file of its arrays and a JSON record."""
    record = {"config": config_to_json(trained.config), **trained.record}
    _write(path, trained.weights, record)


def load_trained(path: Path) -> Trained:
    """Read a trained network.

    Raises:
        ModelError: The file is missing or no trained network.
    """
    arrays, record = _read(path)
    try:
        config = config_from_json(record.pop("config"))
        weights = {name: arrays[name] for name in MATRICES}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: no trained memory network ({error}); train it again") from error
    return Trained(config, weights, record)


def task_record(task: Task) -> dict[str, Any]:
    """What a trained network has to know of its task."""
    return {
        "task": task.number,
        "name": task.name,
        "size": task.size,
        "dictionary": list(task.dictionary),
        "slots": task.slots,
        "words": task.train.story.shape[2],
        "question_words": task.train.question.shape[1],
    }


def describe(cfg: QmannConfig, recipe: QmannRecipe, task: Task, seeds: list[int]) -> dict[str, Any]:
    """What must not change between the parts of a run."""
    return {
        "config": config_to_json(cfg),
        "recipe": asdict(recipe),
        "task": task.number,
        "size": task.size,
        "seeds": seeds,
    }


def save(path: Path, about: dict[str, Any], runs: list[QmannRun]) -> None:
    """Write a checkpoint; ``path`` always holds a whole one, whenever the run is cut off."""
    arrays = {}
    for run in runs:
        for name in MATRICES:
            arrays[f"{run.seed}.last.{name}"] = run.weights[name]
            arrays[f"{run.seed}.best.{name}"] = run.best[name]
    rows = {
        str(run.seed): {
            "epochs": [asdict(row) for row in run.epochs],
            "best_epoch": run.best_epoch,
            "stopped": run.stopped,
        }
        for run in runs
    }
    _write(path, arrays, {**about, "runs": rows})


def restore(path: Path, about: dict[str, Any], resume: bool) -> list[QmannRun] | None:
    """Read a checkpoint; None if there is none.

    Raises:
        ModelError: It exists and ``resume`` is off, or it is damaged or of another run.
    """
    from tvm_qnn.nn.qmann.train import QmannEpoch, QmannRun

    if not path.exists():
        return None
    if not resume:
        raise ModelError(f"{path}: already there; resume it or choose another file")
    arrays, record = _read(path)
    changed = [key for key in about if record.get(key) != about[key]]
    if changed:
        raise ModelError(
            f"{path}: was trained with {changed[0]} {record.get(changed[0])}, not "
            f"{about[changed[0]]}; resume with the same options or choose another file"
        )
    runs = []
    for seed in about["seeds"]:
        rows = record["runs"][str(seed)]
        last, best = (
            {name: arrays[f"{seed}.{kind}.{name}"] for name in MATRICES}
            for kind in ("last", "best")
        )
        epochs = [QmannEpoch(**row) for row in rows["epochs"]]
        runs.append(QmannRun(seed, last, best, epochs, rows["best_epoch"], rows["stopped"]))
    return runs


def _write(path: Path, arrays: Weights, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        members: dict[str, Any] = {**arrays, "record": np.array(json.dumps(record))}
        np.savez(file, **members)
        file.flush()
        os.fsync(file.fileno())
    # The old file stays whole until the new one is on disk.
    os.replace(partial, path)


def _read(path: Path) -> tuple[Weights, dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        record = json.loads(str(arrays.pop("record")))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; train first") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: damaged ({error}); delete it and train again") from error
    return arrays, record
