"""Memory networks trained by a compiled kernel, one process, one core.

The kernel ``kernel.c`` is compiled for this machine when it is first needed, into a temporary
folder. Without a C compiler :func:`kernel` is None, and
:mod:`tvm_qnn.nn.qmann.network` does the same work in PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from tvm_qnn.nn.qmann.babi import Questions
from tvm_qnn.nn.qmann.config import MATRICES, SIGN_TERMS, QmannConfig, QmannRecipe, Weights

MAX_HOPS = 8
LANES = 16
FLAGS = (
    "-O3",
    "-shared",
    "-fPIC",
    # The logits are a stated order of separate products and sums.
    "-ffp-contract=off",
    # Free the vectorizer; forward sums are exact in any order.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
)
SIMILARITIES = ("dot", "hamming", "hamming-code")


class Network(ctypes.Structure):
    """Mirror of ``Network`` in the kernel."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("embedding", "hops", "vocabulary", "outputs")),
        *((name, ctypes.c_int32) for name in ("slots", "words", "question_words")),
        *((name, ctypes.c_int32) for name in ("fixed", "hamming", "binary", "tables")),
        ("scale", ctypes.c_float),
        ("limit", ctypes.c_float),
        ("hop_scale", ctypes.c_float * MAX_HOPS),
        ("hop_limit", ctypes.c_float * MAX_HOPS),
        *((name, ctypes.c_float) for name in ("raw_scale", "slope")),
        *((name, ctypes.c_float) for name in ("sign_constant", "sign_other", "read_scale")),
    )


class _Rows(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in MATRICES)


@functools.cache
def kernel(width: int) -> ctypes.CDLL | None:
    """The kernel for vectors padded to ``width`` floats, or None without a working compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    source = Path(__file__).with_name("kernel.c")
    if compiler is None or not source.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernel.so"
        for machine in (["-march=native"], []):
            command = [compiler, *FLAGS, *machine, f"-DWIDTH={width}", str(source)]
            done = subprocess.run(
                [*command, "-o", str(library), "-lm"], capture_output=True, check=False
            )
            if done.returncode == 0:
                return ctypes.CDLL(str(library))
    return None


def supported(config: QmannConfig) -> bool:
    """Whether this machine can compile the kernel."""
    return kernel(_width(config)) is not None


def train_epoch(
    config: QmannConfig, recipe: QmannRecipe, weights: Weights, data: Questions, epoch: int
) -> tuple[Weights, float, float]:
    """Train one network for one epoch.

    Args:
        config: The network.
        recipe: Batch, clips and rates.
        weights: ``wa, wr, wq [V, E]``, ``wk [E, E]``, ``wo [A, E]`` float32.
        data: Training questions.
        epoch: Counted from 1; decides the learning rate.

    Returns:
        New weights, mean loss and error (part of 1) while training.
    """
    library = _library(config)
    network = _network(config, weights, data)
    rows = _pad(weights, _width(config))
    loss, wrong = ctypes.c_double(), ctypes.c_int32()
    step = recipe.step(epoch)
    failed = library.qmann_train(
        ctypes.byref(network),
        ctypes.byref(_pointers(rows)),
        *_arrays(data),
        ctypes.c_int32(len(data)),
        ctypes.c_int32(recipe.batch),
        ctypes.c_float(step),
        ctypes.c_float(step * recipe.key_rate),
        ctypes.c_float(recipe.clip),
        ctypes.c_float(recipe.key_clip),
        ctypes.byref(loss),
        ctypes.byref(wrong),
    )
    if failed:
        raise MemoryError("no memory for the activations of a batch")
    return _unpad(rows, config.embedding), loss.value / len(data), wrong.value / len(data)


def infer(
    config: QmannConfig, weights: Weights, data: Questions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answer questions with one network.

    Args:
        config: The network.
        weights: Like in :func:`train_epoch`.
        data: N questions.

    Returns:
        Logits ``[N, A]``, similarities ``[N, R, L]`` (0 for empty slots) and keys
        ``[N, R + 1, E]``, all float32 values.
    """
    library = _library(config)
    network = _network(config, weights, data)
    width = _width(config)
    rows = _pad(weights, width)
    logits = np.empty((len(data), network.outputs), np.float32)
    scores = np.empty((len(data), config.hops, network.slots), np.float32)
    keys = np.empty((len(data), config.hops + 1, width), np.float32)
    failed = library.qmann_infer(
        ctypes.byref(network),
        ctypes.byref(_pointers(rows)),
        *_arrays(data)[:2],
        ctypes.c_int32(len(data)),
        *(ctypes.c_void_p(x.ctypes.data) for x in (logits, scores, keys)),
    )
    if failed:
        raise MemoryError("no memory for the activations of a batch")
    return logits, scores, keys[:, :, : config.embedding]


