"""Padding moves to whoever makes the tensor, and everybody else reads a window."""

import pytest
from tvm import IRModule, relax

from lowprec.passes.channels_last import channels_last
from lowprec.passes.editing import MAIN, WINDOWS, Emitter, bindings, op_name
from lowprec.passes.halos import move_padding
from lowprec.passes.reading_units import read_unit
from lowprec.passes.units import group_units
from tests.tvm.passes.programs import Body, assert_same_meaning, operators, program, units, weights

op, nn = relax.op, relax.op.nn


def conv(e: Emitter, x: relax.Expr, padding: int | tuple[int, ...], name: str = "", kernel: int = 3) -> relax.Var:
    size = int(x.ty.shape.values[1])
    return e.emit(nn.relu(e.emit(nn.conv2d(x, weights(size, size, kernel, kernel), padding=padding))), name)


def moved(module: IRModule) -> IRModule:
    return move_padding(group_units(channels_last(module)))


def branches(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    y = conv(e, x[0], 1, "y")
    wide = conv(e, y, 2, kernel=5)
    near = conv(e, y, 1)
    pool = e.emit(nn.max_pool2d(y, (3, 3), padding=(1, 1)))
    return e.emit(op.concat([wide, near, e.emit(op.add(pool, y))], axis=1))


def twice_in_one_unit(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    y = conv(e, x[0], 1)
    return e.emit(op.add(e.emit(nn.conv2d(y, weights(4, 4, 3, 3), padding=1)), y))


def input_twice_in_one_unit(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """Channels last already: no permute stands between the model's input and the convolution."""
    y = nn.conv2d(x[0], weights(6, 6, 3, 3), padding=1, data_layout="NHWC")
    return e.emit(op.add(e.emit(y), x[0]))


def returned(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    y = conv(e, x[0], 0, "y", kernel=1)
    return relax.Tuple([y, conv(e, y, 1)])


CASES: dict[str, Body] = {
    "a chain": lambda e, x: conv(e, conv(e, conv(e, x[0], 1), 1), 1),
    "branches that pad differently": branches,
    "uneven padding": lambda e, x: conv(e, conv(e, x[0], (0, 1, 2, 1)), (2, 0, 1, 3)),
    "twice in one unit": twice_in_one_unit,
    "an output of the model": returned,
    "behind a reshape": lambda e, x: conv(
        e, e.emit(op.reshape(e.emit(op.reshape(conv(e, x[0], 1), (1, 2, 2, 6, 6))), (1, 4, 6, 6))), 1
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_meaning_stays(name: str) -> None:
    before = program([(1, 4, 6, 6)], CASES[name])
    after = moved(before)
    assert_same_meaning(before, after)
    for unit in units(after):
        for _, value in bindings(unit):
            if op_name(value) == "relax.nn.conv2d":
                assert not any(value.attrs.padding), "a convolution's padding is in its input"


def test_a_chain_needs_no_unit_for_padding() -> None:
    after = moved(program([(1, 4, 6, 6)], CASES["a chain"]))
    assert operators(after) == ["permute_dims", "conv2d+relu", "conv2d+relu", "conv2d+relu", "permute_dims"]


def test_the_widest_border_is_recorded_by_name() -> None:
    after = moved(program([(1, 4, 6, 6)], branches))
    window = [int(item) for item in dict(after[MAIN].attrs[WINDOWS])["y"]]
    assert window == [0, 2, 2, 0, 1, 6, 6, 4]


def test_what_is_no_unit_is_padded_by_one() -> None:
    after = moved(program([(1, 4, 6, 6)], CASES["behind a reshape"]))
    assert operators(after).count("pad") == 1


def test_an_input_read_twice_is_padded_in_front_of_the_unit() -> None:
    """The residual is a window of the padded copy: nothing stands before the convolution that a kernel cannot read."""
    before = program([(1, 4, 6, 6)], input_twice_in_one_unit)
    after = moved(before)
    assert_same_meaning(before, after)
    assert operators(after) == ["pad", "conv2d+add"]
    _, unit = units(after)
    assert [op_name(value) for _, value in bindings(unit)] == ["relax.nn.conv2d", "relax.strided_slice", "relax.add"]
    assert read_unit(unit).epilogue.operands
