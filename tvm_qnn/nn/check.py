"""Whether an exported model means the same as the network it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from tvm_qnn.errors import ModelError, QnnError
from tvm_qnn.nn.train import logits


@dataclass(frozen=True)
class Agreement:
    """ONNX Runtime against PyTorch on the same images.

    Attributes:
        images: Number of images compared.
        different: Indices of the images with different labels.
        largest_difference: Largest absolute difference between two logits.
        smallest_margin: Smallest distance between PyTorch's two largest logits of an image.
        runtime_labels: ``[images]`` int64, the labels of ONNX Runtime.
    """

    images: int
    different: tuple[int, ...]
    largest_difference: float
    smallest_margin: float
    runtime_labels: np.ndarray


def runtime_logits(path: Path, images: np.ndarray) -> np.ndarray:
    """Logits of an ONNX file by ONNX Runtime on the CPU, with one thread.

    Args:
        path: ONNX file with the input ``image`` and a fixed batch size.
        images: ``[N, C, H, W]`` uint8; the last batch is filled up with its last image.

    Returns:
        ``[N, classes]`` float32.

    Raises:
        QnnError: ONNX Runtime is not installed.
        ModelError: The file is missing, or ONNX Runtime cannot load it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise QnnError("ONNX Runtime is missing; run: pip install 'tvm-qnn[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Otherwise it rounds float weights beside quantizers to 8 bits, codebooks among them.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions share no base class
        raise ModelError(f"{path}: ONNX Runtime cannot load the model ({error})") from error
    size = session.get_inputs()[0].shape[0]
    scaled = images.astype(np.float32) / np.float32(255)
    missing = -len(scaled) % size
    scaled = np.concatenate([scaled, np.repeat(scaled[-1:], missing, axis=0)])
    parts = [
        session.run(None, {"image": scaled[i : i + size]})[0] for i in range(0, len(scaled), size)
    ]
    return np.concatenate(parts)[: len(images)]


def compare(net: nn.Module, path: Path, images: np.ndarray) -> Agreement:
    """Compare the labels of a network with those of its export.

    Args:
        net: The network; evaluated in eval mode.
        path: Its ONNX file.
        images: ``[N, C, H, W]`` uint8, at least one.
    """
    expected, found = logits(net, images), runtime_logits(path, images)
    top = np.sort(expected, axis=1)[:, -2:]
    different = np.flatnonzero(expected.argmax(axis=1) != found.argmax(axis=1))
    return Agreement(
        images=len(images),
        different=tuple(int(i) for i in different),
        largest_difference=float(np.abs(expected - found).max()),
        smallest_margin=float((top[:, 1] - top[:, 0]).min()),
        runtime_labels=found.argmax(axis=1),
    )
