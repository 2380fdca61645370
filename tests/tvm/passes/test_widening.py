"""Narrow tensors are what lies in memory: whoever reads one made wide does that for himself."""

from collections.abc import Callable

import numpy as np
import pytest
from tvm import relax

from lowprec.passes.channels_last import channels_last
from lowprec.passes.editing import MAIN, Emitter, bindings, dtype_of, result_of
from lowprec.passes.halos import move_padding
from lowprec.passes.units import group_units
from lowprec.passes.widening import chain_of, zero_of
from tests.amounts import thinned
from tests.tvm.passes.programs import (
    Body,
    integer_program,
    operators,
    run,
    run_lowered,
    units,
    weights,
    whole_numbers,
    widened,
)

op, nn = relax.op, relax.op.nn
SHAPE = (1, 4, 6, 6)

Step = Callable[[Emitter, relax.Expr], relax.Expr]


def real(e: Emitter, x: relax.Expr) -> relax.Var:
    return widened(e, x)


def less_half(e: Emitter, x: relax.Expr) -> relax.Var:
    return e.emit(op.subtract(widened(e, x), relax.const(1.5, "float32")))


def from_a_constant(e: Emitter, x: relax.Expr) -> relax.Var:
    return e.emit(op.subtract(relax.const(7, "int32"), e.emit(op.astype(x, "int32"))))


def twice_then_less(e: Emitter, x: relax.Expr) -> relax.Var:
    twice = e.emit(op.multiply(e.emit(op.astype(x, "int32")), relax.const(2, "int32")))
    return e.emit(op.subtract(twice, relax.const(5, "int32")))


def whole_again(e: Emitter, x: relax.Expr) -> relax.Var:
    return e.emit(op.subtract(e.emit(op.astype(widened(e, x), "int32")), relax.const(5, "int32")))


def of_more_axes(e: Emitter, x: relax.Expr) -> relax.Var:
    return e.emit(op.multiply(widened(e, x), relax.const(np.full((1,) * 5, 0.5, np.float32))))


def by_channel(e: Emitter, x: relax.Expr) -> relax.Var:
    return e.emit(op.multiply(widened(e, x), relax.const(np.full((4, 1, 1), 0.5, np.float32))))


def by_infinity(e: Emitter, x: relax.Expr) -> relax.Var:
    return e.emit(op.multiply(widened(e, x), relax.const(np.inf, "float32")))


def beyond_a_byte(e: Emitter, x: relax.Expr) -> relax.Var:
    return widened(e, x, zero=300)


def added(e: Emitter, x: relax.Expr) -> relax.Var:
    return e.emit(op.add(widened(e, x), relax.const(1.0, "float32")))


NO_CHAINS: tuple[Step, ...] = (
    added, beyond_a_byte, by_channel, by_infinity, from_a_constant, less_half, of_more_axes, twice_then_less,
    whole_again,
)  # fmt: skip


@pytest.mark.parametrize("step", NO_CHAINS, ids=lambda step: step.__name__)
def test_what_is_no_chain(step: Step) -> None:
    """One of a border's bytes must be what becomes zero."""
    main = integer_program(SHAPE, lambda e, x: step(e, x[0]))[MAIN]
    assert chain_of(result_of(main), dict(bindings(main))) == ()


def test_a_chain_and_its_zero() -> None:
    main = integer_program(SHAPE, lambda e, x: real(e, x[0]))[MAIN]
    values = dict(bindings(main))
    chain = chain_of(result_of(main), values)
    assert list(chain) == [var for var, _ in bindings(main)]
    assert zero_of([values[var] for var in chain]) == 3
    assert chain_of(chain[1], values) == chain[:2], "any step of one ends a chain"
    assert chain_of(main.params[0], values) == ()


