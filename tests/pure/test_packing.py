"""Packed codes: exact sizes, there and back for every width, and nothing damaged read."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.packing import PIECE, pack, packed_size, unpack
from tests.refusals import refused

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

WIDTHS = [*range(1, 18), 24, 31, 32, 33, 53, 63, 64]
COUNTS = [0, 1, 2, 3, 7, 8, 9, 64, 65]


def slow_pack(codes: list[int], width: int) -> bytes:
    """One long integer of all codes, the first lowest."""
    whole: int = sum((code % 2**width) << (i * width) for i, code in enumerate(codes))
    return whole.to_bytes((len(codes) * width + 7) // 8, "little")


def drawn(width: int, count: int, signed: bool) -> list[int]:
    low = -(1 << (width - 1)) if signed else 0
    rng = np.random.default_rng(width)
    codes = [low + int.from_bytes(rng.bytes(8), "little") % 2**width for _ in range(count)]
    return [low, low + 2**width - 1, *codes][:count]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_there_and_back(width: int, signed: bool) -> None:
    for count in COUNTS:
        codes = drawn(width, count, signed)
        data = pack(np.array(codes, np.int64 if signed else np.uint64), width)
        assert data == slow_pack(codes, width)
        assert len(data) == packed_size(count, width) == (count * width + 7) // 8
        found = unpack(data, count, width, signed=signed)
        assert found.dtype == (np.int64 if signed else np.uint64)
        assert found.tolist() == codes
        assert unpack(memoryview(data), count, width, signed=signed).tolist() == codes


@pytest.mark.parametrize("width", [1, 3, 4, 7, 8, 12, 63, 64])
@pytest.mark.parametrize("count", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 5])
def test_pieces_leave_no_gap(width: int, count: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**64, count, np.uint64, endpoint=False) >> np.uint64(64 - width)
    data = pack(codes, width)
    assert len(data) == packed_size(count, width)
    np.testing.assert_array_equal(unpack(data, count, width, signed=False), codes)
    at = PIECE - 8  # eight codes begin with a byte
    assert (
        data[at * width // 8 :][: 2 * width]
        == slow_pack(codes[at : at + 16].tolist(), width)[: len(data) - at * width // 8]
    )


@given(st.integers(1, 64), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_the_lowest_bits_of_any_integers(width: int, codes: list[int]) -> None:
    data = pack(np.array(codes, np.int64), width)
    assert data == slow_pack(codes, width)
    assert unpack(data, len(codes), width, signed=False).tolist() == [code % 2**width for code in codes]


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">i4"]
)
def test_any_integers_are_packed(dtype: str) -> None:
    codes = np.array([[1, 5, 0], [7, 2, 3]]).astype(dtype)
    assert pack(codes, 3) == slow_pack([1, 5, 0, 7, 2, 3], 3)
    assert pack(codes.T, 3) == slow_pack([1, 7, 5, 2, 0, 3], 3), "in the tensor's order, not the memory's"
    assert pack(codes[:, ::2], 3) == slow_pack([1, 0, 7, 3], 3)


@pytest.mark.parametrize("width", WIDTHS)
def test_other_sizes_are_refused(width: int) -> None:
    data = pack(np.zeros(5, np.int64), width)
    for wrong in (data[:-1], data + b"\0", b""):
        message = refused(partial(unpack, wrong, 5, width, signed=False))
        assert f"5 codes of {width} bits are {len(data)} bytes, not {len(wrong)}" in message
    assert "0 bytes, not 1" in refused(lambda: unpack(b"\0", 0, width, signed=True))


@pytest.mark.parametrize("width", [width for width in WIDTHS if 3 * width % 8])
def test_bits_behind_the_last_code_are_refused(width: int) -> None:
    data = bytearray(pack(np.full(3, -1), width))
    assert unpack(bytes(data), 3, width, signed=True).tolist() == [-1] * 3
    for place in range(3 * width % 8, 8):
        damaged = bytes(data[:-1]) + bytes([data[-1] | 1 << place])
        assert "not zero" in refused(partial(unpack, damaged, 3, width, signed=True))


def test_a_size_nobody_has_is_refused_at_once() -> None:
    assert "the data is damaged" in refused(lambda: unpack(b"abc", 2**60, 64, signed=False))
