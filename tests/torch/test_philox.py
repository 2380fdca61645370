"""Random bits in torch and in the compiled pass: the words of `lowprec.philox`, from any seed, name, step and start."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import lowprec
from lowprec.errors import UsageError
from lowprec.formats import Int
from lowprec.philox import key_of
from lowprec.rounding import Rounding
from lowprec.train import Draw, random_bits, round_to
from tests.scalar_philox import WORD, slow_philox

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

POSITIONS = 2**64
ALL_ONES = "acaaaacacaacccaaaaaaaaccccacaccaaaaaaaaa"
"""A name whose CRC-32 is 2^32 - 1."""


def words(draw: Draw, count: int) -> NDArray[np.uint32]:
    found = random_bits(draw, count)
    assert found.dtype == torch.int64
    assert found.shape == (count,)
    assert ((found >= 0) & (found < WORD)).all()
    result: NDArray[np.uint32] = found.numpy().astype(np.uint32)
    return result


def oracle(draw: Draw, count: int) -> NDArray[np.uint32]:
    return lowprec.random_bits(draw.seed, draw.tensor_name, count, step=draw.step, start=draw.start)


def compiled_share(draw: Draw, x: NDArray[Any], bits_used: int) -> torch.Tensor:
    """Places between 0 and 1, rounded stochastically by the compiled pass."""
    values = torch.tensor(x.astype(np.float32))
    assert (values.double().numpy() == x).all(), "the test asks for what float32 holds"
    return round_to(values, Int(8), Rounding.STOCHASTIC, bits=draw, bits_used=bits_used)


def test_known_answer_of_zeros() -> None:
    assert words(Draw(seed=0, tensor_name=""), 4).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_the_twin_in_integers_knows_the_known_answers() -> None:
    """A draw's last counter word is 0, so that the answer for all ones is reached by the twin alone."""
    ones = WORD - 1
    assert slow_philox((ones,) * 4, (ones, ones)) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    assert slow_philox((0,) * 4, (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)


@pytest.mark.parametrize("block", [0, WORD - 1, WORD, 2**61 - 1, 2**61, POSITIONS // 4 - 1])
@pytest.mark.parametrize(("seed", "name", "step"), [(-1, ALL_ONES, WORD - 1), (0, "", 0), (2**31, "w", 2**31)])
def test_ends_of_every_word(seed: int, name: str, step: int, block: int) -> None:
    draw = Draw(seed=seed, tensor_name=name, step=step, start=4 * block)
    expected = slow_philox((block % WORD, block // WORD, step, 0), key_of(seed, name))
    assert tuple(words(draw, 4).tolist()) == expected
    assert draw.key == key_of(seed, name)


def test_a_key_of_all_ones_is_reached() -> None:
    assert Draw(seed=-1, tensor_name=ALL_ONES).key == (WORD - 1, WORD - 1)


@given(
    seed=st.integers(-(2**70), 2**70),
    name=st.text(max_size=12),
    step=st.integers(0, WORD - 1),
    start=st.integers(0, POSITIONS - 200) | st.integers(0, 9),
    count=st.integers(0, 130),
)
@example(seed=-(10**40), name="encoder.größe.重み\N{PILE OF POO}", step=WORD - 1, start=2**34 + 1, count=70)
@example(seed=2**32 - 1, name="\0", step=1, start=4 * (WORD - 8) + 3, count=130)
@example(seed=2**63, name="\ud800", step=1, start=POSITIONS - 130, count=130)
def test_equals_numpy(seed: int, name: str, step: int, start: int, count: int) -> None:
    draw = Draw(seed=seed, tensor_name=name, step=step, start=start)
    np.testing.assert_array_equal(words(draw, count), oracle(draw, count))


@pytest.mark.parametrize("start", [0, 1, 2**34 - 7, 2**34 + 5, 2**63 - 50])
def test_parts_are_parts_of_the_whole(start: int) -> None:
    whole = words(Draw(seed=3, tensor_name="w", step=2, start=start), 100)
    for cuts in ([0, 100], [0, 1, 2, 3, 4, 5, 100], [0, 0, 17, 50, 51, 99, 100, 100]):
        parts = [words(Draw(seed=3, tensor_name="w", step=2, start=start + a), b - a) for a, b in pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    "draw",
    [
        Draw(seed=0, tensor_name=""),
        Draw(seed=-1, tensor_name=ALL_ONES, step=WORD - 1, start=4 * (WORD - 300) + 2),
        Draw(seed=10**30, tensor_name="größe", step=7, start=2**40 + 3),
        Draw(seed=1, tensor_name="w", step=1, start=2**62 + 1),
        Draw(seed=1, tensor_name="w", step=1, start=2**63 - 70_001),
        Draw(seed=1, tensor_name="w", step=1, start=2**63 - 5),
        Draw(seed=1, tensor_name="w", step=1, start=2**63 + 3),
        Draw(seed=1, tensor_name="w", step=1, start=POSITIONS - 70_000),
    ],
    ids=lambda draw: f"{draw.start:#x}",
)
def test_words_of_the_compiled_pass(draw: Draw) -> None:
    """Equation 6 has x go up from the share 2^k - r on, and not one part earlier."""
    drawn = oracle(draw, 70_000).astype(np.float64)
    least = 2.0**24 - np.floor(drawn / 256)
    assert (compiled_share(draw, least / 2**24, 24) == 1).all()
    assert (compiled_share(draw, (least - 1) / 2**24, 24) == 0).all()

    # All 32 bits show where the share is small enough for float32.
    small = drawn > WORD - 2**24
    assert small.sum() > 100
    least = np.where(small, WORD - drawn, 0)
    assert (compiled_share(draw, least / WORD, 32).numpy()[small] == 1).all()
    assert (compiled_share(draw, np.where(small, least - 1, 0) / WORD, 32) == 0).all()


@pytest.mark.parametrize("field", ["seed", "step", "start"])
def test_numpy_integers_are_integers(field: str) -> None:
    x = torch.linspace(-3, 3, 50)
    plain: dict[str, Any] = {"seed": 5, "step": 5, "start": 5}
    for kind in (np.int64, np.uint32):
        draws = [Draw(tensor_name="w", **plain), Draw(tensor_name="w", **{**plain, field: kind(5)})]
        np.testing.assert_array_equal(words(draws[1], 50), words(draws[0], 50))
        rounded = [round_to(x, Int(8), Rounding.STOCHASTIC, bits=draw) for draw in draws]
        assert torch.equal(*rounded)


def test_a_draw_is_a_value() -> None:
    draw = Draw(seed=1, tensor_name="w", step=2, start=3)
    assert draw == Draw(seed=1, tensor_name="w", step=2, start=3) != Draw(seed=1, tensor_name="w", step=2)
    assert len({draw, Draw(seed=1, tensor_name="w", step=2, start=3)}) == 1
    assert torch.equal(random_bits(draw, 9), random_bits(draw, 9, device=torch.device("cpu")))


@pytest.mark.parametrize(
    ("given_fields", "words_of_it"),
    [
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": True}, "seed is True"),
        ({"tensor_name": b"w"}, "tensor_name is b'w'"),
        ({"step": -1}, "step is -1"),
        ({"step": WORD}, f"step is {WORD}"),
        ({"start": -1}, "start is -1"),
        ({"start": POSITIONS}, f"start is {POSITIONS}"),
        ({"start": 0.0}, "start is 0.0"),
    ],
    ids=str,
)
def test_refusals(given_fields: dict[str, Any], words_of_it: str) -> None:
    with pytest.raises(UsageError, match=words_of_it) as caught:
        Draw(**{"seed": 0, "tensor_name": "w", **given_fields})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [-1, 1.0, 5])
def test_a_count_beyond_the_last_position_is_refused(count: Any) -> None:
    with pytest.raises(UsageError, match=r"count is|the last may be") as caught:
        random_bits(Draw(seed=0, tensor_name="w", start=POSITIONS - 4), count)
    assert "\n" not in str(caught.value)