def _library(config: QmannConfig) -> ctypes.CDLL:
    library = kernel(_width(config))
    if library is None:
        raise ValueError("the kernel needs a C compiler; use the PyTorch form")
    return library


def _width(config: QmannConfig) -> int:
    return -(-config.embedding // LANES) * LANES


def _network(config: QmannConfig, weights: Weights, data: Questions) -> Network:
    _, slots, words = data.story.shape
    network = Network(
        embedding=config.embedding,
        hops=config.hops,
        vocabulary=len(weights["wa"]),
        outputs=len(weights["wo"]),
        slots=slots,
        words=words,
        question_words=data.question.shape[1],
        fixed=config.format is not None,
        hamming=SIMILARITIES.index(config.similarity),
        binary=config.binary,
        tables=config.hops if config.control else 1,
        scale=1.0,
        slope=2.0**config.alpha,
        read_scale=config.read_scale,
    )
    network.sign_constant, network.sign_other = SIGN_TERMS[config.sign_term]
    if config.format is not None:
        network.scale, network.limit = 2.0**config.format.fraction, config.format.limit
        shift = config.format.bits - config.alpha - config.format.fraction
        # The authors' code weighs every bit twice.
        network.raw_scale = 2.0 ** ((config.similarity == "hamming-code") - shift)
        for hop, fmt in enumerate(config.hop_formats()):
            network.hop_scale[hop], network.hop_limit[hop] = 2.0**fmt.fraction, fmt.limit
    for array, top in ((data.story, network.vocabulary), (data.question, network.vocabulary)):
        if array.size and not 0 <= array.min() <= array.max() < top:
            raise ValueError(f"word indices must lie in 0..{top - 1}")
    if data.answer.size and not 0 <= data.answer.min() <= data.answer.max() < network.outputs:
        raise ValueError(f"answers must lie in 0..{network.outputs - 1}")
    return network


def _pad(weights: Weights, width: int) -> Weights:
    padded = {}
    for name in MATRICES:
        # The kernel reads W_k as [in][out] to run along the outputs.
        matrix = weights[name].T if name == "wk" else weights[name]
        rows = width if name == "wk" else len(matrix)
        padded[name] = np.zeros((rows, width), np.float32)
        padded[name][: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded


def _unpad(rows: Weights, embedding: int) -> Weights:
    weights = {name: rows[name][:, :embedding].copy() for name in MATRICES}
    weights["wk"] = rows["wk"][:embedding, :embedding].T.copy()
    return weights


def _pointers(rows: Weights) -> _Rows:
    return _Rows(*(rows[name].ctypes.data for name in MATRICES))


def _arrays(data: Questions) -> list[ctypes.c_void_p]:
    arrays = (data.story, data.question, data.answer)
    if any(x.dtype != np.int32 or not x.flags.c_contiguous for x in arrays):
        raise ValueError("questions must be contiguous int32 arrays")
    return [ctypes.c_void_p(x.ctypes.data) for x in arrays]
