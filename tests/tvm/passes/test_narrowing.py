"""Tensors of bfloat16 numbers are stored in two bytes, where those who read them can, and nothing changes by it."""

from collections.abc import Callable

import numpy as np
import pytest
from tvm import IRModule, relax

from lowprec.choosing import DIRECT
from lowprec.passes.editing import MAIN, Emitter, bindings, dtype_of, is_tensor
from lowprec.passes.narrowing import narrow_bfloats
from lowprec.passes.templates import Wish
from lowprec.pipeline import rewrite
from lowprec.targets import native, parse_target
from tests.amounts import thinned
from tests.tvm.passes.programs import inputs_of, program, run, run_units

op, nn = relax.op, relax.op.nn
SHAPE = (1, 32, 9, 10)
RNG = np.random.default_rng(3)
TILES = parse_target("sapphirerapids")
Body = Callable[[Emitter, list[relax.Var]], relax.Expr]


def rounded(e: Emitter, x: relax.Expr, name: str = "") -> relax.Var:
    return e.emit(op.astype(e.emit(op.astype(x, "bfloat16")), "float32"), name)


def conv(e: Emitter, x: relax.Expr, name: str = "", channels: int = 32, size: int = 1, groups: int = 1) -> relax.Var:
    """A convolution of few products, each of small whole numbers and exact, so that no order of sums matters."""
    numbers = RNG.integers(-2, 3, (channels, int(x.ty.shape.values[1]) // groups, size, size))
    weights = relax.const(numbers.astype(np.float32))
    return e.emit(nn.conv2d(x, weights, padding=size // 2, groups=groups), name)


def layer(e: Emitter, x: relax.Expr, name: str, channels: int = 32, size: int = 1, groups: int = 1) -> relax.Var:
    return rounded(e, e.emit(nn.relu(conv(e, x, channels=channels, size=size, groups=groups))), name)


def chain(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    return conv(e, layer(e, layer(e, rounded(e, x[0]), "a"), "b"), "end")


def bordered(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    return conv(e, layer(e, layer(e, rounded(e, x[0]), "a"), "b", size=3), "end", size=3)


def residual(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    a = layer(e, rounded(e, x[0]), "a")
    b = rounded(e, e.emit(op.add(conv(e, layer(e, a, "c"), size=3), a)), "b")
    return conv(e, b, "end", size=3)


def joined(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    a = layer(e, rounded(e, x[0]), "a")
    whole = e.emit(op.concat([a, layer(e, a, "b", size=3)], axis=1), "joined")
    return conv(e, whole, "end", size=3)


def joined_with_floats(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    source = rounded(e, x[0])
    whole = e.emit(op.concat([layer(e, source, "a"), conv(e, source, "f")], axis=1), "joined")
    return conv(e, whole, "end", size=3)


def pooled(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    a = e.emit(nn.max_pool2d(layer(e, rounded(e, x[0]), "a"), (3, 3), padding=(1, 1)), "pool")
    b = e.emit(nn.avg_pool2d(layer(e, a, "b"), (2, 2)), "average")
    return conv(e, rounded(e, b, "c"), "end")


def returned(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    a = layer(e, rounded(e, x[0]), "a", size=3)
    return relax.Tuple([layer(e, a, "b", size=3), a])


def depthwise(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    a = layer(e, rounded(e, x[0]), "a")
    return conv(e, layer(e, a, "b", size=3, groups=32), "end")


def cut(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    a = layer(e, rounded(e, x[0]), "a", channels=64)
    left, right = (e.emit(op.strided_slice(a, [1], [32 * i], [32 * i + 32])) for i in range(2))
    return e.emit(op.add(conv(e, left, "b"), e.emit(op.exp(right))), "end")


# What is computed, and which of its tensors are stored in two bytes.
CASES: dict[str, tuple[Body, set[str]]] = {
    "a chain": (chain, {"a", "b"}),
    "borders": (bordered, {"a", "b"}),
    "a residual": (residual, {"a", "b", "c"}),
    "joined": (joined, {"a", "b", "joined"}),
    "joined with floats": (joined_with_floats, set()),
    "pools": (pooled, {"a", "b", "c", "pool"}),
    "a result of the model": (returned, {"a", "b"}),
    "a depthwise layer": (depthwise, {"a", "b"}),
    "parts": (cut, {"a"}),
}


def units(name: str) -> IRModule:
    return rewrite(program([SHAPE], CASES[name][0]))


def stored(module: IRModule) -> set[str]:
    """The names of what main keeps in two bytes."""
    tensors = [var for var, _ in bindings(module[MAIN]) if is_tensor(var)]
    return {var.name for var in tensors if dtype_of(var) == "uint16"}


@pytest.mark.parametrize("name", thinned(CASES))
def test_what_is_stored_in_two_bytes(name: str) -> None:
    module = units(name)
    narrow = narrow_bfloats(module, TILES, {})
    assert stored(narrow) - {""} == CASES[name][1]
    inputs = inputs_of(module)
    for expected, got in zip(run(module, inputs), run(narrow, inputs), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", thinned(CASES, first=1))
def test_kernels_compute_the_same(name: str) -> None:
    """On tiles where this CPU has them; the generic rule takes what other kernels cannot."""
    module, target = units(name), native()
    narrow = narrow_bfloats(module, TILES, {})
    inputs = inputs_of(module)
    for expected, got in zip(run_units(module, inputs, target), run_units(narrow, inputs, target), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_targets_without_tiles_keep_four_bytes() -> None:
    assert not stored(narrow_bfloats(units("a chain"), parse_target("cascadelake"), {}))


def test_other_algorithms_read_floats() -> None:
    module = units("borders")
    wishes = {"b": Wish(algorithm="winograd:4"), "end": Wish(algorithm=DIRECT)}
    assert stored(narrow_bfloats(module, TILES, wishes)) - {""} == {"b"}
