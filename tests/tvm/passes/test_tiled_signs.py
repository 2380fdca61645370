"""Products of signs become products of bytes where tiles are filled, and their answers stay the same."""

from collections.abc import Callable

import numpy as np
import pytest
from tvm import IRModule, relax

from lowprec.passes.editing import MAIN, Emitter, bindings, op_name
from lowprec.passes.tiled_signs import signs_in_bytes
from lowprec.pipeline import rewrite
from lowprec.targets import native, parse_target
from tests.tvm.passes.programs import inputs_of, program, run, run_units

op, nn = relax.op, relax.op.nn
SHAPE = (1, 32, 9, 10)
TILES = parse_target("sapphirerapids")
Body = Callable[[Emitter, list[relax.Var]], relax.Expr]


def number(value: float) -> relax.Expr:
    return relax.const(np.float32(value))


def signs(e: Emitter, x: relax.Expr) -> relax.Var:
    condition = e.emit(op.greater_equal(x, number(0)))
    return e.emit(op.where(condition, number(1), number(-1)))


def weights(*shape: int, seed: int = 0) -> relax.Expr:
    rng = np.random.default_rng(seed)
    factors = rng.uniform(0.5, 1.5, (shape[0], *(1,) * (len(shape) - 1)))
    return relax.const(np.where(rng.random(shape) < 0.5, -factors, factors).astype(np.float32))


def conv(**options: object) -> Body:
    return lambda e, x: e.emit(nn.conv2d(signs(e, x[0]), weights(24, 32, 3, 3), **options), "y")


def chain(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """The second's signs are what the first writes."""
    first = e.emit(nn.conv2d(signs(e, x[0]), weights(32, 32, 3, 3), padding=1), "a")
    moved = e.emit(op.add(first, weights(1, 32, 1, 1, seed=5)))
    return e.emit(nn.conv2d(signs(e, moved), weights(16, 32, 3, 3, seed=1), padding=1), "y")


def product(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    rows = e.emit(op.reshape(x[0], (30, 96)))
    columns = np.where(np.random.default_rng(8).random((96, 20)) < 0.5, -0.75, 0.75)
    return e.emit(op.matmul(signs(e, rows), relax.const(columns.astype(np.float32))), "y")


def read_elsewhere(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    source = signs(e, x[0])
    return e.emit(op.add(e.emit(nn.conv2d(source, weights(32, 32, 3, 3), padding=1), "y"), source))


def shared(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    source = signs(e, x[0])
    both = [e.emit(nn.conv2d(source, weights(16, 32, 3, 3, seed=i)), f"y{i}") for i in range(2)]
    return relax.Tuple(both)


def few(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    cut = e.emit(op.strided_slice(x[0], [1], [0], [3]))
    return e.emit(nn.conv2d(signs(e, cut), weights(16, 3, 1, 1)), "y")


# What is computed, and how many products become those of bytes.
CASES: dict[str, tuple[Body, int]] = {
    "a border": (conv(padding=1), 1),
    "strides": (conv(padding=(2, 1, 0, 3), strides=(2, 3)), 1),
    "dilation": (conv(dilation=2), 1),
    "a matrix product": (product, 1),
    "a chain": (chain, 2),
    "read elsewhere": (read_elsewhere, 1),
    "two readers": (shared, 2),
    "too few channels": (few, 0),
}


def bytewise(module: IRModule) -> int:
    """How many products main has of whole numbers."""
    products = (var for var, value in bindings(module[MAIN]) if op_name(value) in ("relax.nn.conv2d", "relax.matmul"))
    return sum(str(var.ty.dtype) == "int32" for var in products)


def sample(module: IRModule) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Numbers of both signs, both zeros and one that is none."""
    (x,) = inputs_of(module)
    x.reshape(-1)[:3] = [0.0, -0.0, np.nan]
    return [x]


@pytest.mark.parametrize("name", CASES)
def test_the_same_answers(name: str) -> None:
    body, expected = CASES[name]
    module = program([SHAPE], body)
    changed = signs_in_bytes(module, TILES)
    assert bytewise(changed) == expected
    inputs = sample(module)
    for before, after in zip(run(module, inputs), run(changed, inputs), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"read elsewhere"}))  # whose signs are multiplied as floats
def test_the_same_bits_as_counted(name: str) -> None:
    """What counts bits and what multiplies bytes, on tiles or without them."""
    module = program([SHAPE], CASES[name][0])
    inputs = sample(module)
    counted = run_units(rewrite(module), inputs, native())
    multiplied = run_units(rewrite(signs_in_bytes(module, TILES)), inputs, native())
    for before, after in zip(counted, multiplied, strict=True):
        np.testing.assert_array_equal(after, before)


def test_signs_that_nobody_else_reads_are_not_made() -> None:
    changed = {name: signs_in_bytes(program([SHAPE], CASES[name][0]), TILES) for name in ("a chain", "read elsewhere")}
    names = {name: [op_name(value) for _, value in bindings(module[MAIN])] for name, module in changed.items()}
    assert "relax.where" not in names["a chain"]
    assert "relax.greater_equal" not in names["a chain"]
    assert names["read elsewhere"].count("relax.where") == 1


def test_targets_without_tiles_count() -> None:
    module = program([SHAPE], CASES["a border"][0])
    assert signs_in_bytes(module, parse_target("cascadelake")) is module
