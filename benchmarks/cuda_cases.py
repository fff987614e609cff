"""What is timed on a GPU: layers, products, operators over a large memory."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cases import RESNET18
from tvm_qnn.ops.workload import ConvWork, Epilogue
from tvm_qnn.schedules import READS_PLANES, candidates
from tvm_qnn.spec import Codes
from tvm_qnn.targets.record import Target

CODES = {
    "w1a1": (Codes(-1, 1, 2), Codes(0, 1)),
    "w2a2": (Codes(-2, 1), Codes(0, 3)),
    "w4a4": (Codes(-8, 7), Codes(0, 15)),
    "w8a8": (Codes(-128, 127), Codes(0, 255)),
    "w1a8": (Codes(-1, 1, 2), Codes(0, 255)),
    "w2a8": (Codes(-2, 1), Codes(0, 255)),
    "w4a8": (Codes(-8, 7), Codes(0, 255)),
}
"""Weights and activations."""
SQUARE = ("w1a1", "w2a2", "w4a4", "w8a8")
WEIGHTS = ("w1a8", "w2a8", "w4a8", "w8a8")


@dataclass(frozen=True)
class Case:
    """A layer, and in which bits it is timed.

    Attributes:
        name: of the layer.
        work: in 8 bits.
        bits: keys of ``CODES``.
        most: kernels of a case, those of the least analytic cost.
    """

    name: str
    work: ConvWork
    bits: tuple[str, ...]
    most: int = 3

    @property
    def dense(self) -> bool:
        """Whether it is a matrix product."""
        return self.work.kernel == (1, 1) and self.work.height == 1

    def kernels(self, bits: str, target: Target) -> list[tuple[str, ConvWork]]:
        """Return the families to time, and what each computes: planes if it reads planes."""
        w, x = CODES[bits]
        plain = self._work(w, x, planes=False)
        able, _ = candidates(plain, target)
        return [
            (found.name, self._work(w, x, planes=found.name in READS_PLANES))
            for found, _ in able[: self.most]
            if found.name != "reference"
        ]

    def _work(self, w: Codes, x: Codes, *, planes: bool) -> ConvWork:
        epilogue = Epilogue("requantize", x, pack=planes)
        at = self.work
        return ConvWork(
            at.batch, at.height, at.width, at.in_channels, at.out_channels, at.kernel, x, w,
            padding=at.padding, x_planes=planes, epilogue=epilogue,
        )  # fmt: skip


def _conv(batch: int, size: int, channels: int) -> ConvWork:
    u8, s8 = Codes(0, 255), Codes(-128, 127)
    pads = (1, 1, 1, 1)
    return ConvWork(batch, size, size, channels, channels, (3, 3), u8, s8, padding=pads)


def _dense(rows: int, inputs: int, outputs: int) -> ConvWork:
    return ConvWork(1, 1, rows, inputs, outputs, (1, 1), Codes(0, 255), Codes(-128, 127))


CASES = (
    *(
        Case(f"dense {inputs}x{outputs}, {rows} rows", _dense(rows, inputs, outputs), WEIGHTS)
        for inputs, outputs in ((4096, 4096), (8192, 28672))
        for rows in (1, 16, 256)
    ),
    Case("product 4096 cubed", _dense(4096, 4096, 4096), ("w1a1", "w8a8")),
    *(
        Case(f"{layer.name}, batch {batch}", _conv(batch, layer.height, layer.in_channels), SQUARE)
        for batch in (1, 16, 64)
        for layer in RESNET18
    ),
)

SLOTS, WIDTH = 1_000_000, 64
"""Of the large memory."""
