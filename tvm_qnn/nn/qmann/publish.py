"""Put a trained memory network into a zoo folder: ONNX file, real questions, and its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tvm_qnn.errors import ModelError
from tvm_qnn.nn import export, publish
from tvm_qnn.nn.qmann import babi
from tvm_qnn.nn.qmann.config import QmannConfig
from tvm_qnn.nn.qmann.export import trained_to_onnx
from tvm_qnn.nn.qmann.state import Trained, load_trained
from tvm_qnn.nn.qmann.train import logits

NOTICE = (
    "The sample questions are from the bAbI tasks data v1.2 (Jason Weston, Antoine Bordes, Sumit "
    "Chopra, Alexander M. Rush, Bart van Merriënboer, Armand Joulin, Tomas Mikolov: Towards "
    "AI-Complete Question Answering, 2015), encoded as numbers of words.\n\n"
    "Copyright (c) 2015-present, Facebook, Inc. All rights reserved. Licensed under Creative "
    "Commons Attribution 3.0 Unported (https://creativecommons.org/licenses/by/3.0/)."
)
SOURCE = (
    "Q-MANN (Park et al., Quantized Memory-Augmented Neural Networks, AAAI 2018, arXiv "
    "1711.03712), as the paper and its supplement describe it; the arithmetic is that of "
    "tvm_qnn.spec.fixed."
)


def publish_network(
    trained: Path, data: Path, zoo: Path, name: str, samples: int = publish.SAMPLES
) -> dict[str, Any]:
    """Export a trained network, measure it on all test questions and write its zoo record.

    Writes ``NAME.onnx`` (batch size 1), ``NAME.npz`` (the first test questions: ``story``,
    ``question`` and the numbers of the answers as ``labels``) and the record in ``zoo.json``; other
    records stay.

    Args:
        trained: file of :func:`tvm_qnn.nn.qmann.state.save_trained`.
        data: folder with the official files of the bAbI tasks.
        zoo: folder to write to; made if missing.
        name: of the model in the zoo.
        samples: number of test questions to put next to the model.

    Returns:
        The record.

    Raises:
        ModelError: if the file is missing or damaged, or as :func:`write` says.
        DataError: if the data is missing or is not the official one.
    """
    found = load_trained(trained)
    task = babi.load(data, int(found.record["task"]), str(found.record["size"]))
    return write(found, task, zoo, name, samples)


def write(
    found: Trained, task: babi.Task, zoo: Path, name: str, samples: int = publish.SAMPLES
) -> dict[str, Any]:
    """Publish a network that was trained on a task; see :func:`publish_network`.

    Raises:
        ModelError: if it was trained with another dictionary, or the export does not give the
            logits of PyTorch bit for bit (the answers of a float network).
    """
    if list(task.dictionary) != list(found.record["dictionary"]):
        raise ModelError(f"{name}: was trained with another dictionary than task {task.number} has")
    file = zoo / f"{name}.onnx"
    export.save(trained_to_onnx(found, name=name), file)
    questions = task.test
    given = runtime_logits(file, questions)
    wanted = logits(found.config, [found.weights], questions, engine="torch")[0]
    same = given == wanted if found.config.format else given.argmax(1) == wanted.argmax(1)
    if not same.all():
        file.unlink()
        raise ModelError(
            f"{file}: ONNX Runtime and PyTorch differ in {int((~same).sum())} of {same.size} "
            "values; do not ship this model"
        )
    np.savez_compressed(
        zoo / f"{name}.npz",
        story=questions.story[:samples],
        question=questions.question[:samples],
        labels=questions.answer[:samples].astype(np.uint8),
    )
    record = {
        "name": name,
        "file": file.name,
        "samples_file": f"{name}.npz",
        "task": f"bAbI {task.number} ({task.name}): answer a question about a story",
        **described(found.config),
        "test_accuracy": float(np.mean(given.argmax(axis=1) == questions.answer)),
        "test_samples": len(questions),
        **publish.identity(file),
        "source": SOURCE,
        "recipe": _recipe(found),
        "protocol": _protocol(found, len(questions)),
        "training": {**found.record["recipe"], "epoch": found.record["epoch"]},
        "check": {"logits_that_differ_from_pytorch": int((given != wanted).sum())},
        "versions": publish.versions(),
        "data_notice": NOTICE,
    }
    publish.add_record(zoo, record)
    return record


def runtime_logits(path: Path, questions: babi.Questions) -> np.ndarray:
    """Return the logits [N, A] that ONNX Runtime gives for a file of batch size 1."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rows = [
        session.run(None, {"story": questions.story[i : i + 1], "question": asked})[0]
        for i, asked in enumerate(questions.question[:, None, :])
    ]
    return np.concatenate(rows)


def described(cfg: QmannConfig) -> dict[str, str]:
    """Return what the zoo says about the weights and activations of a configuration."""
    if cfg.format is None:
        kind, weights, activations = "MemN2N", "float32", "float32"
    else:
        kind = "Q-MANN" if cfg.similarity == "hamming" else "MANN"
        bits, formats = cfg.format.bits, sorted({str(f) for f in cfg.hop_formats()})
        weights = f"{bits}-bit fixed point ({', '.join(formats)}), output layer float32"
        activations = f"{bits}-bit fixed point ({cfg.format})"
        if cfg.binary:
            activations = f"binary keys, memory and sums {activations}"
    similarity = "Hamming similarity" if cfg.similarity == "hamming" else "dot products"
    return {
        "weights": weights,
        "activations": activations,
        "description": (
            f"{kind}: memory network of {cfg.hops} reads with {similarity}, "
            f"{cfg.embedding} dimensions"
        ),
    }


def _recipe(found: Trained) -> str:
    record, cfg = found.record, found.config
    options = [f"--similarity {cfg.similarity}"] if cfg.format else ["--format float"]
    if cfg.format:
        options.insert(0, f"--format {cfg.format}")
    options += ["--binary"] * cfg.binary + ["--control"] * cfg.control
    if cfg.similarity == "hamming" and cfg.read_gradient != "float":
        options.append(f"--read-gradient {cfg.read_gradient}")
    return (
        f"tvm-qnn train qmann --data DIR --out DIR --task {record['task']} --seed {record['seed']} "
        f"{' '.join(options)}"
    )


def _protocol(found: Trained, questions: int) -> str:
    record = found.record
    epochs = record["recipe"]["epochs"]
    chosen = ""
    if record["epoch"] < epochs:
        chosen = ", the one with the lowest error and loss on the validation questions"
    return (
        f"bAbI v1.2, {record['size']} training questions of this task alone, the last 10 % of them "
        f"for validation. Weights after epoch {record['epoch']} of {epochs}{chosen}. Seed "
        f"{record['seed']}. All {questions:,} official test questions, one at a time, ONNX Runtime "
        "on the CPU; the largest logit is the answer. PyTorch in eval mode gives the same answers."
    )
