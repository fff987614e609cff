"""Interleaved rounds: everything that runs gets its turn in each, until the medians are stable."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tvm_qnn.compare.rows import Cost, Ratio
from tvm_qnn.errors import TargetError

Runner = Callable[[int], float]
"""Runs a number of inferences and returns the median of their seconds, or the mean."""
Key = TypeVar("Key", bound=Hashable)
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done and how much there is."""


class LostError(TargetError):
    """A board does not answer any more; what runs elsewhere goes on."""


SLICE = 0.03
"""Seconds of a turn at least, unless one inference takes longer."""
FEWEST = 5
MOST = 200
"""Rounds."""
STABLE = 0.01
"""A median is stable once its standard error is this share of it."""
NOISY = 0.15
"""The share of the median by which quiet and busy rounds may lie apart."""


def in_rounds(
    runners: Mapping[Key, Runner], limit: float,
    progress: Progress = lambda what, done, total: None, turn: float = SLICE,
) -> dict[Key, NDArray[np.float64]]:  # fmt: skip
    """Give every runner its turn in each round; changes of clock and load meet all of them.

    Args:
        runners: what is timed, by key; one that raises :class:`LostError` is left out.
        limit: stop after this many seconds, though not before a few rounds are complete.
        progress: called before every round, with seconds.
        turn: seconds of a turn.

    Returns:
        seconds of an inference in each round, of what was not lost.
    """
    start = time.monotonic()
    left = dict(runners)
    counts = {
        key: max(1, min(1000, int(turn / t))) for key, t in _round(left, dict.fromkeys(left, 1))
    }
    times: dict[Key, list[float]] = {key: [] for key in left}
    for done in range(MOST):
        spent = time.monotonic() - start
        if done >= FEWEST and (spent > limit or all(stable(times[key]) for key in left)):
            break
        progress("measuring", int(spent), max(int(limit), int(spent) + 1))
        for key, seconds in _round(left, counts):
            times[key].append(seconds)
    return {key: np.asarray(times[key]) for key in left}


def _round(left: dict[Key, Runner], counts: Mapping[Key, int]) -> Iterator[tuple[Key, float]]:
    """Give every runner a turn; take those that are lost out of ``left``."""
    for key, run in list(left.items()):
        try:
            seconds = run(counts[key])
        except LostError:
            del left[key]
        else:
            yield key, seconds


def stable(times: list[float]) -> bool:
    """Tell whether more rounds would hardly move the median.

    The standard error of a median is 1.2533 times that of a mean, whose deviation is taken from the
    quartiles, which a few disturbed rounds leave alone.
    """
    first, median, third = np.percentile(times, [25, 50, 75])
    error = 1.2533 * (third - first) / 1.349 / np.sqrt(len(times))
    return bool(error < STABLE * median)


def cost(kind: str, times: NDArray[np.float64]) -> Cost:
    """Sum up the rounds of a runner; a noisy result says so."""
    p10, median, p90 = (float(v) for v in np.percentile(times, [10, 50, 90]))
    noise = []
    if p90 - p10 > NOISY * median:
        noise.append(f"noisy: p90 is {p90 / p10:.2f} times p10")
    if not stable(list(times)):
        noise.append(f"not stable after {len(times)} rounds")
    return Cost(kind, "seconds", median, p10, p90, len(times), "; ".join(noise))


def ratio(against: str, times: NDArray[np.float64], base: NDArray[np.float64]) -> Ratio:
    """Return how many times faster than a baseline, from the pairs of the rounds."""
    p10, median, p90 = (float(v) for v in np.percentile(base / times, [10, 50, 90]))
    return Ratio(against, median, p10, p90)
