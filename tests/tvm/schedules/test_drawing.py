"""Rounding by a word of random bits, in an expression: the bits of `lowprec.round_to`, where it turns and anywhere."""

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import s_tir, te
from tvm.ir import Expr

from lowprec.formats import BF16, FP16, Fixed, Format
from lowprec.rounding import Rounding
from lowprec.schedules.drawing import draw, draw_bfloat16, draw_float16
from tests.tvm.schedules.test_rounding import Machine, Rule, differences, lacking, probe

WHOLE = Fixed(24, 0)
KINDS: list[tuple[Format, Callable[[Expr, Expr], Expr]]] = [
    (WHOLE, draw),
    (Fixed(3, 0), draw),
    (BF16, draw_bfloat16),
    (FP16, draw_float16),
]
MACHINES = [Machine("x86-64", 1), Machine("x86-64", 4), Machine("x86-64-v3", 8), Machine("x86-64-v4", 16)]


def apply(
    function: Callable[[Expr, Expr], Expr], x: NDArray[np.float32], words: NDArray[np.uint32], machine: Machine
) -> NDArray[np.float32]:
    """What a loop of vectors makes of them."""
    count = x.size + -x.size % machine.lanes
    values, draws = np.zeros(count, np.float32), np.zeros(count, np.uint32)
    values[: x.size], draws[: x.size] = x, words
    first, second = te.placeholder((count,), "float32", "x"), te.placeholder((count,), "uint32", "words")
    result = te.compute((count,), lambda i: function(first(i), second(i)), "map")
    schedule = s_tir.Schedule(te.create_prim_func([first, second, result]))
    (loop,) = schedule.get_loops("map")
    schedule.vectorize(schedule.split(loop, [None, machine.lanes])[1])
    built = tvm.compile(schedule.mod, target=tvm.target.Target(machine.target.tvm_target(1)))
    found = tvm.runtime.tensor(np.full(count, 77, np.float32))
    built["main"](tvm.runtime.tensor(values), tvm.runtime.tensor(draws), found)
    return np.asarray(found.numpy())[: x.size]


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize(("fmt", "function"), KINDS, ids=lambda value: str(value) if not callable(value) else "")
def test_expressions_round_as_the_oracle(fmt: Format, function: Callable[[Expr, Expr], Expr], machine: Machine) -> None:
    if lacking(machine):
        pytest.skip(f"this CPU has no {', '.join(lacking(machine))}")
    each = probe(fmt, Rule(Rounding.STOCHASTIC), 40)
    found = apply(function, each.x, each.draws, machine)
    if isinstance(fmt, Fixed):  # whoever asks holds whole numbers between the ends of a word, where zero has no sign
        held = np.clip(found, -(2.0 ** (fmt.integer - 1)), 2.0 ** (fmt.integer - 1) - 1)
        found = np.where(np.isnan(found), found, held + np.float32(0)).astype(np.float32)
    assert not differences(each, found)
