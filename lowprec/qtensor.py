"""A quantized tensor: integers, the format they are codes of, and what they are multiplied by.

    value = (code - zero_point) * scale * step of the format                              (equation 12)

Scale and zero point are of the whole tensor, or of each index of one axis. In a file each code takes exactly the bits
of its format: `to_bytes` is a header, whose size depends on rank and number of scales alone, and ceil(n * bits / 8)
bytes. Equations are numbered in docs/numerics.md.
"""

import struct
import zlib
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowprec.encoding import Codes, as_codes, code_dtype, code_range, decode, encode
from lowprec.errors import UsageError
from lowprec.formats import Binary, Float, Format, Int, parse_format
from lowprec.packing import pack, packed_size, unpack
from lowprec.rounding import DRAWN, Reals, Rounding, as_draws, as_reals, refuse_nan, rounded, whole

MAGIC = b"LPQT"
VERSION = 1
WHOLE = 255
"""The axis of a scale that is the whole tensor's."""

MOST_ELEMENTS = 1 << 40

Number = TypeVar("Number", np.float32, np.int32)

_HEAD = struct.Struct("<4sBBB64sII")
"""Magic, version, rank, axis, format's name, number of scales, CRC-32 of all that follows it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QTensor:
    """`codes` of `format`; `scale` and `zero_point` have one element, or as many as `axis` is long."""

    codes: Codes
    format: Format
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    axis: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def packed_bytes(self) -> int:
        """Bytes that the codes take in a file."""
        return packed_size(self.codes.size, self.format.bits)

    def dequantize(self) -> NDArray[np.float32]:
        """The values, in float32: the difference exact, the product rounded once."""
        scale = _along(self.scale, self.axis, self.codes.ndim)
        if isinstance(self.format, Int):
            zero = _along(self.zero_point, self.axis, self.codes.ndim)
            return np.asarray((self.codes.astype(np.float64) - zero).astype(np.float32) * scale, np.float32)
        return np.asarray(decode(self.codes, self.format).astype(np.float32) * scale, np.float32)

    def to_bytes(self) -> bytes:
        """Header and packed codes."""
        axis = WHOLE if self.axis is None else self.axis
        name = str(self.format).encode("ascii")
        fields = (MAGIC, VERSION, self.codes.ndim, axis, name, self.scale.size)
        tail = struct.pack(f"<{self.codes.ndim}Q", *self.codes.shape)
        tail += self.scale.astype("<f4").tobytes() + self.zero_point.astype("<i4").tobytes()
        tail += pack(self.codes, self.format.bits)
        return _HEAD.pack(*fields, zlib.crc32(tail, zlib.crc32(_HEAD.pack(*fields, 0)))) + tail

    @classmethod
    def from_bytes(cls, data: bytes) -> "QTensor":
        """The tensor that `to_bytes` wrote; anything else is refused."""
        return _read(memoryview(data))


def quantize(
    x: ArrayLike,
    fmt: Format,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    *,
    scale: ArrayLike | None = None,
    zero_point: ArrayLike | None = None,
    axis: int | None = None,
    bits: ArrayLike | None = None,
    bits_used: int = DRAWN,
) -> QTensor:
    """`x / scale`, rounded to `fmt`, plus the zero point; without a scale `x` is taken as it is.

    With the scale of each index of an axis, give `axis`. A zero point is for `Int` alone. `fitted_scale` finds a scale.
    """
    values = as_reals(x)
    scales, zeros = _scales(scale, values, axis), _zeros(zero_point, values, fmt, axis)
    count = max(scales.size, zeros.size)
    scales, zeros = np.broadcast_to(scales, count), np.broadcast_to(zeros, count)
    draws = as_draws(bits, values, rounding, bits_used)
    refuse_nan(values, fmt)
    axis = None if axis is None else _axis(axis, values.ndim)
    with np.errstate(over="ignore", under="ignore"):
        parts = np.asarray(values / _along(scales, axis, values.ndim).astype(values.dtype), values.dtype)
    if isinstance(fmt, Int):
        steps = whole(parts.astype(np.float64), rounding, draws, bits_used)
        codes = as_codes(steps + _along(zeros, axis, values.ndim), fmt)
    else:
        codes = encode(rounded(parts, fmt, rounding, draws, bits_used), fmt)
    return QTensor(codes=codes, format=fmt, scale=np.array(scales), zero_point=np.array(zeros), axis=axis)


def fitted_scale(x: ArrayLike, fmt: Format, *, axis: int | None = None) -> NDArray[np.float32]:
    """The smallest scale with which nothing in `x` saturates, of the tensor or of each index of `axis`; 1 for zeros."""
    values = np.abs(as_reals(x))
    refuse_nan(values, fmt)
    if axis is None:
        largest = np.atleast_1d(values.max(initial=0.0))
    else:
        kept = _axis(axis, values.ndim)
        rest = tuple(i for i in range(values.ndim) if i != kept)
        largest = values.max(axis=rest, initial=0.0)
    top = float(decode(np.array(code_range(fmt)[1]), fmt)) if not isinstance(fmt, Float) else fmt.highest
    if not np.isfinite(largest).all():
        raise UsageError("the values hold an infinity: no scale makes it finite, clip them first")
    scales = (largest / top).astype(np.float32)
    return np.asarray(np.where(scales > 0, scales, np.float32(1)), np.float32)


def _scales(scale: ArrayLike | None, values: Reals, axis: int | None) -> NDArray[np.float32]:
    scales = np.atleast_1d(np.asarray(1.0 if scale is None else scale, np.float32))
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise UsageError("a scale is zero, negative or not finite: give finite numbers above zero")
    _require_fit("scale", scales.shape, values, axis)
    return scales


def _zeros(zero_point: ArrayLike | None, values: Reals, fmt: Format, axis: int | None) -> NDArray[np.int32]:
    if zero_point is None:
        return np.zeros(1, np.int32)
    given = np.atleast_1d(np.asarray(zero_point))
    if not isinstance(fmt, Int):
        raise UsageError(f"{fmt} has no zero point: leave it out, or quantize to Int")
    low, high = (max(fmt.codes[0], -(1 << 31)), min(fmt.codes[1], (1 << 31) - 1))
    if given.dtype.kind not in "iu" or (given < low).any() or (given > high).any():
        raise UsageError(f"a zero point is no integer of {fmt}: give integers from {low} to {high}")
    _require_fit("zero_point", given.shape, values, axis)
    return given.astype(np.int32)


def _require_fit(name: str, shape: tuple[int, ...], values: Reals, axis: int | None) -> None:
    length = 1 if axis is None else values.shape[_axis(axis, values.ndim)]
    if shape not in {(1,), (length,)}:
        allowed = "one number, or `axis` and as many as it is long" if axis is None else f"1 or {length} numbers"
        raise UsageError(f"{name} is of shape {shape} for values of shape {values.shape}: give {allowed}")


def _axis(axis: int, rank: int) -> int:
    if type(axis) is not int or not -rank <= axis < rank:
        raise UsageError(f"axis is {axis!r} for {rank} dimensions: give an integer from {-rank} to {rank - 1}")
    return axis % rank


def _along(numbers: NDArray[Number], axis: int | None, rank: int) -> NDArray[Number]:
    """Shaped to be broadcast over a tensor of `rank` along `axis`."""
    if axis is None or numbers.size == 1:
        return numbers.reshape((1,) * rank)
    return numbers.reshape(tuple(numbers.size if i == axis else 1 for i in range(rank)))


def _read(data: memoryview) -> QTensor:
    if len(data) < _HEAD.size or data[:4] != MAGIC:
        raise UsageError(f"{len(data)} bytes are no packed tensor: it begins with {MAGIC.decode()} and a header")
    magic, version, rank, axis, name, count, crc = _HEAD.unpack_from(data)
    if version != VERSION:
        raise UsageError(f"a packed tensor of version {version}: this lowprec reads version {VERSION}")
    head = _HEAD.pack(magic, version, rank, axis, name, count, 0)
    if zlib.crc32(data[_HEAD.size :], zlib.crc32(head)) != crc:
        raise UsageError("a packed tensor's checksum is wrong: the data is damaged, write it again")
    fmt = parse_format(name.rstrip(b"\0").decode("ascii", "replace"))
    begin = _HEAD.size + 8 * rank
    body = begin + 8 * count
    if rank > 64 or count < 1 or body > len(data):
        raise UsageError("a packed tensor's header does not fit its data: the data is damaged, write it again")
    shape = struct.unpack_from(f"<{rank}Q", data, _HEAD.size)
    if prod(shape) > MOST_ELEMENTS or (axis != WHOLE and axis >= rank) or count not in {1, _length(shape, axis)}:
        raise UsageError(f"a packed tensor of shape {shape} with {count} scales: the data is damaged, write it again")
    scale = np.frombuffer(data, "<f4", count, begin).astype(np.float32)
    zeros = np.frombuffer(data, "<i4", count, begin + 4 * count).astype(np.int32)
    signed = code_range(fmt)[0] < 0
    codes = unpack(data[body:], prod(shape), fmt.bits, signed=signed).astype(code_dtype(fmt)).reshape(shape)
    if isinstance(fmt, Float | Binary) and zeros.any():
        raise UsageError(f"a packed tensor of {fmt} with a zero point: the data is damaged, write it again")
    return QTensor(codes=codes, format=fmt, scale=scale, zero_point=zeros, axis=None if axis == WHOLE else axis)


def _length(shape: tuple[int, ...], axis: int) -> int:
    return 1 if axis == WHOLE else shape[axis]
