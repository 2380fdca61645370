"""Codes of 1 to 64 bits side by side, without gaps: element i is bits i * width to (i + 1) * width, lowest bit first.

n elements take ceil(n * width / 8) bytes; the bits behind the last are zero. Works through the tensor in pieces, so
that it needs little more memory than its result.

Eight elements take `width` whole bytes, so that each of the eight begins at the same bit of the same byte in every such
group: all the first ones are moved at once, then all the second ones. A narrow one lies in a window of four bytes.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import UsageError

PIECE = 1 << 16
"""Elements worked on at a time: a multiple of 8, so that each piece ends with a byte."""

_GROUP, _WINDOW = 8, 4
_NARROW = 8 * _WINDOW - 7
"""The widest element that lies in one window, whichever bit of its first byte it begins at."""


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
    codes = np.empty(count, np.uint64)
    found = codes.view(np.int64) if signed else codes
    unpack_into(found, np.frombuffer(data, np.uint8), width)
    return found


def unpack_into(codes: NDArray[np.integer], data: NDArray[np.uint8], width: int) -> None:
    """Fill flat, contiguous `codes` from as many bytes as they take; what is read is signed if `codes` are."""
    if codes.size * width % 8 and data[-1] >> (codes.size * width % 8):
        raise UsageError("the bits behind the last code are not zero: the data is damaged")
    read = _unpack_narrow if width <= _NARROW else _unpack_wide
    begin = 0
    for piece in _pieces(codes):
        end = begin + packed_size(piece.size, width)
        piece[:] = read(data[begin:end], piece.size, width, codes.dtype.kind == "i")
        begin = end


def _pieces(codes: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    for begin in range(0, codes.size, PIECE):
        yield codes[begin : begin + PIECE]


def _pack(codes: NDArray[np.integer], width: int) -> bytes:
    return _pack_narrow(codes, width) if width <= _NARROW else _pack_wide(codes, width)


def _windows(width: int) -> Iterator[tuple[int, int, int]]:
    """Of each element of a group: its first byte, the one behind its last, and the bit of the first it begins at."""
    for begin in range(0, _GROUP * width, width):
        yield begin // 8, packed_size(1, begin + width), begin % 8


def _pack_narrow(codes: NDArray[np.integer], width: int) -> bytes:
    groups = -(-codes.size // _GROUP)
    words = np.zeros(groups * _GROUP, np.uint32)
    words[: codes.size] = codes.astype(np.uint32) & np.uint32((1 << width) - 1)
    data = np.zeros((groups, width), np.uint8)
    for index, (first, end, shift) in enumerate(_windows(width)):
        window = (words[index::_GROUP] << np.uint32(shift)).astype("<u4", copy=False).view(np.uint8)
        data[:, first:end] |= window.reshape(groups, _WINDOW)[:, : end - first]
    return data.tobytes()[: packed_size(codes.size, width)]


def _unpack_narrow(data: NDArray[np.uint8], count: int, width: int, signed: bool) -> NDArray[np.integer]:
    groups = -(-count // _GROUP)
    padded = np.zeros(groups * width + _WINDOW, np.uint8)  # the last window may end behind the last group
    padded[: data.size] = data
    kind = np.dtype("<i4" if signed else "<u4")
    codes = np.empty((groups, _GROUP), kind)
    for index, (first, _, shift) in enumerate(_windows(width)):
        window: NDArray[np.integer] = np.ndarray((groups,), kind, padded, first, (width,))
        # What stands above the element falls off the top; its sign, if it has one, fills what it comes back through.
        codes[:, index] = window << kind.type(32 - shift - width) >> kind.type(32 - width)
    return codes.reshape(-1)[:count]


def _places(width: int) -> NDArray[np.uint64]:
    return np.arange(width, dtype=np.uint64)


def _pack_wide(codes: NDArray[np.integer], width: int) -> bytes:
    bits = (codes.astype(np.int64, copy=False).view(np.uint64)[:, None] >> _places(width)) & np.uint64(1)
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def _unpack_wide(data: NDArray[np.uint8], count: int, width: int, signed: bool) -> NDArray[np.integer]:
    bits = np.unpackbits(data, count=count * width, bitorder="little").reshape(count, width)
    words: NDArray[np.uint64] = (bits.astype(np.uint64) << _places(width)).sum(axis=1, dtype=np.uint64)
    if not signed:
        return words
    unused = np.uint64(64 - width)
    return (words << unused).view(np.int64) >> unused.view(np.int64)
