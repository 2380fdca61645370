"""Codes of 1 to 64 bits side by side, without gaps: element i is bits i * width to (i + 1) * width, lowest bit first.

n elements take ceil(n * width / 8) bytes; the bits behind the last are zero. Works through the tensor in pieces, so
that it needs little more memory than its result.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import UsageError

PIECE = 1 << 16
"""Elements worked on at a time: a multiple of 8, so that each piece ends with a byte."""


def packed_size(count: int, width: int) -> int:
    """Bytes that `count` elements take."""
    return -(-count * width // 8)


def pack(codes: NDArray[np.integer], width: int) -> bytes:
    """The lowest `width` bits of each code, in row-major order."""
    return b"".join(_pack(piece, width) for piece in _pieces(codes.reshape(-1)))


def unpack(data: bytes | memoryview, count: int, width: int, *, signed: bool) -> NDArray[np.int64] | NDArray[np.uint64]:
    """`count` codes out of exactly as many bytes as they take."""
    if len(data) != packed_size(count, width):
        raise UsageError(
            f"{count} codes of {width} bits are {packed_size(count, width)} bytes, not {len(data)}: the data is damaged"
        )
    buffer = np.frombuffer(data, np.uint8)
    if count * width % 8 and buffer[-1] >> (count * width % 8):
        raise UsageError("the bits behind the last code are not zero: the data is damaged")
    codes = np.empty(count, np.uint64)
    for begin in range(0, count, PIECE):
        end = min(begin + PIECE, count)
        codes[begin:end] = _unpack(buffer[begin * width // 8 : packed_size(end, width)], end - begin, width)
    if not signed:
        return codes
    unused = np.uint64(64 - width)  # the word's sign moves to the top, and fills what it comes back through
    return (codes << unused).view(np.int64) >> unused.view(np.int64)


def _pieces(codes: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    for begin in range(0, codes.size, PIECE):
        yield codes[begin : begin + PIECE]


def _places(width: int) -> NDArray[np.uint64]:
    return np.arange(width, dtype=np.uint64)


def _pack(codes: NDArray[np.integer], width: int) -> bytes:
    bits = (codes.astype(np.int64, copy=False).view(np.uint64)[:, None] >> _places(width)) & np.uint64(1)
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def _unpack(data: NDArray[np.uint8], count: int, width: int) -> NDArray[np.uint64]:
    bits = np.unpackbits(data, count=count * width, bitorder="little").reshape(count, width)
    words: NDArray[np.uint64] = (bits.astype(np.uint64) << _places(width)).sum(axis=1, dtype=np.uint64)
    return words
