"""Whichever data set of images a folder holds."""

from __future__ import annotations

from pathlib import Path

from tvm_qnn.nn import cifar, data
from tvm_qnn.nn.data import Images


def load(folder: Path) -> Images:
    """Load CIFAR-10, Fashion-MNIST or MNIST from a folder with its official files.

    Raises:
        DataError: A file is missing or damaged; the message says where to get it.
    """
    return cifar.load(folder) if cifar.found_in(folder) else data.load(folder)
