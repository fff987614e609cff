"""Sliding windows with ``ceil_mode``, which ONNX and torch define alike."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_qnn.spec import output_size


def ceil_padding(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Return pads with which floor mode gives the windows of ceil mode.

    Args:
        sizes: Spatial extents.
        kernel: Window extents.
        strides: Steps.
        pads: All beginnings, then all ends.
        dilations: Distances of taps.
    """
    rank, found = len(sizes), list(pads)
    for i, size in enumerate(sizes):
        padded = size + pads[i] + pads[rank + i]
        out = output_size(size, kernel[i], strides[i], pads[i] + pads[rank + i], dilations[i])
        more = out * strides[i] + dilations[i] * (kernel[i] - 1) + 1 - padded
        # A further window counts where it begins inside of the data or its leading padding.
        if 0 < more < strides[i] and out * strides[i] < size + pads[i]:
            found[rank + i] += more
    return found
