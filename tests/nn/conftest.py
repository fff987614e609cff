"""Tiny labelled images on which a network can be trained in seconds."""

import numpy as np
import pytest

from tvm_qnn.nn import datasets
from tvm_qnn.nn.data import Images

try:
    import torch
except ImportError:
    pass
else:
    # Tests run side by side; more threads than cores only slow them down.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny():
    """Three classes, told apart by where an 8x8 image is bright."""
    rng = np.random.default_rng(7)

    def make(count):
        labels = rng.integers(0, 3, count).astype(np.uint8)
        images = rng.integers(0, 60, (count, 8, 8)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 3, :] += 180
        return images[:, None], labels

    return Images("fashion-mnist", *make(192), *make(64))


@pytest.fixture
def few_images(monkeypatch):
    """Random images in place of the official files, whose checksums no small set can have."""
    rng = np.random.default_rng(0)

    def images(count):
        return rng.integers(0, 256, (count, 1, 28, 28)).astype(np.uint8)

    labels = np.arange(16, dtype=np.uint8) % 10
    found = Images("fashion-mnist", images(16), labels, images(16), labels)
    monkeypatch.setattr(datasets, "load", lambda folder: found)
    return found
