"""Arrays in fewer bytes: every bit comes back, the sizes are the promised ones, and nothing hostile is followed."""

import re
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec import lossless
from lowprec.lossless import (
    SMALL,
    Bits,
    Deflate,
    Half,
    Packing,
    Plain,
    Signs,
    Twofold,
    pack_as,
    packed,
    packed_size,
    parse,
    unpack_into,
)

Array = NDArray[Any]

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64"]
COUNTS = [0, 1, 2, 3, 7, 8, 9, 1023, 1024, 1025, 4097, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 131_071]


def random_bits(dtype: str, count: int, seed: int = 0) -> Array:
    """Any bits at all: NaNs of every payload, both zeros, subnormal numbers, infinities."""
    size = count * np.dtype(dtype).itemsize
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).view(dtype)


def unpacked(data: Array, packing: Packing, like: Array) -> Array:
    """Out of a copy that starts anywhere, into memory full of other bits."""
    found = random_bits("uint8", like.nbytes, seed=9).view(like.dtype)
    unpack_into(found, data, packing)
    return found


def assert_back(array: Array) -> Packing:
    """The array survives; the packing may be read, and its size is that of the bytes."""
    packing, data = packed(array)
    assert parse(str(packing)) == packing
    assert data.size == packed_size(packing, array.dtype, array.size) <= array.nbytes
    lossless.require(packing, array.dtype, array.size)
    assert unpacked(data, packing, array).tobytes() == array.tobytes()
    return packing


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, "bool"])
def test_any_bits_come_back(dtype: str, count: int) -> None:
    array = random_bits("uint8", count).astype(bool) if dtype == "bool" else random_bits(dtype, count)
    assert assert_back(array) == Plain() or dtype == "bool"


