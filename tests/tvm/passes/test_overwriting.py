"""A kernel writes its result over a residual that nobody reads again, and over nothing else; numbers stay."""

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from tvm import IRModule, relax

from lowprec.passes.editing import MAIN, Emitter, bindings
from lowprec.passes.lowering import lower_units
from lowprec.passes.narrowing import narrow_bfloats
from lowprec.passes.overwriting import last_reads
from lowprec.pipeline import rewrite
from lowprec.schedules.amx import Amx
from lowprec.targets import native, parse_target
from tests.tvm.passes.programs import inputs_of, program, run_units
from tests.tvm.passes.test_narrowing import conv, layer, rounded

op, nn = relax.op, relax.op.nn
TILES = parse_target("sapphirerapids")
RNG = np.random.default_rng(5)
SHAPES = [(1, 32, 9, 10), (1, 32, 14, 14)]
Body = Callable[[Emitter, list[relax.Var]], relax.Expr]

needs_tiles = pytest.mark.skipif(not native().has("amx_bf16"), reason="this CPU has no AMX for bfloat16")


def added(e: Emitter, x: relax.Expr, other: relax.Expr, name: str, size: int = 1) -> relax.Var:
    """A layer that is rounded, and then another tensor is added to it."""
    total = e.emit(op.add(rounded(e, conv(e, x, size=size)), other))
    return rounded(e, e.emit(nn.relu(total)), name)


def block(e: Emitter, x: relax.Expr, name: str) -> relax.Var:
    return added(e, layer(e, x, f"{name} inside", size=3), x, name)


def residuals(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    a = layer(e, rounded(e, x[0]), "a")
    return conv(e, block(e, block(e, a, "b"), "c"), "end", size=3)


def projected(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    a = layer(e, rounded(e, x[0]), "a")
    shortcut = rounded(e, conv(e, a), "shortcut")
    return conv(e, added(e, layer(e, a, "b"), shortcut, "c", size=3), "end")


def read_later(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """By the second sum, which may have it."""
    a = layer(e, rounded(e, x[0]), "a")
    b = block(e, a, "b")
    return conv(e, added(e, layer(e, b, "c"), a, "d"), "end", size=3)


def other_border(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """The residual has one, for who reads it besides; the sum has none."""
    return conv(e, block(e, layer(e, rounded(e, x[0]), "a"), "b"), "end")


def returned(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    a = layer(e, rounded(e, x[0]), "a")
    return relax.Tuple([conv(e, block(e, a, "b"), "end"), a])


def own_input(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    a = layer(e, rounded(e, x[0]), "a")
    return conv(e, added(e, a, a, "b"), "end")


def joined(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """A part of a larger tensor does not lie as the result does."""
    a = layer(e, rounded(e, x[0]), "a")
    b = block(e, a, "b")
    return conv(e, e.emit(op.concat([b, layer(e, b, "c")], axis=1), "joined"), "end", size=3)


def turned_input(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """A copy of the model's input, channels last, is nobody else's."""
    a = layer(e, rounded(e, x[0]), "a")
    return e.emit(op.add(conv(e, a), x[0]), "end")


def input_itself(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """Matrix products read and write what the caller has as it is."""
    rows = e.emit(op.reshape(rounded(e, conv(e, rounded(e, x[0]))), (-1, 64)))
    weights = relax.const(RNG.integers(-2, 3, (64, 64)).astype(np.float32))
    return e.emit(op.add(e.emit(op.matmul(rows, weights)), x[1]), "end")


# What is computed, and how often a kernel takes the place of a residual.
CASES: dict[str, tuple[Body, int]] = {
    "residuals": (residuals, 2),
    "a projected residual": (projected, 1),
    "read later": (read_later, 1),
    "a result of the model": (returned, 0),
    "what is multiplied as well": (own_input, 0),
    "a part of a larger tensor": (joined, 0),
    "another border": (other_border, 0),
    "a turned input of the model": (turned_input, 1),
    "an input of the model": (input_itself, 0),
}


def units(name: str, shape: tuple[int, ...]) -> IRModule:
    rows = prod(shape) // 64
    return narrow_bfloats(rewrite(program([shape, (rows, 64)], CASES[name][0])), TILES, {})


def overwritten(module: IRModule) -> int:
    """Calls that return nothing and write into no tensor that is allocated for it: all but those of parts."""
    lowered = lower_units(module, TILES)
    calls = [value for _, value in bindings(lowered.module[MAIN]) if isinstance(value, relax.Call)]
    nothing = [call for call in calls if isinstance(call.op, relax.ExternFunc) and call.args]
    made = {var for var, value in bindings(lowered.module[MAIN]) if _allocates(value)}
    return sum(call.args[-1] not in made for call in nothing if not _allocates(call))


def _allocates(value: relax.Expr) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.builtin.alloc_tensor"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_what_is_overwritten(name: str, shape: tuple[int, ...]) -> None:
    assert overwritten(units(name, shape)) == CASES[name][1]


@needs_tiles
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_numbers_stay(name: str, shape: tuple[int, ...]) -> None:
    module = units(name, shape)
    inputs = inputs_of(module)
    results = run_units(module, inputs, native())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Amx, "may_overwrite", False)
        expected = run_units(module, inputs, native())
    for got, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_last_reads_are_those_after_which_none_follows() -> None:
    module = program([(2, 2)], lambda e, x: _steps(e, x[0]))
    last = {var.name: {tensor.name for tensor in found} for var, found in last_reads(module[MAIN]).items()}
    assert last == {"a": set(), "b": set(), "twice": set(), "c": {"a", "x0"}}


def _steps(e: Emitter, x: relax.Expr) -> relax.Expr:
    a = e.emit(op.exp(x), "a")
    b = e.emit(op.exp(a), "b")
    e.emit(op.add(b, b), "twice")
    return e.emit(op.add(a, x), "c")
