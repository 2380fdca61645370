"""An array in as few bytes as its values need, and back with every bit as it was.

    plain          as in memory
    bits:N         integers of N bits side by side (`lowprec.packing`): two's complement, or unsigned where they are
    signs          integers that are -1 or +1, a bit each: 1 for -1
    bfloat16       float32 whose lower halves are all zero: the upper ones
    float16        float32 that float16 holds
    twofold        patterns of bfloat16, as many again behind them: together the numbers of float16, which are written
    deflate:N      N bytes of zlib: tables, that repeat themselves

`packed` looks at the values alone, so that it is no matter which kernel an array belongs to. What is read may be
hostile: `require` refuses by arithmetic, before anything is allocated, and `unpack_into` fills what it was given, in
bounded time. Both say what is wrong in a ValueError.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from lowprec import packing as codes
from lowprec.errors import UsageError

Array: TypeAlias = NDArray[Any]
Bytes: TypeAlias = NDArray[np.uint8]

MOST_BITS = 16
SMALL = 4096
"""Bytes of an array that is not worth a look."""

_SAVED = 16  # packed when one part in so many is saved
_TABLE = 1 << 20  # larger arrays are weights, whose bits are random: zlib would only cost time
_REPEATING = 4  # zlib is slower to read than the others, so it must save one part in so many of what they leave
_FAST = 1  # zlib's level: a sixth of the time of its default one, for tables that get as small
_MOST_INFLATED = 1032  # zlib's own limit: 258 bytes for two bits
_PIECE = 1 << 16
_LOWER_HALF = np.uint32(0xFFFF)


@dataclass(frozen=True, slots=True)
class Plain:
    def __str__(self) -> str:
        return "plain"


@dataclass(frozen=True, slots=True)
class Bits:
    width: int

    def __str__(self) -> str:
        return f"bits:{self.width}"


@dataclass(frozen=True, slots=True)
class Signs:
    def __str__(self) -> str:
        return "signs"


@dataclass(frozen=True, slots=True)
class Half:
    """`name`: bfloat16 or float16."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Twofold:
    def __str__(self) -> str:
        return "twofold"


@dataclass(frozen=True, slots=True)
class Deflate:
    size: int

    def __str__(self) -> str:
        return f"deflate:{self.size}"


Packing: TypeAlias = Plain | Bits | Signs | Half | Twofold | Deflate

_KINDS = "plain, bits:1 to bits:16, signs, bfloat16, float16, twofold or deflate:N"


def parse(text: str) -> Packing:
    """The packing of that name; ValueError for any other."""
    if text == "plain":
        return Plain()
    if text == "signs":
        return Signs()
    if text == "twofold":
        return Twofold()
    if text in ("bfloat16", "float16"):
        return Half(text)
    if found := re.fullmatch(r"(bits|deflate):([1-9][0-9]{0,15})", text):
        number = int(found[2])
        if found[1] == "deflate":
            return Deflate(number)
        if number <= MOST_BITS:
            return Bits(number)
    raise ValueError(f"{text[:40]!r}, not {_KINDS}")


def packed_size(packing: Packing, dtype: np.dtype[np.generic], count: int) -> int:
    """The bytes that `count` elements of `dtype` take."""
    match packing:
        case Plain():
            return count * dtype.itemsize
        case Bits(width):
            return codes.packed_size(count, width)
        case Signs():
            return codes.packed_size(count, 1)
        case Half():
            return 2 * count
        case Twofold():
            return count
        case Deflate(size):
            return size
    assert_never(packing)


def require(packing: Packing, dtype: np.dtype[np.generic], count: int) -> None:
    """Refuse a packing that `count` elements of `dtype` cannot have."""
    match packing:
        case Bits(width) if dtype.kind not in "iu" or width >= 8 * dtype.itemsize:
            raise ValueError(f"{packing} of {dtype.name}, which takes integers of more bits")
        case Signs() if dtype.kind != "i":
            raise ValueError(f"{packing} of {dtype.name}, which takes integers that have signs")
        case Half(name) if dtype != np.float32:
            raise ValueError(f"{name} of {dtype.name}, which takes float32")
        case Twofold() if dtype != np.uint16 or count % 2:
            raise ValueError(f"{packing} of {count} {dtype.name}, which takes uint16 in pairs")
        case Deflate(size) if count * dtype.itemsize > _MOST_INFLATED * size:
            raise ValueError(f"{packing} for {count * dtype.itemsize} bytes, which zlib cannot make of it")


def packed(array: Array) -> tuple[Packing, Bytes]:
    """The smallest way to write the array, and the bytes of it."""
    flat = np.ascontiguousarray(array).reshape(-1)
    plain = flat.view(np.uint8)
    if plain.size < SMALL:
        return Plain(), plain
    packing = _narrowed(flat)
    best = packed_size(packing, flat.dtype, flat.size)
    if plain.size <= _TABLE:
        deflated = zlib.compress(plain.data, _FAST)
        if best - len(deflated) >= best // _REPEATING:
            return Deflate(len(deflated)), np.frombuffer(deflated, np.uint8)
    if plain.size - best < plain.size // _SAVED:
        return Plain(), plain
    return packing, pack_as(flat, packing)


def unpack_into(flat: Array, data: Bytes, packing: Packing) -> None:
    """Fill a flat, contiguous array with what `packed` made `data` of."""
    match packing:
        case Plain():
            flat.view(np.uint8)[:] = data
        case Bits(width):
            _unpack_bits(flat, data, width)
        case Signs():
            _unpack_signs(flat, data)
        case Half("bfloat16"):
            _widen(flat.view(np.uint32), data.view(np.uint16))
        case Half():
            flat[:] = data.view(np.float16)
        case Twofold():
            for near, rest, numbers in zip(*_parts(flat), _pieces(data.view(np.float16)), strict=True):
                near[:], rest[:] = _taken_apart(numbers.astype(np.float32))
        case Deflate():
            _inflate(flat.view(np.uint8), data)
        case _:
            assert_never(packing)


