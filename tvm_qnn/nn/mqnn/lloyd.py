"""Start values of MQNN's representation values: k-means in one dimension (Lloyd-Max)."""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 2000
_SMALL = 1e-7


def lloyd_max(values: Tensor, states: int) -> Tensor:
    """Representation values of least squared error: a fixed point of Lloyd's two steps.

    Every value belongs to the nearest level, and every level is the mean of its values. Levels
    begin at the quantiles ``(m - 1/2) / M``, so that the result depends on the values alone. A
    level without values stays where it is, as where a row has fewer distinct values than states.

    Args:
        values: ``[G, n]`` float, one set of values a row.
        states: Number of levels M of a row.

    Returns:
        ``[G, M]`` of the same dtype, ascending in every row.
    """
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"expected rows of values, got the shape {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        raise ValueError("values must be finite to find levels for them")
    rows = values.detach().double().sort(dim=1).values
    # The sum over any range of sorted values is a difference of two prefix sums.
    sums = torch.nn.functional.pad(rows.cumsum(dim=1), (1, 0))
    places = (torch.arange(states, dtype=torch.float64) + 0.5) / states * rows.shape[1] - 0.5
    # The nearest values; halves are rounded outwards, so that symmetric values get such levels.
    lower = places < (rows.shape[1] - 1) / 2
    levels = rows[:, torch.where(lower, (places - 0.5).ceil(), (places + 0.5).floor()).long()]
    small = _SMALL * (rows[:, -1] - rows[:, 0]).max()
    for _ in range(_STEPS):
        borders = (levels[:, 1:] + levels[:, :-1]) / 2
        inner = torch.searchsorted(rows, borders.contiguous(), right=True)
        first = torch.nn.functional.pad(inner, (1, 0))
        last = torch.nn.functional.pad(inner, (0, 1), value=rows.shape[1])
        counts = last - first
        means = (sums.gather(1, last) - sums.gather(1, first)) / counts.clamp_min(1)
        means = torch.where(counts > 0, means, levels)
        moved = (means - levels).abs().max()
        levels = means
        if moved <= small:
            break
    return levels.to(values.dtype)
