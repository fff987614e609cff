"""Definitions of packed storage: a dense bit stream for files, bit planes for kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tvm_qnn.spec.qtype import Codes


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes of ``count`` codes of ``bits`` bits in a dense stream."""
    return (count * bits + 7) // 8


def pack_stream(codes: ArrayLike, kind: Codes) -> NDArray[np.uint8]:
    """Pack codes into a dense bit stream, row-major, least significant bit first.

    Bit ``j`` of the index of element ``i`` is bit ``(i * bits + j) % 8`` of byte
    ``(i * bits + j) // 8``; the unused bits of the last byte are 0.

    Returns:
        uint8 of shape [``packed_bytes(codes.size, kind.bits)``].
    """
    index = kind.index(codes).reshape(-1, 1)
    bits = (index >> np.arange(kind.bits)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")


def unpack_stream(stream: ArrayLike, shape: tuple[int, ...], kind: Codes) -> NDArray[np.generic]:
    """Undo :func:`pack_stream`: codes of ``shape`` in ``kind.dtype``."""
    count = int(np.prod(shape))
    bits = np.unpackbits(np.asarray(stream, np.uint8), count=count * kind.bits, bitorder="little")
    index = (bits.reshape(count, kind.bits).astype(np.int64) << np.arange(kind.bits)).sum(axis=1)
    return kind.from_index(index).astype(kind.dtype).reshape(shape)


def pack_planes(codes: ArrayLike, kind: Codes, word: int = 32) -> NDArray[np.unsignedinteger]:
    """Pack the last axis into bit planes: [..., C] -> [..., bits, ceil(C / word)].

    Bit ``c % word`` of word ``c // word`` of plane ``p`` is bit ``p`` of the index of code ``c``.
    Channels that fill up the last word are 0.

    Args:
        codes: integers [..., C].
        kind: their range.
        word: bits a word: 8, 16, 32 or 64.
    """
    index = kind.index(codes)
    channels = index.shape[-1]
    fill = -channels % word
    index = np.pad(index, [(0, 0)] * (index.ndim - 1) + [(0, fill)])
    bits = (index[..., None, :] >> np.arange(kind.bits)[:, None]) & 1
    bits = bits.reshape(*bits.shape[:-1], -1, word).astype(f"uint{word}")
    words: NDArray[np.unsignedinteger] = np.bitwise_or.reduce(
        bits << np.arange(word, dtype=f"uint{word}"), axis=-1
    )
    return words


def unpack_planes(planes: ArrayLike, channels: int, kind: Codes) -> NDArray[np.generic]:
    """Undo :func:`pack_planes`: [..., bits, words] -> codes [..., channels] in ``kind.dtype``."""
    planes = np.asarray(planes)
    word = planes.dtype.itemsize * 8
    bits = (planes[..., None] >> np.arange(word, dtype=planes.dtype)) & 1
    bits = bits.reshape(*planes.shape[:-1], -1)[..., :channels].astype(np.int64)
    index = (bits << np.arange(kind.bits)[:, None]).sum(axis=-2)
    return kind.from_index(index).astype(kind.dtype)