@pytest.mark.parametrize("width", range(1, 17))
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_take_their_bits(dtype: str, width: int) -> None:
    """From the lowest to the highest code of so many bits."""
    kind = np.dtype(dtype)
    if width > 8 * kind.itemsize:
        return
    low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if kind.kind == "i" else (0, (1 << width) - 1)
    array = np.random.default_rng(width).integers(low, high, 9001, kind, endpoint=True)
    array[:2] = low, high
    saves = width * 16 <= 8 * kind.itemsize * 15
    assert assert_back(array) == (Bits(width) if saves else Plain())
    if saves:
        _, data = packed(array)
        assert data.size == -(-9001 * width // 8)


@given(
    dtype=st.sampled_from(INTEGERS),
    width=st.integers(1, 16),
    count=st.integers(0, 400),
    seed=st.integers(0, 99),
)
def test_codes_of_any_size_and_number(dtype: str, width: int, count: int, seed: int) -> None:
    """Small arrays too, which `packed` would leave as they are."""
    kind = np.dtype(dtype)
    width = min(width, 8 * kind.itemsize - 1)
    array = random_bits("int64" if kind.kind == "i" else "uint64", count, seed) >> (64 - width)
    array = array.astype(kind)
    data = pack_as(array, Bits(width))
    assert data.size == packed_size(Bits(width), kind, count)
    assert unpacked(data, Bits(width), array).tobytes() == array.tobytes()


@pytest.mark.parametrize("value", [0, 1, -1, -2, 127, -128, 32767, -32768])
def test_one_code_alone(value: int) -> None:
    """All equal: zlib has them in a few bytes, and the bits they need are counted rightly all the same."""
    array = np.full(SMALL, value, np.int32)
    assert isinstance(assert_back(array), Deflate)
    assert lossless._width(array) == {0: 1, 1: 2, -1: 1, -2: 2, 127: 8, -128: 8, 32767: 16, -32768: 16}[value]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("count", [SMALL, 5001, 65_535, 65_537, 150_001])
def test_signs(dtype: str, count: int) -> None:
    array = np.where(np.random.default_rng(count).random(count) < 0.5, -1, 1).astype(dtype)
    assert assert_back(array) == Signs()
    assert lossless.packed(array)[1].size == -(-count // 8)
    array[-1] = 0
    assert assert_back(array) == Bits(2)


@pytest.mark.parametrize("count", [SMALL // 4, 5001, 65_535, 65_537, 150_000])
def test_bfloat16_in_float32(count: int) -> None:
    """Every bit pattern of bfloat16: NaNs with payloads, signalling or not, both zeros, subnormal numbers."""
    halves = random_bits("uint16", count)
    halves[:8] = [0, 0x8000, 1, 0x8001, 0x7F80, 0xFF80, 0x7F81, 0xFFFF]
    array = (halves.astype(np.uint32) << 16).view(np.float32)
    assert assert_back(array) == Half("bfloat16")
    array.view(np.uint32)[-1] |= 1
    assert not isinstance(assert_back(array), Half)


@pytest.mark.parametrize("count", [SMALL // 4, 65_537])
def test_float16_in_float32(count: int) -> None:
    halves = random_bits("float16", count)
    halves = np.where(np.isnan(halves), np.float16(1 / 3), halves)
    halves[:6] = [0.0, -0.0, 6e-8, -6e-8, np.inf, -65504.0]
    array = halves.astype(np.float32)
    assert assert_back(array) == Half("float16")
    for other in (np.nan, 65520.0, 1e-8, 1 + 2.0**-11):  # NaN, too large, too small, one bit too many
        array[-1] = other
        assert not isinstance(assert_back(array), Half)


def twofold(numbers: NDArray[np.float16]) -> NDArray[np.uint16]:
    whole = numbers.astype(np.float32)
    near = whole.astype("bfloat16").astype(np.float32)
    return np.stack([near, whole - near]).astype("bfloat16").view(np.uint16)


@pytest.mark.parametrize("count", [SMALL // 2, 65_535, 65_537])
def test_float16_in_parts(count: int) -> None:
    """Every finite number but -0."""
    halves = random_bits("float16", count)
    halves = np.where(np.isfinite(halves) & (halves != 0), halves, np.float16(1 / 3))
    halves[:6] = [0.0, 6e-8, -6e-8, 65504.0, -65504.0, 2049.0]
    array = twofold(halves)
    assert assert_back(array) == Twofold()
    assert lossless.packed(array)[1].size == 2 * count
    array[1, -1] ^= 1
    assert assert_back(array) != Twofold()


def test_a_nan_of_float16_stays_in_float32() -> None:
    """Machines differ in which NaN float16 gives back."""
    array = np.full(SMALL, 1 / 3, np.float16).astype(np.float32)
    array[np.arange(SMALL) % 2 == 0] = random_bits("float16", SMALL // 2).clip(-9, 9)
    array.view(np.uint32)[5] = 0x7FC02000
    assert not isinstance(assert_back(array), Half)


@given(st.lists(st.floats(width=32), min_size=1, max_size=50), st.integers(SMALL // 4, SMALL))
def test_any_floats(values: list[float], count: int) -> None:
    assert_back(np.resize(np.array(values, np.float32), count))


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
def test_small_arrays_stay_as_they_are(dtype: str) -> None:
    array = np.zeros(SMALL // np.dtype(dtype).itemsize - 1, dtype)
    assert assert_back(array) == Plain()


def test_little_gain_is_none() -> None:
    codes = np.random.default_rng(0).integers(-(2**14), 2**14, 5000, np.int16)
    assert assert_back(codes) == Bits(15)
    codes = np.random.default_rng(0).integers(-(2**15), 2**15, 5000, np.int16)
    assert assert_back(codes) == Plain()


def test_tables_are_deflated() -> None:
    """What repeats itself takes next to nothing; a large array is no table."""
    table = np.concatenate([random_bits("int32", 576), np.repeat(np.array([0, -1, 0], np.int32), [58, 3136, 58])])
    assert isinstance(assert_back(table), Deflate)
    assert packed(table)[1].size < 576 * 4 + 200
    assert assert_back(np.zeros((1 << 18) + 1, np.float32)) == Half("bfloat16")


def test_arrays_of_any_strides() -> None:
    whole = random_bits("int8", 3 * 50 * 40).reshape(3, 50, 40).astype(np.int16)
    turned = whole.transpose(2, 0, 1)
    packing, data = packed(turned)
    assert packing == Bits(8)
    assert unpacked(data, packing, turned.reshape(-1)).tobytes() == turned.tobytes()
    scalar = np.array(3.5, np.float32)
    assert packed(scalar)[1].tobytes() == scalar.tobytes()


@pytest.mark.parametrize(
    "text",
    ["", "none", "bits", "bits:", "bits:0", "bits:17", "bits:-1", "bits:01", "bits:1 ", "bits:\u0661", "bits:1\n",
     "bits:1e1", "bits:" + "9" * 5000, "deflate:0", "deflate:" + "9" * 17, "float32", "bfloat16:2", "x" * 9999],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_unknown_packings_are_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match="not plain, bits:1 to bits:16, signs, bfloat16, float16, twofold or deflate:N"
    ) as caught:
        parse(text)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


REFUSED: list[tuple[Packing, str, int, str]] = [
    (Bits(8), "int8", 9, "bits:8 of int8, which takes integers of more bits"),
    (Bits(9), "uint8", 9, "bits:9 of uint8"),
    (Bits(4), "float32", 9, "bits:4 of float32"),
    (Bits(1), "bool", 9, "bits:1 of bool"),
    (Half("bfloat16"), "float64", 9, "bfloat16 of float64, which takes float32"),
    (Half("float16"), "int32", 9, "float16 of int32"),
    (Signs(), "uint8", 9, "signs of uint8, which takes integers that have signs"),
    (Signs(), "float32", 9, "signs of float32, which takes integers that have signs"),
    (Twofold(), "uint16", 5001, "twofold of 5001 uint16, which takes uint16 in pairs"),
    (Twofold(), "int16", 5000, "twofold of 5000 int16, which takes uint16 in pairs"),
    (Deflate(10), "float32", 2581, "deflate:10 for 10324 bytes, which zlib cannot make of it"),
    (Deflate(10), "int8", 2**200, "which zlib cannot make of it"),
]


@pytest.mark.parametrize(("packing", "dtype", "count", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_packings_that_arrays_cannot_have(packing: Packing, dtype: str, count: int, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        lossless.require(packing, np.dtype(dtype), count)


def test_zlib_cannot_make_more_of_its_bytes_than_is_said() -> None:
    for size in (1 << 20, 1 << 24):
        assert size < lossless._MOST_INFLATED * len(zlib.compress(bytes(size), 9))


DEFLATED = zlib.compress(bytes(range(256)) * 1000)
HOSTILE: list[tuple[bytes, str]] = [
    (DEFLATED[:-1], "it holds 256000 bytes"),
    (DEFLATED[:-9], "bytes, not 256000"),
    (DEFLATED + b"\0", "it holds more than the array"),
    (DEFLATED + DEFLATED, "it holds more than the array"),
    (DEFLATED + bytes(1 << 17), "it holds more than the array"),
    (zlib.compress(bytes(1 << 24)), "it holds more than the array"),
    (zlib.compress(bytes(255_999)), "it holds 255999 bytes, not 256000"),
    (zlib.compress(bytes(256_001)), "it holds more than the array"),
    (zlib.compress(b""), "it holds 0 bytes"),
    (DEFLATED[:-4] + b"\0\0\0\0", "zlib cannot read it"),
    (b"\xff" * 99, "zlib cannot read it"),
]


@pytest.mark.parametrize(("data", "words"), HOSTILE, ids=range(len(HOSTILE)))
def test_streams_that_are_not_the_array(data: bytes, words: str) -> None:
    around = np.full(256_000 + 64, 7, np.uint8)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        unpack_into(around[32:-32], np.frombuffer(data, np.uint8), Deflate(len(data)))
    assert "\n" not in str(caught.value)
    assert (around[:32] == 7).all()
    assert (around[-32:] == 7).all(), "nothing is written beside the array"


def test_a_stream_in_many_pieces() -> None:
    """Input and output that fill their pieces again and again, both ends exact."""
    for content in (random_bits("uint8", 300_000), np.zeros(300_000, np.uint8), np.zeros(1 << 16, np.uint8)):
        data = np.frombuffer(zlib.compress(content.tobytes()), np.uint8)
        assert unpacked(data, Deflate(data.size), content).tobytes() == content.tobytes()


def test_bits_behind_the_last_code() -> None:
    data = np.array([0, 0, 0b1000_0000], np.uint8)
    with pytest.raises(ValueError, match="not zero"):
        unpack_into(np.empty(7, np.int8), data, Bits(3))


@pytest.mark.parametrize("packing", [Bits(10), Bits(14), Half("bfloat16"), Half("float16")], ids=str)
def test_unpacking_needs_little_more_than_its_result(packing: Packing) -> None:
    """In pieces: 4 MB are unpacked with less than 2 MB beside them."""
    array = np.zeros(1 << 20, np.float32 if isinstance(packing, Half) else np.int32)
    data = pack_as(array, packing)
    tracemalloc.start()
    unpack_into(array, data, packing)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20