def readers(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """Elements and sums of the same wide tensor."""
    y = real(e, x[0])
    return relax.Tuple([e.emit(nn.relu(e.emit(op.exp(y)))), e.emit(op.sum(y, [3]))])


def dead(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    real(e, x[0])
    return e.emit(op.add(x[0], x[0]))


def reshaped(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """A reshape is no kernel, and widens nothing."""
    return e.emit(op.exp(e.emit(op.reshape(real(e, x[0]), (4, 36)))))


def returned(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    y = real(e, x[0])
    return relax.Tuple([y, e.emit(op.exp(y))])


def multiplied(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """A kernel that multiplies floats takes them from memory."""
    return e.emit(op.matmul(real(e, x[0]), weights(6, 5)))


def twice_in_one(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    y = real(e, x[0])
    return e.emit(op.add(e.emit(op.exp(y)), y))


WIDE = "multiply"
"""The last step of a chain that is a kernel; those before it are computed inside."""
CASES: dict[str, tuple[Body, list[str]]] = {
    "every reader": (readers, ["exp+relu", "sum"]),
    "nobody": (dead, ["add"]),
    "a reshape": (reshaped, [WIDE, "exp", "reshape"]),
    "the caller": (returned, [WIDE, "exp"]),
    "a product": (multiplied, [WIDE, "matmul"]),
    "one unit twice": (twice_in_one, ["exp+add"]),
}


@pytest.mark.parametrize("name", CASES)
def test_who_widens(name: str) -> None:
    body, expected = CASES[name]
    before = integer_program(SHAPE, body)
    after = group_units(before)
    assert sorted(operators(after)) == sorted(expected)
    inputs = whole_numbers(before)
    for wanted, got, lowered in zip(run(before, inputs), run(after, inputs), run_lowered(before, inputs), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
        np.testing.assert_allclose(lowered, wanted, rtol=1e-5, atol=1e-3)


def test_units_read_what_is_narrow() -> None:
    after = group_units(integer_program(SHAPE, readers))
    assert [dtype_of(param) for unit in units(after) for param in unit.params] == ["uint8", "uint8"]


def integer_conv(e: Emitter, x: relax.Expr, zero: int, pad: int = 1) -> relax.Var:
    """A convolution of integers, its bias, and the way back to bytes."""
    kernel = np.random.default_rng(zero).integers(-128, 128, (4, 4, 1 + 2 * pad, 1 + 2 * pad)).astype(np.int32)
    total = e.emit(nn.conv2d(widened(e, x, zero, "int32"), relax.const(kernel), padding=pad, out_dtype="int32"))
    biased = e.emit(op.add(total, relax.const(np.arange(-2, 2, dtype=np.int32).reshape(4, 1, 1) * 999)))
    scaled = e.emit(op.multiply(e.emit(op.astype(biased, "float32")), relax.const(0.001, "float32")))
    moved = e.emit(op.add(e.emit(op.round(scaled)), relax.const(5.0, "float32")))
    held = e.emit(op.minimum(e.emit(op.maximum(moved, relax.const(0.0, "float32"))), relax.const(255.0, "float32")))
    return e.emit(op.astype(held, "uint8"))


INTEGER_LAYER = "conv2d+add+astype+multiply+round+add+maximum+minimum+astype"


def in_a_row(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    return integer_conv(e, integer_conv(e, integer_conv(e, x[0], 3), 200), 5)


def agreeing(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    y = integer_conv(e, x[0], 3)
    return relax.Tuple([integer_conv(e, y, 9, pad) for pad in (1, 2, 0)])


def disagreeing(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """The same bytes around which one reader wants 9, and another 200."""
    y = integer_conv(e, x[0], 3)
    return relax.Tuple([integer_conv(e, y, 9), integer_conv(e, y, 200)])


def float_conv(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """Padding is zero behind whatever is subtracted in between."""
    y = integer_conv(e, x[0], 3)
    return relax.Tuple(
        [e.emit(nn.conv2d(step(e, y), weights(3, 4, 3, 3), padding=1)) for step in (real, less_half, by_channel)]
    )


def joined(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    y = integer_conv(e, x[0], 3)
    whole = e.emit(op.concat([integer_conv(e, y, 9), y, integer_conv(e, y, 9)], axis=1))
    part = e.emit(op.strided_slice(whole, [1], [2], [6]))
    return relax.Tuple([integer_conv(e, part, 77), e.emit(nn.max_pool2d(whole, (2, 2)))])


INTEGER_NETWORKS: dict[str, tuple[Body, dict[str, int]]] = {
    "in a row": (in_a_row, {INTEGER_LAYER: 3, "pad": 0}),
    "readers that agree": (agreeing, {INTEGER_LAYER: 4, "pad": 0}),
    "readers that disagree": (disagreeing, {INTEGER_LAYER: 3, "pad": 2}),
    "float convolutions": (float_conv, {INTEGER_LAYER: 1, "conv2d": 3}),
    "joined": (joined, {INTEGER_LAYER: 4, "concat": 1}),
}


@pytest.mark.parametrize("name", thinned(INTEGER_NETWORKS))
def test_networks_of_integers_keep_their_meaning(name: str) -> None:
    """Borders are of the byte that stands for zero; two that disagree are written apart."""
    body, counts = INTEGER_NETWORKS[name]
    before = integer_program(SHAPE, body)
    after = move_padding(group_units(channels_last(before)))
    found = operators(after)
    assert {kind: found.count(kind) for kind in counts} == counts
    inputs = whole_numbers(before)
    for wanted, got, lowered in zip(run(before, inputs), run(after, inputs), run_lowered(before, inputs), strict=True):
        if wanted.dtype == np.uint8:
            assert np.array_equal(got, wanted)
            assert np.array_equal(lowered, wanted)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(lowered, wanted, rtol=1e-4, atol=1e-3)
