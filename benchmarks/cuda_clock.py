"""Time what runs on a GPU, by the GPU's own clock and without the time that launching takes.

Calls are recorded once into a CUDA graph and replayed between two events. Each call of a graph gets
buffers of its own, so many that they do not fit the L2 cache together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import tvm_ffi
from cuda.bindings import runtime

Call = Callable[[], Any]
CACHE_BYTES = 160 << 20
"""More than the L2 cache of any chip here holds."""
_MOST_COPIES = 256
_FEWEST_CALLS = 8


def copies(size: int) -> int:
    """Return how many sets of buffers of ``size`` bytes to go through."""
    return max(1, min(_MOST_COPIES, -(-CACHE_BYTES // max(size, 1))))


def checked(result: tuple[Any, ...]) -> Any:
    """Return what a function of the CUDA runtime gives.

    Raises:
        RuntimeError: if it failed.
    """
    status, *values = result
    if int(status) != 0:
        raise RuntimeError(f"CUDA: {status.name}")
    return values[0] if values else None


@contextmanager
def _on_stream(stream: Any) -> Iterator[None]:
    """Let TVM, and PyTorch where it sees the GPU, run on a stream."""
    with ExitStack() as stack:
        stack.enter_context(tvm_ffi.use_raw_stream(tvm_ffi.device("cuda", 0), int(stream)))
        try:
            import torch
        except ImportError:
            torch = None
        if torch is not None and torch.cuda.is_available():
            outside = torch.cuda.ExternalStream(int(stream))
            stack.enter_context(torch.cuda.stream(outside))
        yield


class Replay:
    """Calls recorded as a graph.

    Args:
        calls: each with buffers of its own; what they do must not depend on their results.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        calls = [*calls] * -(-_FEWEST_CALLS // len(calls))
        self._count = len(calls)
        self._stream = checked(runtime.cudaStreamCreate())
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        with _on_stream(self._stream):
            for call in calls:
                call()
            checked(runtime.cudaStreamSynchronize(self._stream))
            checked(runtime.cudaStreamBeginCapture(self._stream, mode))
            for call in calls:
                call()
            graph = checked(runtime.cudaStreamEndCapture(self._stream))
        self._graph = checked(runtime.cudaGraphInstantiate(graph, 0))
        self._events = [checked(runtime.cudaEventCreate()) for _ in range(2)]
        self()

    def __call__(self) -> float:
        """Replay the graph; returns seconds a call."""
        start, end = self._events
        checked(runtime.cudaEventRecord(start, self._stream))
        checked(runtime.cudaGraphLaunch(self._graph, self._stream))
        checked(runtime.cudaEventRecord(end, self._stream))
        checked(runtime.cudaEventSynchronize(end))
        return float(checked(runtime.cudaEventElapsedTime(start, end))) / 1e3 / self._count


def in_turns(replays: Mapping[str, Replay], rounds: int) -> dict[str, np.ndarray]:
    """Time all of them in turns; seconds a call, one of each round."""
    times: dict[str, list[float]] = {name: [] for name in replays}
    for _ in range(rounds):
        for name, replay in replays.items():
            times[name].append(replay())
    return {name: np.asarray(found) for name, found in times.items()}
