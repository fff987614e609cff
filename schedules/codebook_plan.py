"""Where the family ``taps`` keeps activations, and how it cuts the sums of a convolution.

Activations are planar: each channel is a row of pixels, cut into ``phases`` by the strides, so that
all output pixels of one tap are neighbours. Image rows follow one another at ``pitch``; where the
padding on the right of one row can be the padding on the left of the next, they share it. Output
positions count along such rows too, gaps included, which makes a tap one number: its ``offset``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm_qnn._tvm import tirx
from tvm_qnn.ops.workload import CodebookWork, ConvWork
from tvm_qnn.schedules.plan import ceil_div
from tvm_qnn.targets.record import Target

CHUNK = 16
"""Channels and pixels that are transposed at a time."""

IN_ORDER = "cortex-a53"
_MOST_GROUP = 5
_MOST_PATTERNS = 256
_FEWEST_IN_BYTES = 15


@dataclass(frozen=True)
class Machine:
    """What the sums of taps cost on a target, in cycles.

    Attributes:
        lanes: pixels in one vector.
        vectors: vectors of a block, whose sums stay in registers.
        tap: to add one vector to sums of 16 bits.
        byte_tap: to add one vector to sums of 8 bits.
        step: for the loop over taps.
        pattern: to start and store the sums of one pattern, for one vector.
        second: to add one stored vector to sums of 32 bits.
        result: to combine the sums of one value, for one vector; as much again to start and store.
        bias: bytes that the offsets of taps lie too low, which the kernel adds. Neighbouring loads
            at odd addresses do not become load pairs, which take a Cortex-A72 more than two loads.
    """

    lanes: int
    vectors: int
    tap: float
    byte_tap: float
    step: float
    pattern: float
    second: float
    result: float
    bias: int = 0


def machine(target: Target) -> Machine:
    """Return what a target costs; cycles by ``llvm-mca`` for ARM, measured on a Zen 5 for x86."""
    if target.arch == "aarch64":
        if target.cpu == IN_ORDER:
            return Machine(16, 8, 3.2, 2.0, 5.0, 10.0, 8.0, 42.0, bias=1)
        fast = 0.7 if "dotprod" in target.features else 1.0
        byte = 0.5 if "dotprod" in target.features else 1.0
        return Machine(16, 8, 1.1 * fast, byte, 1.5, 6.0, 2.5 * fast, 18.0, bias=1)
    if "avx512" in target.features:
        return Machine(32, 8, 0.65, 0.5, 1.0, 1.5, 1.2, 8.0)
    return Machine(16, 8, 0.6, 0.4, 1.0, 1.5, 1.2, 10.0)


@dataclass(frozen=True)
class TapsPlan:
    """The layout and the blocks of one convolution.

    Attributes:
        machine: what the target costs.
        group: output channels that share the sums of their patterns of codes.
        vectors: vectors in one block of pixels.
        blocks: blocks of pixels of an image.
        pitch: distance of image rows in a plane.
        phases: planes of a channel, (down, right).
        plane: elements of one plane.
        positions: output positions of an image, gaps included.
        shared: the sum over all taps is computed once for all channels, and the sum for the most
            frequent code follows from it.
    """

    machine: Machine
    group: int
    vectors: int
    blocks: int
    pitch: int
    phases: tuple[int, int]
    plane: int
    positions: int
    shared: bool

    @property
    def pixels(self) -> int:
        """Positions of a block."""
        return self.vectors * self.machine.lanes

    def groups(self, work: CodebookWork) -> int:
        """Return the groups of output channels."""
        return ceil_div(work.conv.out_channels, self.group)

    def patterns(self, work: CodebookWork) -> int:
        """Return the patterns of codes that the channels of a group can have at a tap."""
        return int(work.values**self.group)

    def planes(self, work: CodebookWork) -> int:
        """Return the planes of an image."""
        return work.conv.in_channels * self.phases[0] * self.phases[1]

    def length(self, work: CodebookWork) -> int:
        """Return the elements of the planes of an image; blocks read beyond the last plane."""
        return self.planes(work) * self.plane + self.blocks * self.pixels

    def header(self, work: CodebookWork) -> int:
        """Return the numbers before the taps of a group: skipped codes, ends of patterns."""
        return self.group + self.patterns(work) + 1

    def offset(self, conv: ConvWork, c: Any, i: Any, j: Any) -> Any:
        """Return where the tap (c, i, j) of output position 0 lies in the planes of an image."""
        (sh, sw), (dh, dw) = conv.strides, conv.dilation
        down, right = i * dh, j * dw
        phase = tirx.floormod(down, sh) * self.phases[1] + tirx.floormod(right, sw)
        plane = c * (self.phases[0] * self.phases[1]) + phase
        inside = tirx.floordiv(down, sh) * self.pitch + tirx.floordiv(right, sw)
        return plane * self.plane + inside


def _axis(
    size: int, out: int, kernel: int, stride: int, pad: int, dilation: int
) -> tuple[int, int, int]:
    """Return the phases of an axis, the elements of each, and how many neighbours can share."""
    phases = 1 if kernel == 1 or dilation % stride == 0 else stride
    extent = out + (kernel - 1) * dilation // stride
    shared = extent
    for phase in range(phases):
        lead = max(0, ceil_div(pad - phase, stride))
        trail = max(0, extent - max(0, ceil_div(size + pad - phase, stride)))
        shared = min(shared, lead, trail)
    return phases, extent, shared


def make_taps_plan(work: CodebookWork, target: Target, group: int | None = None) -> TapsPlan:
    """Choose blocks of pixels that waste least, and the cheapest groups of channels, or ``group``.

    Raises:
        ValueError: if the convolution cannot be cut into groups of that size.
    """
    conv, costs = work.conv, machine(target)
    if in_bytes(work):
        costs = replace(costs, tap=costs.byte_tap + 2 * costs.tap / most_taps(work, 8))
    top, left, _, _ = conv.padding
    down, rows, _ = _axis(
        conv.height, conv.out_height, conv.kernel[0], conv.strides[0], top, conv.dilation[0]
    )
    right, columns, overlap = _axis(
        conv.width, conv.out_width, conv.kernel[1], conv.strides[1], left, conv.dilation[1]
    )
    # Rows may share padding that lies between their outputs, but no outputs.
    overlap = min(overlap, columns - conv.out_width)
    pitch = columns - overlap
    positions = (conv.out_height - 1) * pitch + conv.out_width
    found = []
    for vectors in range(1, costs.vectors + 1):
        blocks = ceil_div(positions, vectors * costs.lanes)
        found.append((blocks * (vectors * costs.tap + costs.step), vectors, blocks))
    _, vectors, blocks = min(found)
    per_group = conv.out_channels // conv.groups
    shared = per_group >= 4
    sizes = [
        (sums_cycles(work, costs, vectors, size, shared) / size, size)
        for size in range(1, _MOST_GROUP + 1)
        if size == 1
        or (work.values**size <= _MOST_PATTERNS and (conv.groups == 1 or per_group % size == 0))
    ]
    if group not in (None, *(s for _, s in sizes)):
        raise ValueError(f"{work} has no groups of {group} channels")
    size = group or min(sizes)[1]
    return TapsPlan(
        machine=costs,
        group=size,
        vectors=vectors,
        blocks=blocks,
        pitch=pitch,
        phases=(down, right),
        plane=ceil_div(rows * pitch + overlap, CHUNK) * CHUNK,
        positions=positions,
        shared=shared,
    )


def sums_cycles(
    work: CodebookWork, costs: Machine, vectors: int, group: int, shared: bool
) -> float:
    """Return the cycles for one block of pixels and one group of channels, were codes uniform."""
    patterns = work.values**group
    skipped = 1 / patterns if shared else 0
    taps = work.taps * (1 - skipped) * (vectors * costs.tap + costs.step)
    stored = patterns * vectors * costs.pattern
    summed = work.values - 1 if shared else work.values
    second = group * summed * patterns / work.values * vectors * costs.second
    return taps + stored + second + group * (work.values + 1) * vectors * costs.result


def most_taps(work: CodebookWork, bits: int) -> int:
    """Return how many stored activations a sum of so many bits holds."""
    x, zero = work.conv.x, work.conv.x_zero
    largest = max(abs(x.lo), abs(x.hi), abs(zero))
    return (2**bits - 1 if x.dtype == "uint8" else 2 ** (bits - 1) - 1) // max(1, largest)


def in_bytes(work: CodebookWork) -> bool:
    """Tell whether taps are added up in bytes first: activations of few bits."""
    return most_taps(work, 8) >= _FEWEST_IN_BYTES
