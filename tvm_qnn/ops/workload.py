"""What a kernel is asked to compute: the records that kernel families take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tvm_qnn.spec import Codes, output_size
from tvm_qnn.spec.layers import Pads

EpilogueKind = Literal["none", "affine", "requantize", "threshold"]


@dataclass(frozen=True)
class Epilogue:
    """What happens to an int32 accumulator before it is stored.

    ``none`` stores int32; ``affine`` stores float32 (:func:`spec.affine`); ``requantize`` and
    ``threshold`` store codes (:func:`spec.requantize`, :func:`spec.threshold`). Their parameters
    are arguments of the kernel: mul, add float32 [O], or thresholds int32 [O, count - 1] and
    falling int32 [O].

    Attributes:
        kind: which of the four.
        codes: the range of the result.
        zero: zero point of the result (``requantize``).
        rounding: rounding of the result (``requantize``).
        pack: store bit planes of 32-bit words, uint32 [..., bits, ceil(O / 32)], not codes.
    """

    kind: EpilogueKind = "none"
    codes: Codes | None = None
    zero: int = 0
    rounding: str = "half_even"
    pack: bool = False


@dataclass(frozen=True)
class ConvWork:
    """A convolution with its epilogue; a matrix product is a 1x1 convolution of one row.

    Attributes:
        batch: images N.
        height: input rows H (1 for a matrix product).
        width: input columns W (the rows of the matrix for a matrix product).
        in_channels: C.
        out_channels: O.
        kernel: (KH, KW).
        strides: (down, right).
        padding: (top, left, bottom, right), with the real value 0.
        dilation: (down, right).
        groups: channel groups; ``groups == in_channels == out_channels`` is depthwise.
        x: range of the activations.
        x_zero: their zero point; may lie outside of the range (bipolar: 0).
        w: range of the weights.
        w_zero: zero points of the weights, one or one per output channel.
        x_planes: the activations come as bit planes uint32 [N, H, W, bits, ceil(C / 32)] of their
            indices, not as codes [N, H, W, C].
        epilogue: what happens to the accumulators.
    """

    batch: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    x: Codes
    w: Codes
    strides: tuple[int, int] = (1, 1)
    padding: Pads = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    x_zero: int = 0
    w_zero: tuple[int, ...] = (0,)
    x_planes: bool = False
    epilogue: Epilogue = Epilogue()

    @property
    def out_height(self) -> int:
        """Rows of the result."""
        top, _, bottom, _ = self.padding
        return output_size(
            self.height, self.kernel[0], self.strides[0], top + bottom, self.dilation[0]
        )

    @property
    def out_width(self) -> int:
        """Columns of the result."""
        _, left, _, right = self.padding
        return output_size(
            self.width, self.kernel[1], self.strides[1], left + right, self.dilation[1]
        )

    @property
    def depthwise(self) -> bool:
        """One input channel for each output channel."""
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def dense(self) -> bool:
        """A matrix product in disguise."""
        return self.height == 1 and self.kernel == (1, 1) and self.groups == 1

    @property
    def kind(self) -> str:
        """``dense``, ``depthwise`` or ``conv2d``."""
        return "dense" if self.dense else "depthwise" if self.depthwise else "conv2d"

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """OHWI."""
        return (self.out_channels, *self.kernel, self.in_channels // self.groups)

    @property
    def macs(self) -> int:
        """Multiply-accumulates, padded taps included."""
        per_output = self.kernel[0] * self.kernel[1] * self.in_channels // self.groups
        return self.batch * self.out_height * self.out_width * self.out_channels * per_output

    @property
    def acc_range(self) -> tuple[int, int]:
        """The smallest and largest accumulator that the ranges allow, 0 included."""
        xs = (self.x.lo - self.x_zero, self.x.hi - self.x_zero, 0)
        ws = [v - z for z in self.w_zero for v in (self.w.lo, self.w.hi)]
        products = [a * b for a in xs for b in ws]
        count = self.kernel[0] * self.kernel[1] * self.in_channels // self.groups
        return count * min(products), count * max(products)

    @property
    def pad_code(self) -> int | None:
        """The activation code of the real value 0, or None where no code stands for it."""
        return self.x_zero if self.x.contains(self.x_zero) else None

    def with_epilogue(self, epilogue: Epilogue) -> ConvWork:
        """Return this work with another epilogue."""
        return replace(self, epilogue=epilogue)

    def name(self, family: str) -> str:
        """Return the kernel's name: operator, weight bits, activation bits, method."""
        return f"q{self.kind}_w{self.w.bits}a{self.x.bits}_{family}"


@dataclass(frozen=True)
class CodebookWork:
    """A convolution whose weights pick one of M free values (:func:`spec.codebook_conv2d`).

    Attributes:
        conv: the convolution of the indices, with ``w = Codes(0, M - 1)``; its epilogue is
            ``none`` (float32 sums), ``affine`` or ``requantize``, without bit planes.
        rows: rows of the codebook: 1, or one for each output channel.
    """

    conv: ConvWork
    rows: int = 1

    @property
    def values(self) -> int:
        """The number M of representation values."""
        return self.conv.w.count

    @property
    def taps(self) -> int:
        """Weights of one output channel."""
        _, kh, kw, c = self.conv.weight_shape
        return kh * kw * c

    def with_epilogue(self, epilogue: Epilogue) -> CodebookWork:
        """Return this work with another epilogue."""
        return replace(self, conv=self.conv.with_epilogue(epilogue))

    def name(self, family: str) -> str:
        """Return the kernel's name: operator, values, activation bits, method."""
        return f"q{self.conv.kind}_m{self.values}a{self.conv.x.bits}_{family}"
