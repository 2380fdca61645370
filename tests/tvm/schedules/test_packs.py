"""Codes of several vectors at once: what each alone becomes, whatever number it is, and where that is done."""

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.building import quick_passes
from lowprec.schedules.epilogue import Constant, Epilogue, Step, Value
from lowprec.schedules.packs import TOGETHER, Packs, packs_of
from lowprec.schedules.views import load, store
from lowprec.targets import native, parse_target
from lowprec.tiles import LANES
from tests.quantized import limits

AVX512 = parse_target("cascadelake")
needs_avx512 = pytest.mark.skipif(not native().has("avx512bw"), reason="this CPU has no AVX512BW")
Floats = NDArray[np.float32]
SPECIAL = (np.nan, np.inf, -np.inf, 3e38, -3e38, 2.0**31, -(2.0**31), 2147483520.0, 1e-45, -0.0, 32767.5, -32768.5)
HALVES = np.arange(-300, 300, 0.25)


def quantized(dtype: str, zero: int, low: float, high: float) -> Epilogue:
    """As `bounded` leaves it."""
    ops = [("maximum", low - zero), ("minimum", high - zero), ("nearest", None), ("add", float(zero)), (dtype, None)]
    steps = [
        Step(op=op, arguments=(Value(index), *(() if number is None else (Constant(number),))))
        for index, (op, number) in enumerate(op for op in ops if op != ("add", 0.0))
    ]
    return Epilogue(steps=tuple(steps))


def expected(x: Floats, dtype: str, zero: int, low: float, high: float) -> NDArray[np.generic]:
    """The instruction for the larger of two takes the second where the first is none."""
    held = np.minimum(np.where(np.isnan(x), low - zero, np.maximum(x, low - zero)), high - zero)
    return (np.rint(held).astype(np.int64) + zero).astype(dtype)


def run(packs: Packs, x: Floats, starts: list[int]) -> tuple[Floats, NDArray[np.generic]]:
    """Rows of vectors that begin at `starts`, and what a kernel writes of them."""
    width = starts[-1] + LANES
    rows = TOGETHER
    x = np.resize(x, (-(-x.size // (rows * width)), rows, width))
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        source = T.arg("X", T.buffer(x.shape, "float32"))
        result = T.arg("Y", T.buffer(x.shape, packs.dtype))
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        with T.serial(0, len(x)) as number:
            first = number * rows * width
            places = [first + row * width + start for row in range(rows) for start in starts]
            pieces = packs.rows([load(source, place, LANES) for place in places], starts)
            for row, line in enumerate(pieces):
                for piece in line:
                    store(result, first + row * width + piece.first, piece.value, piece.width)
    with quick_passes():
        built = tvm.compile(tvm.IRModule({"main": builder.get()}), target=tvm.target.Target(native().tvm_target(1)))
    found = tvm.runtime.tensor(np.full(x.shape, 77, packs.dtype))
    built["main"](tvm.runtime.tensor(x), found)
    return x, np.asarray(found.numpy())


@needs_avx512
@pytest.mark.parametrize("starts", [[0], [0, 16], [0, 16, 32], [0, 16, 32, 48], [0, 8], [0, 16, 25]], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_every_number_becomes_the_code_it_would_alone(dtype: str, starts: list[int]) -> None:
    low, high = limits(dtype)
    for zero, least, most in ((0, low, high), (37, low, high), (-3 if low else 250, low + 9, high - 20)):
        packs = packs_of(quantized(dtype, zero, least, most), native())
        assert packs is not None
        assert not packs.before.steps
        x, found = run(packs, np.concatenate([np.array(SPECIAL), HALVES]).astype(np.float32), starts)
        assert np.array_equal(found, expected(x, dtype, zero, least, most))


@needs_avx512
@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(width=32), min_size=64, max_size=64), st.integers(-128, 127))
def test_drawn_numbers_become_the_code_they_would_alone(numbers: list[float], zero: int) -> None:
    packs = packs_of(quantized("int8", zero, -128, 127), native())
    assert packs is not None
    x, found = run(packs, np.array(numbers, np.float32), [0, 16])
    assert np.array_equal(found, expected(x, "int8", zero, -128, 127))


def test_the_end_is_taken_off() -> None:
    relu = Step(op="relu", arguments=(Value(0),))
    epilogue = quantized("uint8", 3, 3, 200)
    moved = tuple(Step(op=s.op, arguments=(Value(i + 1), *s.arguments[1:])) for i, s in enumerate(epilogue.steps))
    found = packs_of(Epilogue(steps=(relu, *moved)), AVX512)
    assert found == Packs(before=Epilogue(steps=(relu,)), high=197.0, moved=3, low=3, top=None, dtype="uint8")


def test_a_relu_is_an_end() -> None:
    steps = (Step(op="relu", arguments=(Value(0),)), Step(op="minimum", arguments=(Value(1), Constant(100.0))),
             Step(op="nearest", arguments=(Value(2),)), Step(op="int8", arguments=(Value(3),)))  # fmt: skip
    assert packs_of(Epilogue(steps=steps), AVX512) == Packs(
        before=Epilogue(), high=100.0, moved=0, low=0, top=None, dtype="int8"
    )


def test_sums_of_codes_are_held_as_codes() -> None:
    fma = Step(op="fma", arguments=(Value(0), Constant(2.0), Constant(1.0)))
    ends = quantized("uint8", 0, 4, 250)
    steps = tuple(Step(op=s.op, arguments=(Value(i + 1), *s.arguments[1:])) for i, s in enumerate(ends.steps))
    found = packs_of(Epilogue(steps=(fma, *steps)), AVX512)
    assert found == Packs(before=Epilogue(steps=(fma,)), high=None, moved=0, low=4, top=250, dtype="uint8")


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "aarch64"])
def test_declines_without_the_instructions(target: str) -> None:
    assert packs_of(quantized("uint8", 3, 0, 255), parse_target(target)) is None


def test_other_ends_are_left_alone() -> None:
    steps = quantized("uint8", 3, 0, 255).steps
    wide = (*steps[:-1], Step(op="int16", arguments=steps[-1].arguments))
    unrounded = (*steps[:2], Step(op="uint8", arguments=(Value(2),)))
    for other in ((), wide, unrounded, steps[:-1]):
        assert packs_of(Epilogue(steps=other), AVX512) is None
