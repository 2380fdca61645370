"""Each law on its own, counting instead of chances, and strategies that bring what matters."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec import testing
from lowprec.errors import UsageError
from lowprec.formats import BF16, FP16, Binary, Fixed, Float, Format, Int, Specials, has_nan, limits
from lowprec.rounding import Rounding, round_to
from lowprec.testing import Quantizer, prove, strategies
from lowprec.testing.probes import places
from tests.pure.testing.planted import Q214, STOCHASTIC, by_floor, flushed, half_up, own, uniform, wrapping

EVEN = Rounding.NEAREST_EVEN

BROKEN: tuple[tuple[Callable[..., None], Quantizer, Format, Rounding, str], ...] = (
    (testing.assert_rounds, partial(half_up, fmt=Fixed(2, 2)), Fixed(2, 2), EVEN, "ties go up"),
    (testing.assert_support, lambda x, b: x, Q214, STOCHASTIC, "support"),
    (testing.assert_support, flushed, FP16, STOCHASTIC, "small values become zero"),
    (testing.assert_idempotent, lambda x, b: by_floor(x, uniform(b)) + 2.0**-14, Q214, STOCHASTIC,
     "values of q2.14 move"),
    (testing.assert_monotone, lambda x, b: -by_floor(x, uniform(b)), Q214, STOCHASTIC, "the smaller"),
    (testing.assert_symmetric, partial(half_up, fmt=Fixed(4, 2)), Fixed(4, 2), EVEN, "symmetry"),
    (testing.assert_saturates, wrapping, Q214, STOCHASTIC, "q2.14 ends at -2 and 1.9999"),
    (testing.assert_reproducible, lambda x, b: by_floor(x, np.random.default_rng().random(x.size)), Q214, STOCHASTIC,
     "two calls with the same values and words differ"),
)  # fmt: skip


@pytest.mark.parametrize(("law", "quantizer", "fmt", "rounding", "part"), BROKEN)
def test_a_broken_law_is_told(
    law: Callable[..., None], quantizer: Quantizer, fmt: Format, rounding: Rounding, part: str
) -> None:
    with pytest.raises(AssertionError, match=part):
        law(quantizer, fmt, rounding)


@pytest.mark.parametrize(
    ("law", "quantizer", "part"),
    [
        (testing.assert_unbiased, lambda x, b: by_floor(x, np.sqrt(uniform(b))), "rounds down"),
        (
            testing.assert_independent,
            lambda x, b: by_floor(x, uniform(np.repeat(b[::2], 2)[: x.size])),
            "for values 1 apart",
        ),
    ],
)
def test_broken_chances_are_told(law: Callable[..., None], quantizer: Quantizer, part: str) -> None:
    with pytest.raises(AssertionError, match=part):
        law(quantizer, Q214)


@pytest.mark.parametrize("fmt", [Q214, BF16, Float(4, 3, Specials.NAN), Int(5), Binary()], ids=str)
@pytest.mark.parametrize("rounding", [STOCHASTIC, EVEN, Rounding.DOWN])
def test_ours_breaks_none(fmt: Format, rounding: Rounding) -> None:
    quantizer = partial(own, fmt, rounding, 32)
    for law in {law for law, *_ in BROKEN}:
        law(quantizer, fmt, rounding)
    if rounding is STOCHASTIC:
        testing.assert_unbiased(quantizer, fmt)
        testing.assert_independent(quantizer, fmt)


SMALL: tuple[Format, ...] = (
    Fixed(2, 4),
    Fixed(1, 0),
    Int(3, signed=False),
    Binary(),
    Float(3, 2),
    Float(4, 3, Specials.NAN),
)


@pytest.mark.parametrize("fmt", SMALL, ids=str)
@pytest.mark.parametrize("bits_used", [1, 2, 5, 8])
def test_every_draw_is_counted(fmt: Format, bits_used: int) -> None:
    verdict = prove(partial(own, fmt, STOCHASTIC, bits_used), fmt, bits_used=bits_used)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("fmt", SMALL, ids=str)
@pytest.mark.parametrize(
    ("spoil", "law"),
    [
        (lambda bits: bits ^ np.uint32(1 << 24), "monotonicity"),
        (lambda bits: bits | np.uint32(1 << 25), "bias"),
        (lambda bits: np.minimum(bits, np.uint32(0xFEFFFFFF)), "bias"),
    ],
)
def test_one_draw_in_256_is_enough(
    fmt: Format, spoil: Callable[[NDArray[np.uint32]], NDArray[np.uint32]], law: str
) -> None:
    verdict = prove(lambda x, bits: own(fmt, STOCHASTIC, 8, x, spoil(bits)), fmt, bits_used=8)
    assert [problem.law for problem in verdict.problems] == [law]


def test_what_cannot_be_counted_is_refused() -> None:
    for fmt, bits_used in ((Q214, 8), (Int(4), 0), (Int(4), 17), (Int(4), True)):
        with pytest.raises(UsageError, match="bits"):
            prove(partial(own, fmt, STOCHASTIC, 8), fmt, bits_used=bits_used)
    assert not prove(lambda x, bits: 0.0, Int(4), bits_used=4).passed


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_strategies(data: st.DataObject) -> None:
    fmt = data.draw(strategies.formats())
    rounding = data.draw(strategies.roundings(fmt))
    x = data.draw(strategies.values(fmt))
    bits = data.draw(strategies.words(x.size))
    assert has_nan(fmt) or not np.isnan(x).any()
    result = np.asarray(data.draw(strategies.quantizers(fmt, rounding))(x, bits))
    low, high = (round_to(x, fmt, way) for way in (Rounding.DOWN, Rounding.UP))
    finite = np.isfinite(x) & (np.abs(x) <= limits(fmt)[1])
    assert ((result == low) | (result == high))[finite].all()


@given(strategies.formats(8))
@settings(max_examples=100)
def test_small_formats(fmt: Format) -> None:
    assert 1 <= fmt.bits <= 8


def test_values_bring_what_matters() -> None:
    """Ties, subnormals, ends, infinities, NaN and both zeros are all drawn sooner or later."""
    seen: list[float] = []

    @given(strategies.values(FP16, max_size=200))
    @settings(max_examples=1000, database=None, deadline=None)
    def draw(x: NDArray[np.float32]) -> None:
        seen.extend(x.tolist())

    draw()
    found = np.array(seen)
    assert np.isnan(found).any()
    assert np.isinf(found).any()
    assert {0.0, 65504.0, -65504.0} <= set(seen)
    assert np.signbit(found[found == 0]).any()
    assert (np.abs(found[found != 0]) < 2.0**-14).any()
    inside = found[np.abs(found) < 65504].astype(np.float32)
    assert (places(inside, FP16).share == 0.5).any()
