"""Layouts change at the network's ends alone, and meaning never."""

import numpy as np
import pytest
from tvm import IRModule, relax

from lowprec.passes.channels_last import channels_last
from lowprec.passes.editing import AXES, MAIN, Emitter
from tests.tvm.passes.programs import Body, assert_same_meaning, operators, program, weights

op, nn = relax.op, relax.op.nn


def conv(e: Emitter, x: relax.Expr, channels: int = 8) -> relax.Var:
    size = int(x.ty.shape.values[1])
    return e.emit(nn.conv2d(x, weights(channels, size, 3, 3), padding=1), "conv")


def shuffle(e: Emitter, x: relax.Expr) -> relax.Var:
    n, c, h, w = (int(extent) for extent in x.ty.shape.values)
    split = e.emit(op.reshape(x, (n, 2, c // 2, h, w)))
    swapped = e.emit(op.permute_dims(split, (0, 2, 1, 3, 4)))
    return e.emit(op.reshape(swapped, (n, c, h, w)))


def squeeze_excite(e: Emitter, x: relax.Expr) -> relax.Var:
    pooled = e.emit(op.mean(x, [2, 3], keepdims=True))
    gate = e.emit(op.sigmoid(e.emit(nn.conv2d(pooled, weights(8, 8, 1, 1)))))
    return e.emit(op.multiply(x, gate))


def attention(e: Emitter, x: relax.Expr) -> relax.Var:
    n, c, h, w = (int(extent) for extent in x.ty.shape.values)
    tokens = e.emit(op.permute_dims(e.emit(op.reshape(x, (n, c, h * w))), (0, 2, 1)))
    return e.emit(op.matmul(tokens, weights(c, 5)))


def normalize(e: Emitter, x: relax.Expr) -> relax.Var:
    last = e.emit(op.permute_dims(x, (0, 2, 3, 1)))
    normal = e.emit(nn.layer_norm(last, weights(8, seed=1), weights(8, seed=2), axes=[-1]))
    return e.emit(op.permute_dims(normal, (0, 3, 1, 2)))


def concat(e: Emitter, x: relax.Expr) -> relax.Var:
    return e.emit(op.concat([x, e.emit(nn.max_pool2d(x, (3, 3), padding=(1, 1)))], axis=1))


BODIES: dict[str, tuple[Body, list[str]]] = {
    "elementwise": (
        lambda e, x: e.emit(nn.relu(e.emit(op.add(conv(e, x[0]), weights(1, 8, 1, 1))))),
        ["permute_dims", "conv2d", "add", "relu", "permute_dims"],
    ),
    "short operand": (
        lambda e, x: e.emit(op.multiply(conv(e, x[0]), weights(6))),
        ["permute_dims", "conv2d", "multiply", "permute_dims"],
    ),
    "concat": (
        lambda e, x: concat(e, conv(e, x[0])),
        ["permute_dims", "conv2d", "max_pool2d", "concat", "permute_dims"],
    ),
    "shuffle": (
        lambda e, x: shuffle(e, conv(e, x[0])),
        ["permute_dims", "conv2d", "reshape", "permute_dims", "reshape", "permute_dims"],
    ),
    "squeeze-excite": (
        lambda e, x: squeeze_excite(e, conv(e, x[0])),
        ["permute_dims", "conv2d", "mean", "conv2d", "sigmoid", "multiply", "permute_dims"],
    ),
    "tokens": (lambda e, x: attention(e, conv(e, x[0])), ["permute_dims", "conv2d", "reshape", "matmul"]),
    "layer norm": (
        lambda e, x: conv(e, normalize(e, conv(e, x[0]))),
        ["permute_dims", "conv2d", "layer_norm", "conv2d", "permute_dims"],
    ),
    "slice and pad": (
        lambda e, x: e.emit(
            nn.pad(e.emit(op.strided_slice(conv(e, x[0]), [1, 3], [2, 1], [7, 5])), (0, 0, 1, 0, 0, 2, 1, 1))
        ),
        ["permute_dims", "conv2d", "strided_slice", "pad", "permute_dims"],
    ),
    "softmax over channels": (
        lambda e, x: e.emit(nn.softmax(conv(e, x[0]), axis=1)),
        ["permute_dims", "conv2d", "softmax", "permute_dims"],
    ),
    "sum without its axes": (
        lambda e, x: e.emit(op.sum(conv(e, x[0]), [2, 3])),
        ["permute_dims", "conv2d", "sum"],
    ),
    "sum over channels": (lambda e, x: e.emit(op.sum(conv(e, x[0]), [1])), ["permute_dims", "conv2d", "sum"]),
    "flatten": (
        lambda e, x: e.emit(op.reshape(conv(e, x[0]), (2, 8 * 36))),
        ["permute_dims", "conv2d", "permute_dims", "reshape"],
    ),
    "nothing spatial": (lambda e, x: e.emit(nn.relu(x[0])), ["relu"]),
    "two results": (lambda e, x: relax.Tuple([conv(e, x[0]), x[0]]), ["permute_dims", "conv2d", "permute_dims"]),
}


@pytest.mark.parametrize("name", BODIES)
def test_layout_changes_at_the_ends_alone(name: str) -> None:
    body, expected = BODIES[name]
    before = program([(2, 4, 6, 6)], body)
    after = channels_last(before)
    assert operators(after) == expected
    assert_same_meaning(before, after)


def test_one_copy_serves_every_reader() -> None:
    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        return e.emit(op.add(conv(e, x[0]), conv(e, x[0])))

    assert operators(channels_last(program([(1, 4, 6, 6)], body))).count("permute_dims") == 2


def test_a_transpose_and_what_it_is_made_of_are_two_tensors() -> None:
    """They share memory, and want different copies of it."""

    def both(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        y = conv(e, x[0])
        return relax.Tuple([y, e.emit(op.permute_dims(y, (2, 3, 0, 1))), e.emit(op.permute_dims(y, (0, 1, 3, 2)))])

    before = program([(2, 6, 6, 6)], both)
    after = channels_last(before)
    assert_same_meaning(before, after)
    assert operators(after).count("permute_dims") == 4


def test_axes_of_one_element_are_not_moved() -> None:
    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        return e.emit(op.mean(conv(e, x[0]), [2, 3], keepdims=True))

    assert operators(channels_last(program([(1, 4, 6, 6)], body))) == ["permute_dims", "conv2d", "mean", "reshape"]


@pytest.mark.parametrize(("rank", "layout"), [(1, "NCW"), (3, "NCDHW")])
def test_other_ranks(rank: int, layout: str) -> None:
    convolution = getattr(nn, f"conv{rank}d")

    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        return e.emit(nn.relu(e.emit(convolution(x[0], weights(5, 3, *(2,) * rank)))))

    before = program([(2, 3, *(5,) * rank)], body)
    after = channels_last(before)
    assert operators(after) == ["permute_dims", f"conv{rank}d", "relu", "permute_dims"]
    assert_same_meaning(before, after)


def test_orders_are_recorded_by_name() -> None:
    module = channels_last(program([(1, 4, 6, 6)], lambda e, x: conv(e, x[0])))
    assert [int(axis) for axis in axes_of(module)["conv"]] == [0, 2, 3, 1]


def axes_of(module: IRModule) -> dict[str, list[int]]:
    return dict(module[MAIN].attrs[AXES])


def test_constants_are_transposed_at_once() -> None:
    table = np.random.default_rng(0).standard_normal((1, 8, 6, 6)).astype(np.float32)
    before = program([(1, 4, 6, 6)], lambda e, x: e.emit(op.add(conv(e, x[0]), relax.const(table))))
    after = channels_last(before)
    assert operators(after) == ["permute_dims", "conv2d", "add", "permute_dims"]
    assert_same_meaning(before, after)
