"""Concatenations are filled in place where the parts are made by templates, copied into otherwise, and right."""

import numpy as np
import pytest
from tvm import relax

from lowprec.passes.channels_last import channels_last
from lowprec.passes.editing import MAIN, Emitter
from lowprec.passes.halos import move_padding
from lowprec.passes.joining import Join, find_joins
from lowprec.passes.units import group_units
from tests.tvm.passes.programs import Body, inputs_of, program, run, run_lowered, weights

op, nn = relax.op, relax.op.nn
SHAPE = (2, 20, 6, 5)


def conv(e: Emitter, x: relax.Expr, channels: int, name: str = "", padding: int = 0) -> relax.Var:
    kernel = weights(channels, int(x.ty.shape.values[1]), 1 + 2 * padding, 1 + 2 * padding)
    return e.emit(nn.relu(e.emit(nn.conv2d(x, kernel, padding=padding))), name)


def join(e: Emitter, parts: list[relax.Expr], axis: int = 1) -> relax.Var:
    return e.emit(op.concat(parts, axis=axis), "whole")


def pool(e: Emitter, x: relax.Expr) -> relax.Var:
    return e.emit(nn.max_pool2d(x, (3, 3), padding=(1, 1)))


def read_elsewhere(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    shared = conv(e, x[0], 7)
    whole = join(e, [shared, conv(e, x[0], 21)])
    return relax.Tuple([whole, conv(e, shared, 3)])


def padded(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    whole = join(e, [pool(e, x[0]), conv(e, x[0], 33), conv(e, x[0], 5, padding=1)])
    return relax.Tuple([conv(e, whole, 4, padding=1), pool(e, whole)])


def cut(e: Emitter, x: relax.Expr) -> relax.Var:
    """A part of all axes at once, each from another place: once the channels are last, the axes are not in order."""
    return e.emit(op.strided_slice(x, [0, 1, 2, 3], [0, 3, 1, 0], [2, 12, 5, 2]))


def cut_out(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    shared = conv(e, x[0], 20)
    return join(e, [cut(e, shared), conv(e, cut(e, shared), 9)])


# What is joined, and which parts are written in place.
CASES: dict[str, tuple[Body, list[bool]]] = {
    "convolutions": (lambda e, x: join(e, [conv(e, x[0], 3), conv(e, x[0], 40, padding=1)]), [True, True]),
    "a pool": (lambda e, x: join(e, [conv(e, x[0], 16), pool(e, x[0]), conv(e, x[0], 17)]), [True, False, True]),
    "the model's input": (lambda e, x: join(e, [x[0], conv(e, x[0], 9)]), [False, True]),
    "a part cut out": (cut_out, [False, True]),
    "read elsewhere": (read_elsewhere, [False, True]),
    "a border for the next layer": (padded, [False, True, True]),
}
DECLINED: dict[str, Body] = {
    "twice the same": lambda e, x: join(e, [y := conv(e, x[0], 3), y]),
    "another axis": lambda e, x: join(e, [conv(e, x[0], 3), conv(e, x[0], 3)], axis=2),
    "nothing from a template": lambda e, x: join(e, [pool(e, x[0]), x[0]]),
    "something follows": lambda e, x: e.emit(nn.relu(join(e, [conv(e, x[0], 3), conv(e, x[0], 4)]))),
}


def joins(body: Body) -> list[Join]:
    module = move_padding(group_units(channels_last(program([SHAPE], body))))
    return find_joins(module, module[MAIN])


@pytest.mark.parametrize("name", CASES)
def test_parts_are_written_in_place_where_they_can_be(name: str) -> None:
    body, expected = CASES[name]
    (found,) = joins(body)
    assert [part.in_place for part in found.parts] == expected


@pytest.mark.parametrize("name", DECLINED)
def test_what_is_no_plain_concatenation_is_left_alone(name: str) -> None:
    assert joins(DECLINED[name]) == []


@pytest.mark.parametrize("name", [*CASES, *DECLINED])
def test_the_answers_stay(name: str) -> None:
    body = CASES[name][0] if name in CASES else DECLINED[name]
    module = program([SHAPE], body)
    inputs = inputs_of(module)
    for expected, got in zip(run(module, inputs), run_lowered(module, inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
