"""Epilogues without the scales that are powers of two have the same last value: read by NumPy with and without."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.schedules.bounding import bounded
from lowprec.schedules.epilogue import Constant, Epilogue, Operand, Step, Value
from lowprec.schedules.powers import unscaled
from lowprec.schedules.simplifying import simplified
from lowprec.schedules.windows import whole
from tests.tvm.schedules.steps import Writer, evaluate, step

SHAPE = (1, 4, 4, 16)
VIEWS = tuple(whole(SHAPE, dtype).view() for dtype in ("uint32", "int16", "int8"))
STEP = 2.0**-14


@st.composite
def epilogues(draw: st.DrawFn) -> tuple[Step, ...]:
    """Sums made codes of 16 bits, perhaps added to another tensor's numbers, and made codes again."""
    writer = Writer()
    then = writer.then

    def rounded() -> Value:
        if draw(st.booleans()):
            then("relu")
        then("draw", Operand(0)) if draw(st.booleans()) else then("round")
        for op, number in draw(st.permutations((("maximum", -32768.0), ("minimum", 32767.0)))):
            then(op, Constant(number))
        return then("relu") if draw(st.booleans()) else writer.last

    then("float32")
    then("product", Constant(draw(SCALES)))
    for _ in range(draw(st.integers(0, 2))):
        code = rounded()
        scaled = then("product", Constant(draw(SCALES)))
        operand = Operand(draw(st.integers(1, 2)))
        other = then("product", Constant(draw(SCALES)), of=then("float32", of=then("int32", of=operand)))
        then(draw(st.sampled_from(("add", "subtract"))), other, of=draw(st.sampled_from((scaled, scaled, code))))
        then("near quotient", Constant(draw(SCALES)))
    code = rounded()
    then("int16", of=code) if draw(st.booleans()) else then("product", Constant(draw(SCALES)), of=code)
    return tuple(writer.steps)


SCALES = st.sampled_from((STEP, STEP, STEP, 1.0, 0.5, 2.0**-7, 2.0**-31, 8.0, 0.3, 1.5))


@settings(max_examples=400)
@given(epilogues(), st.booleans(), st.integers(0, 99))
def test_steps_without_scales_have_the_same_value(steps: tuple[Step, ...], before: bool, seed: int) -> None:
    """As written, and as they come here from other passes."""
    rng = np.random.default_rng(seed)
    sums = (rng.integers(-(2**31), 2**31, SHAPE, np.int64) >> rng.integers(0, 31, SHAPE)).astype(np.int32)
    words = rng.integers(0, 2**32, SHAPE, np.uint32)
    words.reshape(-1)[:4] = 0, 2**32 - 1, 2**31, 2**18
    operands = (
        words,
        rng.integers(-32768, 32768, SHAPE).astype(np.int16),
        rng.integers(-128, 128, SHAPE).astype(np.int8),
    )
    steps = bounded(simplified(steps), VIEWS) if before else steps
    fewer = unscaled(Epilogue(steps=steps, operands=VIEWS)).steps
    assert len(fewer) <= len(steps)
    assert np.array_equal(evaluate(steps, sums, operands), evaluate(fewer, sums, operands))


def codes(*ends: Step) -> tuple[Step, ...]:
    """Sums at a scale of 2^-14 that are rounded, and what follows value 2."""
    return (step("float32", Value(0)), step("product", Value(1), Constant(STEP)), *ends)


def ops(steps: tuple[Step, ...]) -> list[str]:
    return [each.op for each in unscaled(Epilogue(steps=steps, operands=VIEWS)).steps]


def test_a_draw_reads_the_sum_and_its_word() -> None:
    steps = codes(step("relu", Value(2)), step("draw", Value(3), Operand(0)),
                  step("maximum", Value(4), Constant(-32768)), step("minimum", Value(5), Constant(32767)),
                  step("int16", Value(6)))  # fmt: skip
    assert ops(steps) == ["float32", "maximum", "minimum", "draw 14", "int16"]


def test_ends_keep_their_order() -> None:
    """What is no number becomes the first one's."""
    steps = codes(step("draw", Value(2), Operand(0)), step("minimum", Value(3), Constant(32767)),
                  step("maximum", Value(4), Constant(-32768)), step("int16", Value(5)))  # fmt: skip
    assert ops(steps) == ["float32", "minimum", "maximum", "draw 14", "int16"]


@pytest.mark.parametrize(("scale", "integers"), [(STEP, True), (STEP / 2, False), (0.3, False)])
def test_a_residual_of_the_same_scale_is_added_in_integers(scale: float, integers: bool) -> None:
    steps = codes(step("round", Value(2)), step("maximum", Value(3), Constant(-32768)),
                  step("minimum", Value(4), Constant(32767)), step("product", Value(5), Constant(STEP)),
                  step("int32", Operand(1)), step("float32", Value(7)), step("product", Value(8), Constant(scale)),
                  step("add", Value(6), Value(9)), step("near quotient", Value(10), Constant(STEP)),
                  step("maximum", Value(11), Constant(-32768)), step("minimum", Value(12), Constant(32767)),
                  step("nearest", Value(13)), step("int16", Value(14)))  # fmt: skip
    short = ["float32", "product", "maximum", "minimum", "nearest", "int32", "add", "maximum", "minimum", "int16"]
    assert (ops(steps) == short) == integers


@pytest.mark.parametrize("held", [(), (("maximum", -32768.0),), (("maximum", -40000.0), ("minimum", 2.0**17))])
def test_what_an_int32_may_not_hold_is_drawn_as_a_float(held: tuple[tuple[str, float], ...]) -> None:
    """At a scale of 2^-14, 2^17 is 2^31 steps; and what is not held at all may be anything."""
    steps = list(codes(step("draw", Value(2), Operand(0))))
    for op, number in held:
        steps.append(step(op, Value(len(steps)), Constant(number)))
    assert "draw" in ops((*steps, step("product", Value(len(steps)), Constant(STEP))))


def test_a_draw_that_is_read_before_it_is_held_stays() -> None:
    steps = codes(step("draw", Value(2), Operand(0)), step("maximum", Value(3), Constant(-8)),
                  step("minimum", Value(4), Constant(7)), step("add", Value(5), Value(3)))  # fmt: skip
    assert "draw" in ops(steps)
