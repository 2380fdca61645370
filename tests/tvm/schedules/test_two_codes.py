"""Codes made of two: by multiply-adds the same for every pair, and left alone where they are no such sum."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.schedules.bounding import bounded
from lowprec.schedules.epilogue import Constant, Epilogue, Operand, Step
from lowprec.schedules.two_codes import by_pairs
from lowprec.schedules.windows import whole
from lowprec.targets import parse_target
from tests.quantized import limits
from tests.tvm.schedules.steps import Writer, evaluate

V3, PLAIN = parse_target("x86-64-v3"), parse_target("x86-64")
SHAPE = (256, 256)
VIEWS = {dtype: whole(SHAPE, dtype).view() for dtype in ("uint8", "int8", "int16", "float32")}
SCALES = st.one_of(
    st.floats(2**-8, 0.5, width=32), st.sampled_from((0.5, 0.25, 0.125, 0.0625, 0.1, 0.3, 1 / 3, 0.0078125))
)


def residual(
    scales: tuple[float, float, float],
    zeros: tuple[int, int, int] = (0, 0, 0),
    types: tuple[str, str, str] = ("uint8", "uint8", "uint8"),
    *,
    relu: bool = True,
) -> Epilogue:
    """The sum of a kernel's code and another's, as ONNX has it: steps of `passes` as they are read."""
    writer = Writer()
    then = writer.then

    def quantized(zero: int, dtype: str) -> None:
        then("round")
        then("add", Constant(float(zero)))
        for op, number in zip(("maximum", "minimum"), limits(dtype), strict=True):
            then(op, Constant(float(number)))

    then("float32")
    quantized(zeros[0], types[0])
    then("subtract", Constant(float(zeros[0])))
    scaled = then("product", Constant(scales[0]))
    then("float32", of=then("int32", of=Operand(0)))
    then("subtract", Constant(float(zeros[1])))
    other = then("product", Constant(scales[1]))
    then("add", other, of=scaled)
    if relu:
        then("relu")
    then("quotient", Constant(scales[2]))
    quantized(zeros[2], types[2])
    then(types[2])
    view = VIEWS[types[1]]
    return Epilogue(steps=bounded(tuple(writer.steps), (view,)), operands=(view,))


def pairs(dtype: str) -> tuple[NDArray[np.int32], NDArray[np.generic]]:
    """Every sum that is a code, some beyond, and every byte."""
    low, high = limits(dtype)
    sums = np.arange(-300, 300, dtype=np.int32)[:, None]
    bytes_of = np.arange(low, high + 1).astype(dtype)[None, :]
    return np.broadcast_to(sums, (600, 256)), np.broadcast_to(bytes_of, (600, 256))


def multiplies_and_adds(epilogue: Epilogue) -> bool:
    return [step.op for step in epilogue.steps].count("fma") == 2


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(SCALES, SCALES, SCALES),
    st.tuples(*(st.integers(-128, 255),) * 3),
    st.tuples(*(st.sampled_from(("uint8", "int8")),) * 3),
    st.booleans(),
)
def test_every_pair_has_the_same_code(
    scales: tuple[float, float, float], zeros: tuple[int, int, int], types: tuple[str, str, str], relu: bool
) -> None:
    inside = [min(max(zero, limits(dtype)[0]), limits(dtype)[1]) for zero, dtype in zip(zeros, types, strict=True)]
    before = residual(scales, (inside[0], inside[1], inside[2]), types, relu=relu)
    after = by_pairs(before, V3)
    sums, operand = pairs(types[1])
    assert np.array_equal(evaluate(before.steps, sums, (operand,)), evaluate(after.steps, sums, (operand,)))
    assert after == before or (multiplies_and_adds(after) and len(after.steps) < len(before.steps))


def test_factors_are_found_for_nearly_all_scales() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        first, second = rng.uniform(0.02, 0.2, 2)
        scales = (first, second, float(np.hypot(first, second) * rng.uniform(0.6, 1.2)))
        zeros = (int(rng.integers(90, 160)), int(rng.choice([0, 128])), 0)
        found += multiplies_and_adds(by_pairs(residual(scales, zeros), V3))
    assert found >= 38


def test_ties_are_the_same() -> None:
    """Scales that are each other's doubles: half of the sums are halves."""
    before = residual((0.125, 0.0625, 0.125), relu=False)
    after = by_pairs(before, V3)
    assert multiplies_and_adds(after)
    sums, operand = pairs("uint8")
    assert np.array_equal(evaluate(before.steps, sums, (operand,)), evaluate(after.steps, sums, (operand,)))


@pytest.mark.parametrize("scales", [(0.1, 0.1, 1e-7), (1e-7, 0.1, 0.1), (0.1, 50.0, 0.1)], ids=str)
def test_factors_of_another_size_are_left_alone(scales: tuple[float, float, float]) -> None:
    before = residual(scales)
    assert by_pairs(before, V3) == before


def test_declines_without_the_instruction() -> None:
    before = residual((0.1, 0.2, 0.3))
    assert by_pairs(before, PLAIN) is before
    assert multiplies_and_adds(by_pairs(before, V3))


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_what_is_added_must_be_a_byte(dtype: str) -> None:
    before = replace(residual((0.1, 0.2, 0.3)), operands=(VIEWS[dtype],))
    assert by_pairs(before, V3) is before


def test_other_epilogues_are_left_alone() -> None:
    whole_code = residual((0.1, 0.2, 0.3))
    shorter = [
        Epilogue(steps=whole_code.steps[:count], operands=whole_code.operands) for count in range(len(whole_code.steps))
    ]
    assert all(by_pairs(epilogue, V3) is epilogue for epilogue in (Epilogue(), *shorter))


def test_a_number_that_is_no_code_is_left_alone() -> None:
    """The sum itself, held but not rounded, takes more than 256 values."""
    before = residual((0.1, 0.2, 0.3))
    steps = tuple(Step(op="float32" if s.op == "round" else s.op, arguments=s.arguments) for s in before.steps)
    epilogue = replace(before, steps=steps)
    assert by_pairs(epilogue, V3) is epilogue


def test_a_sum_with_two_others_is_left_alone() -> None:
    before = residual((0.1, 0.2, 0.3))
    products = [index for index, step in enumerate(before.steps) if step.op == "product"]
    steps = list(before.steps)
    steps[products[-1]] = replace(steps[products[-1]], arguments=(steps[products[-1]].arguments[0], Operand(1)))
    epilogue = Epilogue(steps=tuple(steps), operands=(VIEWS["uint8"], VIEWS["uint8"]))
    assert by_pairs(epilogue, V3) is epilogue
