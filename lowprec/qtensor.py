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
from numpy.typing import NDArray

from lowprec.encoding import Codes, code_dtype, code_range, decode
from lowprec.errors import UsageError, shown
from lowprec.formats import Format, Int, parse_format
from lowprec.packing import pack, packed_size, unpack
from lowprec.rounding import require_format

MAGIC = b"LPQT"
VERSION = 1
WHOLE = 255
"""The axis of a scale that is the whole tensor's."""

MOST_RANK = 64
MOST_ELEMENTS = 1 << 40

Number = TypeVar("Number", np.float32, np.int32)

_HEAD = struct.Struct("<4sBBB64sII")
"""Magic, version, rank, axis, format's name, number of scales, CRC-32 of all of it (with 0 in this place)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QTensor:
    """`codes` of `format`; `scale` and `zero_point` have one element each, or as many as `axis` is long."""

    codes: Codes
    format: Format
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    axis: int | None = None

    def __post_init__(self) -> None:
        require_format(self.format)
        arrays = {"codes": self.codes, "scale": self.scale, "zero_point": self.zero_point}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise UsageError(f"{name} is {shown(array)}: give a NumPy array")
        if self.scale.dtype != np.float32 or self.zero_point.dtype != np.int32:
            found = f"scale is of {self.scale.dtype}, zero_point of {self.zero_point.dtype}"
            raise UsageError(f"{found}: give float32 and int32")
        low, high = code_range(self.format)
        integers = self.codes.dtype.kind in "iu"
        if not integers or (self.codes.size and not low <= self.codes.min() <= self.codes.max() <= high):
            raise UsageError(f"codes of {self.format} are integers from {low} to {high}: these are not")
        if self.axis is not None and not (type(self.axis) is int and 0 <= self.axis < self.codes.ndim):
            raise UsageError(f"axis is {shown(self.axis)} for {self.codes.ndim} dimensions: give one of them")
        require_scales(self.scale)
        require_zeros(self.zero_point, self.format)
        length = 1 if self.axis is None else self.codes.shape[self.axis]
        if self.scale.shape != self.zero_point.shape or self.scale.shape not in {(1,), (length,)}:
            raise UsageError(
                f"scales of shape {self.scale.shape} and zero points of shape {self.zero_point.shape} for a tensor of "
                f"shape {self.codes.shape}: give one of each, or as many as `axis` is long"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def packed_bytes(self) -> int:
        """Bytes that the codes take in a file."""
        return packed_size(self.codes.size, self.format.bits)

    def dequantize(self) -> NDArray[np.float32]:
        """The values in float32: difference and product in float64, then rounded once."""
        codes = decode(self.codes, self.format)
        if isinstance(self.format, Int):
            codes = codes - along(self.zero_point, self.axis, self.codes.ndim)
        with np.errstate(over="ignore"):  # fp64 may be beyond float32
            return (codes * along(self.scale, self.axis, self.codes.ndim).astype(np.float64)).astype(np.float32)

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
        if not isinstance(data, bytes | bytearray | memoryview):
            raise UsageError(f"a packed tensor is given as {type(data).__name__}: give bytes")
        return _read(memoryview(bytes(data)))


def require_scales(scale: NDArray[np.float32]) -> None:
    """Refuse what nothing can be divided by."""
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise UsageError("a scale is zero, negative or not finite: give finite numbers above zero")


def require_zeros(zero_point: NDArray[np.integer], fmt: Format) -> None:
    """Refuse zero points that are no codes."""
    if not isinstance(fmt, Int):
        if zero_point.any():
            raise UsageError(f"{fmt} has no zero point: leave it out, or quantize to Int")
        return
    low, high = max(fmt.codes[0], -(1 << 31)), min(fmt.codes[1], (1 << 31) - 1)
    if zero_point.dtype.kind not in "iu" or (zero_point < low).any() or (zero_point > high).any():
        raise UsageError(f"a zero point is no integer of {fmt}: give integers from {low} to {high}")


def along(numbers: NDArray[Number], axis: int | None, rank: int) -> NDArray[Number]:
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
        raise _damaged("its checksum is wrong")
    fmt = parse_format(name.rstrip(b"\0").decode("ascii", "replace"))
    begin = _HEAD.size + 8 * rank
    body = begin + 8 * count
    if rank > MOST_RANK or body > len(data):
        raise _damaged("its header does not fit its size")
    shape = struct.unpack_from(f"<{rank}Q", data, _HEAD.size)
    if prod(max(extent, 1) for extent in shape) > MOST_ELEMENTS:
        raise _damaged(f"its shape is {shape}")
    words = unpack(data[body:], prod(shape), fmt.bits, signed=code_range(fmt)[0] < 0)
    return QTensor(
        codes=words.astype(code_dtype(fmt)).reshape(shape),
        format=fmt,
        scale=np.frombuffer(data, "<f4", count, begin).astype(np.float32),
        zero_point=np.frombuffer(data, "<i4", count, begin + 4 * count).astype(np.int32),
        axis=None if axis == WHOLE else axis,
    )


def _damaged(how: str) -> UsageError:
    return UsageError(f"a packed tensor is damaged, {how}: write it again")
