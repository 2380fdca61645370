"""A reader of protobuf's wire format that only skips: it finds where things lie without building them.

Reference: https://protobuf.dev/programming-guides/encoding/. Used to count nodes and tensors, and to leave large
weights out, before the real parser allocates anything.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Buffer(Protocol):
    """Bytes by position: `bytes`, `mmap.mmap` and `memoryview` all do."""

    def __getitem__(self, index: int, /) -> int: ...


class Malformed(ValueError):
    """The bytes are no protobuf message."""


class Field(NamedTuple):
    """One field: its number and wire type, where its tag starts, and where its value lies (after any length)."""

    number: int
    kind: int
    tag: int
    start: int
    end: int


def read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """The unsigned value at `at`, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise Malformed(f"it ends inside a number, at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Malformed(f"the number at byte {at - 10} has more than ten bytes")


def write_varint(value: int) -> bytes:
    """`value` >= 0 as a varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message that occupies data[start:end]."""
    at = start
    while at < end:
        tag = at
        key, at = read_varint(data, at, end)
        number, kind = key >> 3, key & 7
        value = at
        match kind:
            case 0:
                _, at = read_varint(data, at, end)
            case 1:
                at += 8
            case 2:
                length, value = read_varint(data, at, end)
                at = value + length
            case 5:
                at += 4
            case _:
                raise Malformed(f"the field at byte {tag} has wire type {kind}, which ONNX files never have")
        if number == 0 or at > end:
            raise Malformed(f"the field at byte {tag} reaches past the end of its message")
        yield Field(number, kind, tag, value, at)
