"""Put a trained network into a zoo folder: ONNX file, samples, and a record of the measurement."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from tvm_qnn._version import __version__
from tvm_qnn.errors import ModelError
from tvm_qnn.nn import checkpoint, export
from tvm_qnn.nn.check import Agreement, compare, rounding_margin
from tvm_qnn.nn.data import Images
from tvm_qnn.nn.models import MaqdNet

NAME = "maqd-fashion"
SAMPLES = 256
SOURCE = (
    "MaQD (arXiv 2403.14999), reconstructed from its abstract and secondary descriptions; "
    "no number of the paper is claimed. Assumptions: see tvm_qnn/nn/maqd.py."
)
NOTICE = """\
The sample images are from Fashion-MNIST (repository zalandoresearch/fashion-mnist).

The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def publish(run: Path, data: Images, zoo: Path, samples: int = SAMPLES) -> tuple[dict, Agreement]:
    """Export the network of a run, measure it on all test images and write its zoo record.

    Writes ``maqd-fashion.onnx`` (batch size 1), ``maqd-fashion.npz`` (the first test images as
    uint8 and their labels) and the record in ``zoo.json``; other records stay.

    Args:
        run: Output folder of a training run.
        data: Fashion-MNIST.
        zoo: Folder to write to; made if missing.
        samples: Number of test images to put next to the model.

    Returns:
        The record, and how the export agrees with PyTorch.

    Raises:
        ModelError: The checkpoint is missing or damaged, or the export gives other labels than
            PyTorch.
    """
    net, recipe, rows = checkpoint.load_trained(run / checkpoint.NAME)
    file = zoo / f"{NAME}.onnx"
    export.save(export.to_onnx(net), file)
    agreement = compare(net, file, data.test_images)
    if agreement.different:
        raise ModelError(
            f"{file}: ONNX Runtime and PyTorch label {len(agreement.different)} of "
            f"{agreement.images} test images differently (image {agreement.different[0]} first); "
            "do not ship this model"
        )
    images = data.test_images[:samples, None]
    np.savez_compressed(
        zoo / f"{NAME}.npz", image=images, labels=data.test_labels[:samples].astype(np.uint8)
    )
    accuracy = float(np.mean(agreement.runtime_labels == data.test_labels))
    record = {
        **_description(net, data),
        "test_accuracy": accuracy,
        "test_images": len(data.test_images),
        "size_bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "source": SOURCE,
        "recipe": (
            f"tvm-qnn train maqd --data DIR --out DIR --epochs {recipe.epochs} "
            f"--seed {recipe.seed} --weight-states {net.cfg.weight_states} "
            f"--activation-states {net.cfg.activation_states} --threads 1"
        ),
        "protocol": (
            f"Network after epoch {len(rows)} of {recipe.epochs}; no epoch is chosen by its "
            f"accuracy. One seed. All {len(data.test_images):,} official test images, one at a "
            "time, ONNX Runtime on the CPU; the largest logit is the label. PyTorch in eval mode "
            "gives the same label for every image."
        ),
        "training": {**asdict(recipe), "epochs_done": len(rows)},
        "check": {
            "largest_logit_difference": agreement.largest_difference,
            "smallest_logit_margin": agreement.smallest_margin,
            "smallest_rounding_margin_in_steps": rounding_margin(net),
        },
        "versions": {
            "tvm-qnn": __version__,
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "data_notice": NOTICE,
    }
    index = zoo / "zoo.json"
    records = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    records[NAME] = record
    index.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return record, agreement


def _description(net: MaqdNet, data: Images) -> dict[str, str]:
    cfg = net.cfg
    names = {2: "binary (-1, 1)", 3: "ternary (-1, 0, 1)"}
    widths = ", ".join(
        f"{channels}/{stride}" for channels, stride in zip(cfg.channels, cfg.strides, strict=True)
    )
    return {
        "name": NAME,
        "file": f"{NAME}.onnx",
        "samples_file": f"{NAME}.npz",
        "task": f"{data.name}: {cfg.classes} classes of {cfg.image_size}x{cfg.image_size} images",
        "weights": names.get(cfg.weight_states, f"{cfg.weight_states} states") + ", every layer",
        "activations": (
            f"{cfg.activation_states} states (0..{cfg.activation_states - 1}); "
            "8 bits at the image and after the pool"
        ),
        "description": (
            f"MaQD network: 3x3 convolutions (channels/stride {widths}), layer-batch "
            "normalization, global average pool, linear; standard ONNX quantize/dequantize pairs"
        ),
    }
