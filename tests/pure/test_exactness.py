"""Agreement with the oracle, element by element: what is equal, how far the rest is off, what saturates."""

import numpy as np
import pytest
from numpy.typing import NDArray

from lowprec.exactness import Agreement, Meaning, Oracle, numbers, percent, summary

BYTES = Meaning(tensor="r/codes", original="r", promised=True, scale=0.5, zero=3, dtype="uint8")
FLOATS = Meaning(tensor="s", original="s", promised=False)


def agreement(meaning: Meaning, wanted: object, found: object, dtype: str) -> Agreement:
    oracle = Oracle(values={meaning.tensor: np.asarray(wanted, dtype)}, meanings={"inside": meaning})
    made = oracle.agreement("inside", np.asarray(found, dtype))
    assert made is not None
    return made


def test_equal_codes() -> None:
    found = agreement(BYTES, [0, 3, 9, 255], [0, 3, 9, 255], "uint8")
    assert (found.exact, found.off, found.near, found.passed) == (1.0, 0.0, True, True)
    assert found.saturated == 0.5


def test_one_code_off() -> None:
    found = agreement(BYTES, [7, 3, 9, 12], [8, 3, 9, 12], "uint8")
    assert (found.exact, found.off, found.near, found.passed) == (0.75, 1.0, True, False)


def test_a_range_that_begins_at_zero_is_not_saturated_there() -> None:
    relu = Meaning(tensor="r/codes", original="r", promised=True, scale=0.5, zero=0, dtype="uint8")
    assert agreement(relu, [0, 0, 0, 255], [0, 0, 0, 255], "uint8").saturated == 0.25


def test_numbers_that_stand_for_codes_saturate_as_these_do() -> None:
    """(255 - 3) / 2 and (0 - 3) / 2."""
    found = agreement(BYTES, [126.0, -1.5, 0.5, 1.0], [126.0, -1.5, 0.5, 1.0], "float32")
    assert (found.exact, found.saturated) == (1.0, 0.5)


def test_codes_of_a_kernel_beside_numbers() -> None:
    """What moves as bytes is held against the values that the network names."""
    oracle = Oracle(values={"r/codes": np.array([0.0, 2.5], np.float32)}, meanings={"inside": BYTES})
    found = np.array([3, 8], np.uint8)
    made = oracle.agreement("inside", found)
    assert made is not None
    assert made.exact == 1
    name, values = oracle.original("inside", found)
    assert (name, values.tolist(), values.dtype.name) == ("r", [0.0, 2.5], "float32")


@pytest.mark.parametrize(("off", "near"), [(1e-6, True), (1e-2, False)])
def test_what_is_not_promised_may_be_near(off: float, near: bool) -> None:
    found = agreement(FLOATS, [1.0, 2.0], [1.0, 2.0 + 2 * off], "float32")
    assert (found.exact, found.near, found.passed, found.saturated) == (0.5, near, True, None)
    assert found.off == pytest.approx(off, rel=0.1)


def test_nan_and_the_sign_of_zero() -> None:
    assert agreement(FLOATS, [np.nan, 0.0], [np.nan, -0.0], "float32").exact == 1


def test_another_shape_or_type_is_not_equal() -> None:
    wanted: NDArray[np.uint8] = np.zeros((2, 3), np.uint8)
    assert agreement(BYTES, wanted, wanted.T, "uint8").exact == 0
    oracle = Oracle(values={"r/codes": wanted}, meanings={"inside": BYTES})
    made = oracle.agreement("inside", wanted.astype(np.int64))
    assert made is not None
    assert made.exact == 0
    assert oracle.agreement("nobody's", wanted) is None
    assert oracle.original("nobody's", wanted)[0] == "nobody's"


def test_empty_tensors_agree() -> None:
    found = agreement(BYTES, [], [], "uint8")
    assert (found.exact, found.saturated) == (1.0, 0.0)


def test_numbers_are_rounded_once() -> None:
    meaning = Meaning(tensor="t", original="t", promised=True, scale=float(np.float32(0.1)), zero=-7, dtype="int8")
    codes = np.arange(-128, 128, dtype=np.int8)
    wanted = (codes.astype(np.int32) + 7).astype(np.float32) * np.float32(0.1)
    assert np.array_equal(numbers(codes, meaning), wanted)


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0%"), (1.0, "100%"), (0.99999, "99.99%"), (1e-7, "0.01%"), (0.12345, "12.35%")]
)
def test_a_share_is_whole_only_if_nothing_is_missing(share: float, text: str) -> None:
    assert percent(share) == text


def test_the_summary_names_the_first_that_differs() -> None:
    right = agreement(BYTES, [1], [1], "uint8")
    wrong = agreement(BYTES, [1, 1, 1, 1], [1, 1, 1, 9], "uint8")
    near = agreement(FLOATS, [1.0], [1.0], "float32")
    assert summary([("a", right)]) == "1 of 1 promised tensors are equal, bit for bit"
    said = summary([("a", right), ("b", wrong), ("c", wrong), ("d", near)])
    assert said.startswith("1 of 3 promised tensors are equal, bit for bit; the first that differs is r/codes of b, 75")
    assert said.endswith("1 behind sums of floats are not promised (*), 1 are near")
