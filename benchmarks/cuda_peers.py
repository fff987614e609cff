"""What kernels on a GPU are compared with: PyTorch's 8-bit and half-precision ones, and copies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmarks.cuda_clock import Call, copies
from tvm_qnn.ops.workload import ConvWork

_FEWEST_ROWS = 32
"""Of ``torch._int_mm``, which takes more than 16 and multiples of 8."""
_COPIED = 1 << 30


def available() -> str | None:
    """Return why PyTorch cannot be compared with, None if it can."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed"
    return None if torch.cuda.is_available() else "this PyTorch sees no GPU"


def copy_calls() -> tuple[list[Call], int]:
    """Copy a gibibyte; returns the calls, and the bytes that one reads and writes."""
    import torch

    source = torch.empty(_COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return [lambda: target.copy_(source)], 2 * _COPIED


def product_calls(work: ConvWork) -> dict[str, list[Call]]:
    """Multiply the matrices of a dense layer, in 8 bits and in half precision."""
    import torch

    rows, inputs, outputs = work.width, work.in_channels, work.out_channels

    def calls(one: Callable[[], Call], size: int) -> list[Call]:
        return [one() for _ in range(copies(size))]

    def int8() -> Call:
        x = torch.randint(-128, 128, (max(rows, _FEWEST_ROWS), inputs)).to("cuda", torch.int8)
        # Column by column, as the instruction wants it.
        w = torch.randint(-128, 128, (outputs, inputs), dtype=torch.int8, device="cuda").t()
        y = torch.empty(len(x), outputs, dtype=torch.int32, device="cuda")
        return lambda: torch._int_mm(x, w, out=y)

    def half() -> Call:
        x = torch.randn(rows, inputs, dtype=torch.float16, device="cuda")
        w = torch.randn(outputs, inputs, dtype=torch.float16, device="cuda").t()
        y = torch.empty(rows, outputs, dtype=torch.float16, device="cuda")
        return lambda: torch.mm(x, w, out=y)

    size = inputs * outputs + rows * (inputs + outputs)
    return {"torch int8": calls(int8, size), "torch fp16": calls(half, 2 * size)}


def convolution_calls(work: ConvWork) -> dict[str, list[Call]]:
    """Convolve in half precision, channels last, with the fastest algorithm that cuDNN finds."""
    import torch

    torch.backends.cudnn.benchmark = True

    def half() -> Call:
        last = torch.channels_last
        shape = (work.batch, work.in_channels, work.height, work.width)
        x = torch.randn(shape, dtype=torch.float16, device="cuda").to(memory_format=last)
        kernel = (work.out_channels, work.in_channels, *work.kernel)
        w = torch.randn(kernel, dtype=torch.float16, device="cuda").to(memory_format=last)
        return lambda: torch.nn.functional.conv2d(x, w, padding=work.padding[0])

    pixels = work.batch * work.height * work.width
    size = 2 * (pixels * (work.in_channels + work.out_channels) + math.prod(work.weight_shape))
    return {"torch fp16": [half() for _ in range(copies(size))]}


def describe() -> dict[str, Any]:
    """Return the versions that the figures depend on."""
    import torch

    return {
        "torch": torch.__version__,
        "cuda of torch": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
