"""Fewer steps have the same last value: drawn epilogues of quantized layers, read by NumPy with and without."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.schedules.bounding import bounded
from lowprec.schedules.epilogue import Constant, Operand, Step, Value
from lowprec.schedules.windows import whole
from tests.quantized import limits
from tests.tvm.schedules.steps import Writer, evaluate, step

SHAPE = (1, 4, 4, 16)
VIEWS = (whole((16,)).view(SHAPE), whole(SHAPE, "uint8").view(), whole(SHAPE, "int8").view())


@st.composite
def epilogues(draw: st.DrawFn) -> tuple[Step, ...]:
    """Quantized, perhaps made a float again and added to another tensor, and quantized again."""
    writer = Writer()
    then = writer.then

    def quantized(zero: int, low: int, high: int) -> None:
        if draw(st.booleans()):
            then("relu")
        if draw(st.booleans()):
            then("quotient", Constant(draw(SCALES)))
        then("round")
        if zero or draw(st.booleans()):
            then("add", Constant(float(zero)))
        ends = [("maximum", float(low)), ("minimum", float(high))]
        for op, number in draw(st.permutations(ends)):
            then(op, Constant(number))

    then("float32")
    then("product", Operand(0))
    for _ in range(draw(st.integers(0, 2))):
        low, high = limits(draw(st.sampled_from(("uint8", "int8"))))
        zero = draw(st.sampled_from((0, 3, 124)))
        quantized(zero, low, high)
        before = then("subtract", Constant(float(zero if draw(st.integers(0, 4)) else zero + 1)))
        scaled = then("product", Constant(draw(SCALES)))
        operand = Operand(draw(st.integers(1, 2)))
        other = then("product", Constant(draw(SCALES)), of=then("float32", of=then("int32", of=operand)))
        then("add", other, of=draw(st.sampled_from((scaled, scaled, before))))
    dtype = draw(st.sampled_from(("uint8", "int8")))
    quantized(draw(st.sampled_from((0, 5))), *limits(dtype))
    then(dtype)
    return tuple(writer.steps)


SCALES = st.sampled_from((0.02, 0.3, 0.5, 1.0, 1.5, 2.6330831050872803, 7.0))


@settings(max_examples=400)
@given(epilogues(), st.integers(0, 99))
def test_fewer_steps_have_the_same_value(steps: tuple[Step, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sums = rng.integers(-(2**31), 2**31, SHAPE, np.int64) >> rng.integers(0, 31, SHAPE)
    sums = sums.astype(np.int32)
    factor = (2.0 ** rng.uniform(-20, 3, 16)).astype(np.float32)
    factor[::5] = 0.5  # ties
    operands = (factor, rng.integers(0, 256, SHAPE).astype(np.uint8), rng.integers(-128, 128, SHAPE).astype(np.int8))
    fewer = bounded(steps, VIEWS)
    assert len(fewer) <= len(steps)
    assert np.array_equal(evaluate(steps, sums, operands), evaluate(fewer, sums, operands))


def held(low: float, high: float) -> tuple[Step, ...]:
    """The sums as floats between two numbers: value 3."""
    return (
        step("float32", Value(0)),
        step("maximum", Value(1), Constant(low)),
        step("minimum", Value(2), Constant(high)),
    )


def check(steps: tuple[Step, ...]) -> None:
    """Sums on both sides of zero, and operands of the whole range, come to the same."""
    sums = np.arange(-128, 128, dtype=np.int32).reshape(SHAPE)
    operands = (np.full(16, 0.5, np.float32), (sums[::-1] + 128).astype(np.uint8), sums.astype(np.int8))
    assert np.array_equal(evaluate(steps, sums, operands), evaluate(bounded(steps, VIEWS), sums, operands))


def test_an_integer_made_of_a_float_has_whole_ends() -> None:
    """What is held between 0.3 and 0.9 is 0 then, and ten times that is below 2."""
    check((*held(0.3, 0.9), step("int32", Value(3)), step("float32", Value(4)), step("product", Value(5), Constant(10)),
           step("maximum", Value(6), Constant(2.0))))  # fmt: skip


@pytest.mark.parametrize("op", ["maximum", "minimum"])
@pytest.mark.parametrize("moved", [0.0, 9.0])
def test_bounds_of_another_tensor_hold_unless_its_ends_say_otherwise(op: str, moved: float) -> None:
    """Neither 0 to 5 nor -9 to -4 is beyond all of -128 to 127."""
    steps = (*held(0.0, 5.0), step("subtract", Value(3), Constant(moved)), step("float32", Operand(2)))
    check((*steps, step(op, Value(4), Value(5))))
    check((*steps, step(op, Value(5), Value(4))))


def test_a_bound_below_all_of_a_tensor_is_needless() -> None:
    steps = (*held(-9.0, 0.0), step("float32", Operand(1)), step("minimum", Value(3), Value(4)))
    check(steps)
    assert bounded(steps, VIEWS) == steps[:3]


def test_bounds_may_be_infinite() -> None:
    infinite = (step("maximum", Value(1), Constant(-inf)), step("minimum", Value(2), Constant(inf)))
    check((step("float32", Value(0)), *infinite, step("round", Value(3))))
    check((*held(0.0, 5.0), step("maximum", Value(3), Constant(inf)), step("round", Value(4))))
    check((*held(0.0, 5.0), step("add", Value(3), Constant(inf)), step("round", Value(4))))


QUANTIZED = (
    step("float32", Value(0)),
    step("product", Value(1), Operand(0)),
    step("relu", Value(2)),
    step("round", Value(3)),
    step("maximum", Value(4), Constant(0.0)),
    step("minimum", Value(5), Constant(255.0)),
    step("uint8", Value(6)),
)


def test_what_is_quantized_is_rounded_by_one_step() -> None:
    assert [each.op for each in bounded(QUANTIZED, VIEWS)] == [
        "float32", "product", "maximum", "minimum", "nearest", "uint8"
    ]  # fmt: skip


def test_what_may_leave_the_type_is_rounded_apart() -> None:
    """There is no nearest int32 of every float."""
    steps = (*QUANTIZED[:4], step("uint8", Value(4)))
    assert bounded(steps, VIEWS) == steps


def test_a_value_that_is_used_twice_stays() -> None:
    """What is taken away after clipping is another number than what was added."""
    steps = (*QUANTIZED[:4], step("add", Value(4), Constant(3.0)), step("maximum", Value(5), Constant(0.0)),
             step("minimum", Value(6), Constant(255.0)), step("subtract", Value(7), Constant(4.0)),
             step("add", Value(8), Value(5)))  # fmt: skip
    assert bounded(steps, VIEWS) == steps
