"""What becomes one kernel, and what it is called."""

import pytest
from tvm import relax

from lowprec.passes.calling import KIND, LAYER
from lowprec.passes.channels_last import channels_last
from lowprec.passes.editing import Emitter
from lowprec.passes.units import group_units
from tests.tvm.passes.programs import Body, assert_same_meaning, operators, program, units, weights

op, nn = relax.op, relax.op.nn


def conv(e: Emitter, x: relax.Expr, name: str = "") -> relax.Var:
    size = int(x.ty.shape.values[1])
    return e.emit(nn.conv2d(x, weights(size, size, 1, 1)), name)


def silu_by_hand(e: Emitter, x: relax.Expr) -> relax.Var:
    return e.emit(op.multiply(x, e.emit(op.sigmoid(x))))


def residual(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    return e.emit(nn.relu(e.emit(op.add(conv(e, x[0]), conv(e, x[0])))))


def squeeze_excite(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    y = conv(e, x[0])
    return e.emit(op.multiply(y, e.emit(op.sigmoid(e.emit(op.mean(y, [2, 3], keepdims=True))))))


def used_twice(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    y = e.emit(nn.relu(conv(e, x[0])))
    return e.emit(op.concat([y, e.emit(op.exp(y))], axis=1))


CASES: dict[str, tuple[Body, list[str]]] = {
    "epilogue": (
        lambda e, x: e.emit(op.tanh(e.emit(op.add(conv(e, x[0]), weights(1, 8, 1, 1))))),
        ["permute_dims", "conv2d+add+tanh", "permute_dims"],
    ),
    "a value used twice inside": (
        lambda e, x: silu_by_hand(e, conv(e, x[0])),
        ["permute_dims", "conv2d+sigmoid+multiply", "permute_dims"],
    ),
    "residual": (residual, ["permute_dims", "conv2d", "conv2d+add+relu", "permute_dims"]),
    "squeeze-excite": (squeeze_excite, ["permute_dims", "conv2d", "mean+sigmoid", "multiply", "permute_dims"]),
    "used outside": (used_twice, ["permute_dims", "conv2d+relu", "exp", "concat", "permute_dims"]),
    "not an epilogue's operator": (
        lambda e, x: e.emit(op.sin(conv(e, x[0]))),
        ["permute_dims", "conv2d", "sin", "permute_dims"],
    ),
    "generic chain": (
        lambda e, x: e.emit(op.sin(e.emit(nn.max_pool2d(conv(e, x[0]), (2, 2))))),
        ["permute_dims", "conv2d", "max_pool2d+sin", "permute_dims"],
    ),
    "product": (
        lambda e, x: e.emit(nn.relu(e.emit(op.matmul(x[0], weights(6, 5))))),
        ["matmul+relu"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_units(name: str) -> None:
    body, expected = CASES[name]
    before = program([(1, 8, 6, 6)], body)
    after = group_units(channels_last(before))
    found = operators(after)
    # Two equal convolutions may stand in either order.
    assert sorted(found) == sorted(expected)
    assert_same_meaning(before, after)


def test_results_of_the_model_end_a_unit() -> None:
    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        y = e.emit(op.matmul(x[0], weights(6, 5)))
        return relax.Tuple([y, e.emit(nn.relu(y))])

    assert operators(group_units(program([(3, 6)], body))) == ["matmul", "relu"]


def test_a_unit_is_known_by_its_first_layer() -> None:
    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        y = e.emit(op.add(e.emit(op.matmul(x[0], weights(6, 5))), weights(5)), "gemm_out")
        return e.emit(nn.relu(y), "relu_out")

    module = group_units(program([(3, 6)], body, layers={"gemm_out": "fc", "relu_out": "relu_out"}))
    (unit,) = units(module)
    assert (str(unit.attrs[LAYER]), str(unit.attrs[KIND])) == ("fc", "product")


def test_weights_that_are_computed_make_a_generic_unit() -> None:
    module = group_units(channels_last(program([(1, 4, 6, 6), (8, 4, 3, 3)], lambda e, x: e.emit(nn.conv2d(*x)))))
    kinds = [str(unit.attrs[KIND]) for unit in units(module)]
    assert "convolution" not in kinds
