"""Batch normalization in inference, as every importer writes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tvm_qnn.frontend.record import Refused


def affine_constants(
    scale: ArrayLike,
    bias: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    *,
    epsilon: float,
    rank: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a and b of ``x * a + b``, float32 [C, 1, ...] that broadcast over x [N, C, ...].

    ``a = scale / sqrt(variance + epsilon)`` and ``b = bias - mean * a`` are computed in float64 and
    rounded once.

    Raises:
        Refused: A constant is not finite.
    """
    s, o, m, v = (np.asarray(p, np.float64) for p in (scale, bias, mean, variance))
    with np.errstate(all="ignore"):
        a = s / np.sqrt(v + epsilon)
        factor, offset = a.astype(np.float32), (o - m * a).astype(np.float32)
    if not (np.isfinite(factor).all() and np.isfinite(offset).all()):
        raise Refused(
            "its parameters give factors that are not finite (negative variance, NaN or overflow)"
        )
    shape = [-1] + [1] * (rank - 2)
    return factor.reshape(shape), offset.reshape(shape)