def _narrowed(flat: Array) -> Packing:
    """Fewer bits an element, the same for all."""
    if flat.dtype.kind == "i" and all((np.abs(piece) == 1).all() for piece in _pieces(flat)):
        return Signs()
    if flat.dtype == np.uint16 and flat.size % 2 == 0 and all(map(_is_twofold, *_parts(flat))):
        return Twofold()
    if flat.dtype.kind in "iu":
        width = _width(flat)
        return Bits(width) if width <= MOST_BITS else Plain()
    if flat.dtype == np.float32:
        if not any((piece & _LOWER_HALF).any() for piece in _pieces(flat.view(np.uint32))):
            return Half("bfloat16")
        if all(map(_is_float16, _pieces(flat))):
            return Half("float16")
    return Plain()


def _width(flat: Array) -> int:
    """The bits that hold every element, with the sign where the type has one."""
    low, high = int(flat.min()), int(flat.max())
    digits = max(value.bit_length() if value >= 0 else (~value).bit_length() for value in (low, high))
    return max(1, digits + (flat.dtype.kind == "i"))


def _is_float16(piece: Array) -> bool:
    """Whether float16 has these very numbers; NaNs it has not: machines differ in which NaN comes back."""
    with np.errstate(over="ignore"):
        back = piece.astype(np.float16).astype(np.float32)
    same = np.array_equal(back.view(np.uint32), piece.view(np.uint32))
    return same and not bool(np.isnan(back).any())


def _parts(flat: Array) -> tuple[Iterator[Array], Iterator[Array]]:
    """Pieces of the first half, and of the second."""
    half = flat.size // 2
    return _pieces(flat[:half]), _pieces(flat[half:])


def _is_twofold(near: Array, rest: Array) -> bool:
    """Whether these are the parts of numbers that float16 has."""
    numbers = _put_together(near, rest)
    return _is_float16(numbers) and np.array_equal((near, rest), _taken_apart(numbers))


def _put_together(near: Array, rest: Array) -> NDArray[np.float32]:
    """The sums of bfloat16 numbers."""
    high, low = np.empty(near.size, np.float32), np.empty(near.size, np.float32)
    for part, halves in ((high, near), (low, rest)):
        _widen(part.view(np.uint32), halves)
    with np.errstate(invalid="ignore", over="ignore"):
        high += low
    return high


def _taken_apart(numbers: NDArray[np.float32]) -> tuple[Array, Array]:
    """The patterns of the nearest bfloat16 numbers, and of what is left."""
    words = numbers.view(np.uint32)
    near = (words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))) & ~_LOWER_HALF
    with np.errstate(invalid="ignore"):
        rest = (numbers - near.view(np.float32)).view(np.uint32)
    return (near >> np.uint32(16)).astype(np.uint16), (rest >> np.uint32(16)).astype(np.uint16)


def pack_as(flat: Array, packing: Packing) -> Bytes:
    """The bytes of a flat array that has no more bits than the packing."""
    match packing:
        case Bits(width):
            return np.frombuffer(codes.pack(flat, width), np.uint8)
        case Signs():
            return np.packbits(flat < 0, bitorder="little")
        case Half("bfloat16"):
            return (flat.view(np.uint32) >> np.uint32(16)).astype(np.uint16).view(np.uint8)
        case Twofold():
            whole = (_put_together(near, rest) for near, rest in zip(*_parts(flat), strict=True))
            return np.concatenate([part.astype(np.float16) for part in whole]).view(np.uint8)
        case _:
            return flat.astype(np.float16).view(np.uint8)


def _unpack_bits(flat: Array, data: Bytes, width: int) -> None:
    try:
        codes.unpack_into(flat, data, width)
    except UsageError as problem:
        raise ValueError(str(problem)) from None


def _unpack_signs(flat: Array, data: Bytes) -> None:
    for piece, bits in zip(_pieces(flat), _pieces(data, _PIECE // 8), strict=True):
        piece[:] = np.unpackbits(bits, count=piece.size, bitorder="little")
        np.subtract(1, 2 * piece, out=piece)


def _widen(words: NDArray[np.uint32], halves: NDArray[np.uint16]) -> None:
    """Upper halves to words whose lower halves are zero, piece by piece: both passes in the cache."""
    for piece, half in zip(_pieces(words), _pieces(halves), strict=True):
        piece[:] = half
        piece <<= np.uint32(16)


def _inflate(whole: Bytes, data: Bytes) -> None:
    """Exactly as many bytes as `whole` has, out of all of `data`."""
    stream, filled = zlib.decompressobj(), 0
    try:
        for piece in _pieces(data):
            rest: bytes = piece.tobytes()
            while rest:
                made = stream.decompress(rest, max_length=_PIECE)
                if filled + len(made) > whole.size or stream.unused_data:
                    raise ValueError("it holds more than the array")
                whole[filled : filled + len(made)] = np.frombuffer(made, np.uint8)
                filled, rest = filled + len(made), stream.unconsumed_tail
    except zlib.error as problem:
        raise ValueError(f"zlib cannot read it: {problem}") from None
    if filled != whole.size or not stream.eof:
        raise ValueError(f"it holds {filled} bytes, not {whole.size}")


def _pieces(flat: Array, size: int = _PIECE) -> Iterator[Array]:
    for begin in range(0, flat.size, size):
        yield flat[begin : begin + size]
