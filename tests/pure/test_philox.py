"""Random bits: the known answers of Philox4x32-10, and a function of seed, name, step and position alone."""

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.philox import key_of, philox4x32, random_bits
from tests.refusals import refused
from tests.scalar_philox import WORD, slow_philox

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def slow_bits(seed: int, name: str, count: int, step: int = 0, start: int = 0) -> list[int]:
    key = (seed % WORD, zlib.crc32(name.encode("utf-8")))
    found = []
    for i in range(start, start + count):
        block, word = divmod(i, 4)
        found.append(slow_philox((block % WORD, block // WORD, step, 0), key)[word])
    return found


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([WORD - 1] * 4, (WORD - 1, WORD - 1), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers(counter: list[int], key: tuple[int, int], words: list[int]) -> None:
    """The vectors that come with the authors' Random123."""
    found = philox4x32(np.array(counter, np.uint32), key)
    assert found.dtype == np.uint32
    assert found.tolist() == words
    a, b, c, d = counter
    assert list(slow_philox((a, b, c, d), key)) == words


@given(st.lists(st.tuples(*[st.integers(0, WORD - 1)] * 4), max_size=5), st.tuples(*[st.integers(0, WORD - 1)] * 2))
def test_counters_are_independent_of_each_other(
    counters: list[tuple[int, int, int, int]], key: tuple[int, int]
) -> None:
    found = philox4x32(np.array(counters, np.uint32).reshape(-1, 4), key)
    assert found.tolist() == [list(slow_philox(counter, key)) for counter in counters]


def test_counters_may_have_any_shape() -> None:
    counters = np.arange(24, dtype=np.uint32).reshape(2, 3, 4)
    assert np.array_equal(philox4x32(counters, (1, 2)).reshape(6, 4), philox4x32(counters.reshape(6, 4), (1, 2)))


STARTS = st.one_of(
    st.integers(0, 20), st.integers(2**34 - 9, 2**34 + 9), st.integers(2**63, 2**63 + 9), st.integers(0, 2**64 - 20)
)


@given(
    st.integers(-(2**40), 2**40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.integers(0, 19),
    st.integers(0, WORD - 1),
    STARTS,
)
def test_bits_are_the_twins(seed: int, name: str, count: int, step: int, start: int) -> None:
    found = random_bits(seed, name, count, step=step, start=start)
    assert found.dtype == np.uint32
    assert found.shape == (count,)
    assert found.tolist() == slow_bits(seed, name, count, step, start)


@given(st.integers(0, 40), st.integers(0, 40), STARTS.filter(lambda start: start < 2**64 - 80))
def test_parts_are_the_whole(first: int, second: int, start: int) -> None:
    whole = random_bits(3, "w", first + second, start=start)
    parts = random_bits(3, "w", first, start=start), random_bits(3, "w", second, start=start + first)
    assert np.array_equal(whole, np.concatenate(parts))


def test_the_last_element_has_bits() -> None:
    assert random_bits(0, "x", 1, start=2**64 - 1).tolist() == slow_bits(0, "x", 1, start=2**64 - 1)
    assert random_bits(0, "x", 0, start=2**64 - 1).size == 0


def test_positions_carry_into_the_second_word() -> None:
    """2^34 elements are 2^32 counters: there the first word begins at 0 again, and the bits do not."""
    found = random_bits(1, "x", 8, start=2**34 - 4)
    assert found.tolist() == slow_bits(1, "x", 8, start=2**34 - 4)
    assert not np.array_equal(found[4:], random_bits(1, "x", 4))


def test_everything_that_names_an_element_counts() -> None:
    drawn = [
        random_bits(0, "x", 4),
        random_bits(1, "x", 4),
        random_bits(0, "y", 4),
        random_bits(0, "x", 4, step=1),
        random_bits(0, "x", 4, start=4),
    ]
    assert len({tuple(words.tolist()) for words in drawn}) == len(drawn)


@pytest.mark.parametrize("name", ["", "weight", "ä", "重み", "\U0001f600", "a\0b", "x" * 10000])
def test_names_are_utf8(name: str) -> None:
    assert key_of(0, name) == (0, zlib.crc32(name.encode("utf-8")))


def test_a_name_that_utf8_has_not_has_bits_too() -> None:
    assert random_bits(0, "\ud800", 4).size == 4


@pytest.mark.parametrize(
    "seed", [-1, -(2**31), 2**32, 2**32 + 5, 10**40, -(10**40), np.int64(-7), np.uint64(2**64 - 1)]
)
def test_seeds_count_modulo_a_word(seed: Any) -> None:
    assert random_bits(seed, "x", 9).tolist() == random_bits(int(seed) % WORD, "x", 9).tolist()
    assert key_of(seed, "x")[0] == int(seed) % WORD


def test_numpy_integers_are_integers() -> None:
    found = random_bits(0, "x", np.int64(5), step=np.uint8(3), start=np.uint64(2**40))  # type: ignore[arg-type]
    assert found.tolist() == slow_bits(0, "x", 5, 3, 2**40)


@pytest.mark.parametrize(
    ("arguments", "found", "allowed"),
    [
        ({"seed": 1.0}, "seed is 1.0", "give an integer"),
        ({"seed": True}, "seed is True", "give an integer"),
        ({"seed": None}, "seed is None", "give an integer"),
        ({"seed": np.zeros((2, 2))}, "seed is", "give an integer"),
        ({"tensor_name": 3}, "tensor_name is 3", "a string"),
        ({"tensor_name": b"x"}, "tensor_name is b'x'", "a string"),
        ({"count": -1}, "count is -1", "from 0 to 68719476736"),
        ({"count": 2**64}, "count is 18446744073709551616", "from 0 to"),
        ({"count": 2.0}, "count is 2.0", "from 0 to"),
        ({"count": True}, "count is True", "from 0 to"),
        ({"step": -1}, "step is -1", "from 0 to 4294967295"),
        ({"step": 2**32}, "step is 4294967296", "from 0 to 4294967295"),
        ({"step": "0"}, "step is '0'", "from 0 to 4294967295"),
        ({"start": -1}, "start is -1", "from 0 to 18446744073709551615"),
        ({"start": 2**64}, "start is 18446744073709551616", "from 0 to"),
        ({"start": None}, "start is None", "from 0 to"),
        ({"start": 2**64 - 1, "count": 2}, "elements 18446744073709551615 to", "the last may be"),
    ],
)
def test_refusals(arguments: dict[str, Any], found: str, allowed: str) -> None:
    base: dict[str, Any] = {"seed": 0, "tensor_name": "x", "count": 1}
    message = refused(lambda: random_bits(**base | arguments))
    assert found in message
    assert allowed in message
