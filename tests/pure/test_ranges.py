"""Ranges: each method against what it promises, by brute force over the values themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.errors import UsageError
from lowprec.formats import Int
from lowprec.histograms import Histogram
from lowprec.quantizing import quantize
from lowprec.ranges import SHRINKING, Method, find_range, mean_square, scale_and_zero

FORMATS = (Int(8), Int(8, signed=False), Int(4))
Values = NDArray[np.float64]


def seen_of(values: Values) -> Histogram:
    seen = Histogram()
    seen.add(values)
    return seen


def drawn(kind: str, seed: int = 0, count: int = 20_000) -> Values:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(count)
    values = {
        "normal": normal,
        "rectified": np.maximum(normal, 0),
        "laplace": rng.laplace(size=count),
        "outlier": np.append(normal, 60.0),
        "negative": -np.abs(normal) - 1,
        "constant": np.full(10, 3.0),
        "two": np.array([-1.0, 7.0]),
    }
    return values[kind]


KINDS = ("normal", "rectified", "laplace", "outlier", "negative", "constant", "two")


def real_mean_square(values: Values, found: tuple[float, float], fmt: Int) -> float:
    scale, zero = scale_and_zero(found, fmt)
    back = quantize(values, fmt, scale=scale, zero_point=zero).dequantize()
    return float(np.mean(np.square(back - values)))


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("kind", KINDS)
def test_a_range_holds_zero_and_lies_within_what_was_seen(kind: str, method: Method) -> None:
    values = drawn(kind)
    low, high = find_range(seen_of(values), method, Int(8))
    assert min(values.min(), 0.0) <= low <= 0 <= high <= max(values.max(), 0.0)
    assert high > low


@pytest.mark.parametrize("kind", KINDS)
def test_minmax_is_all_of_it(kind: str) -> None:
    values = drawn(kind)
    assert find_range(seen_of(values), Method.MINMAX, Int(8)) == (min(values.min(), 0.0), max(values.max(), 0.0))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(KINDS), st.floats(50, 100), st.integers(0, 9))
def test_a_percentile_leaves_no_more_outside_and_wastes_no_bin(kind: str, percentile: float, seed: int) -> None:
    values = drawn(kind, seed, 2000)
    seen = seen_of(values)
    low, high = find_range(seen, Method.PERCENTILE, Int(8), percentile=percentile)
    allowed = len(values) * (1 - percentile / 100)
    assert np.sum((values < low) | (values > high)) <= allowed
    sides = int(values.min() < 0) + int(values.max() > 0)
    if high < values.max():
        assert np.sum(values >= high - seen.width) > allowed / sides
    if low > values.min():
        assert np.sum(values < low + seen.width) > allowed / sides


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_the_best_of_what_it_tries(kind: str, fmt: Int) -> None:
    values = drawn(kind)
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    found = real_mean_square(values, find_range(seen_of(values), Method.MSE, fmt), fmt)
    best = min(real_mean_square(values, (low * by, high * by), fmt) for by in SHRINKING)
    step = (high - low) / (fmt.codes[1] - fmt.codes[0])
    assert found <= best * 1.03 + 1e-4 * step**2


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("kind", ["normal", "rectified", "laplace", "outlier", "negative"])
def test_the_mean_square_of_a_histogram_is_that_of_its_values(kind: str, fmt: Int) -> None:
    values = drawn(kind)
    seen = seen_of(values)
    for by in (1.0, 0.7, 0.4):
        found = (min(values.min(), 0.0) * by, max(values.max(), 0.0) * by)
        assert mean_square(seen, found, fmt) == pytest.approx(real_mean_square(values, found, fmt), rel=0.05)


def test_entropy_cuts_an_outlier_off_and_leaves_a_bell() -> None:
    assert find_range(seen_of(drawn("outlier")), Method.ENTROPY, Int(8))[1] < 6
    low, high = find_range(seen_of(drawn("normal")), Method.ENTROPY, Int(8))
    assert 3 < -low < 5
    assert 3 < high < 5


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("found", [(-1.0, 2.0), (0.0, 6.0), (-3.0, 0.0), (-1e-30, 1e30), (0.0, 1e-44)])
def test_zero_is_an_integer_and_the_ends_are_within_a_step(found: tuple[float, float], fmt: Int) -> None:
    scale, zero = scale_and_zero(found, fmt)
    bottom, top = fmt.codes
    assert bottom <= zero <= top
    assert scale > 0
    if float(scale) > 1e-40:
        ends = np.array([bottom - zero, top - zero]) * float(scale)
        assert np.abs(ends - found).max() <= float(scale)


def test_nothing_and_zeros_alone() -> None:
    with pytest.raises(UsageError, match="at least one sample"):
        find_range(Histogram(), Method.MSE, Int(8))
    for method in Method:
        assert find_range(seen_of(np.zeros(5)), method, Int(8)) == (0.0, 0.0)
    assert scale_and_zero((0.0, 0.0), Int(8, signed=False)) == (np.float32(1), 0)


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.5, float("nan")])
def test_a_percentile_is_a_share(percentile: float) -> None:
    with pytest.raises(UsageError, match="percentile"):
        find_range(seen_of(drawn("two")), Method.PERCENTILE, Int(8), percentile=percentile)


def test_a_range_that_no_scale_spans_is_refused() -> None:
    with pytest.raises(UsageError, match="no float32 is a scale"):
        scale_and_zero((-1e300, 1e300), Int(8))
