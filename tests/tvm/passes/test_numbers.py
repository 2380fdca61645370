"""What holds nothing but bfloat16 numbers is known, and nothing else is taken for it."""

from collections.abc import Callable

import numpy as np
import pytest
from tvm import relax

from lowprec.passes.calling import OPERATORS
from lowprec.passes.channels_last import channels_last
from lowprec.passes.editing import MAIN, Emitter, bindings, result_of
from lowprec.passes.halos import move_padding
from lowprec.passes.numbers import numbers_of
from lowprec.passes.units import group_units
from tests.tvm.passes.programs import program, weights

op, nn = relax.op, relax.op.nn
SHAPE = (1, 4, 6, 6)
Step = Callable[[Emitter, relax.Expr], relax.Expr]


def rounded(e: Emitter, x: relax.Expr, dtype: str = "bfloat16") -> relax.Var:
    return e.emit(op.astype(e.emit(op.astype(x, dtype)), "float32"))


def padded(value: float) -> Step:
    return lambda e, x: e.emit(nn.pad(rounded(e, x), [0, 0, 0, 0, 1, 1, 1, 1], pad_value=value))


KNOWN: dict[str, Step] = {
    "rounded": rounded,
    "rectified": lambda e, x: e.emit(nn.relu(rounded(e, x))),
    "pooled": lambda e, x: e.emit(nn.max_pool2d(rounded(e, x), (2, 2))),
    "joined": lambda e, x: e.emit(op.concat([rounded(e, x), rounded(e, e.emit(op.exp(x)))], axis=1)),
    "padded": padded(0.0),
    "cut": lambda e, x: e.emit(op.strided_slice(rounded(e, x), [2], [1], [5])),
}
UNKNOWN: dict[str, Step] = {
    "of float32": lambda e, x: e.emit(nn.relu(x)),
    "rounded to float16": lambda e, x: rounded(e, x, "float16"),
    "of one type and of the other": lambda e, x: e.emit(op.concat([rounded(e, x), rounded(e, x, "float16")], axis=1)),
    "joined with another": lambda e, x: e.emit(op.concat([rounded(e, x), x], axis=1)),
    "summed": lambda e, x: e.emit(op.add(rounded(e, x), rounded(e, e.emit(op.exp(x))))),
    "averaged": lambda e, x: e.emit(nn.avg_pool2d(rounded(e, x), (2, 2))),
    "padded with another number": padded(0.1),
    "the larger of it and a constant": lambda e, x: e.emit(
        op.maximum(rounded(e, x), relax.const(np.float32(0.1), "float32"))
    ),
}

OTHERS = {"rounded to float16": "float16"}


@pytest.mark.parametrize("name", [*KNOWN, *UNKNOWN])
def test_what_is_known_in_main(name: str) -> None:
    module = program([SHAPE], lambda e, x: (KNOWN | UNKNOWN)[name](e, x[0]))
    found = numbers_of(module, module[MAIN]).get(result_of(module[MAIN]))
    assert found == ("bfloat16" if name in KNOWN else OTHERS.get(name))


@pytest.mark.parametrize("name", [*KNOWN, *UNKNOWN])
def test_units_are_looked_into(name: str) -> None:
    """A convolution's source is known through the unit that makes it, its border included."""

    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        before = e.emit(nn.conv2d(x[0], weights(4, 4, 1, 1)))
        source = (KNOWN | UNKNOWN)[name](e, before)
        return e.emit(nn.conv2d(source, weights(4, int(source.ty.shape.values[1]), 3, 3), padding=(1, 1)))

    module = group_units(move_padding(channels_last(program([SHAPE], body))))
    main = module[MAIN]
    calls = [value for _, value in bindings(main)]
    product = next(call for call in reversed(calls) if "conv2d" in module[call.op].attrs[OPERATORS])
    found = numbers_of(module, main).get(product.args[0])
    assert found == ("bfloat16" if name in KNOWN else OTHERS.get(name))
