"""The oracle's operators, one node at a time: integers equal to ONNX Runtime's, floats within their sums' rounding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.frontend.graph import Node
from lowprec.oracle_operators import OPERATORS
from tests.integer_layers import Case, convs, drawn
from tests.oracle import UNIT
from tests.quantized import Network, limits

Array = NDArray[Any]
BYTES = st.sampled_from([("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")])


def windows(conv: Any) -> dict[str, Any]:
    pads = (*conv.pads_begin, *conv.pads_end)
    return {"kernel_shape": conv.kernel, "strides": conv.stride, "dilations": conv.dilation, "pads": pads}


def scalars(net: Network, *values: tuple[Any, str]) -> list[str]:
    return [net.constant(value, dtype) for value, dtype in values]


@settings(max_examples=40)
@given(convs(), BYTES, st.booleans(), st.booleans(), st.integers(0, 2**16))
def test_qlinear_conv(conv: Any, kinds: tuple[str, str], per_channel: bool, bias: bool, seed: int) -> None:
    case = Case(x=kinds[0], w=kinds[1], per_channel=per_channel, seed=seed)
    shape = (conv.batch, conv.in_channels, *conv.size)
    n = drawn(case, shape, conv.weight_shape, conv.out_channels, conv.parameters // conv.out_channels)
    net = Network()
    x = [net.input(n.x), *scalars(net, (n.sx, "float32"), (n.zx, case.x))]
    w = [net.constant(n.w), *(net.constant(each if per_channel else each[0]) for each in (n.sw, n.zw))]
    operands = [*x, *w, *scalars(net, (n.sy, "float32"), (n.zy, case.x)), *([net.constant(n.bias)] if bias else [])]
    result = (conv.batch, conv.out_channels, *conv.output_size)
    y = net.node("QLinearConv", *operands, shape=result, dtype=case.x, group=conv.groups, **windows(conv))
    assert np.array_equal(net.evaluated(y), net.by_onnxruntime(y))


@settings(max_examples=40)
@given(convs(), st.sampled_from(["int8", "uint8"]), st.booleans(), st.integers(0, 2**16))
def test_conv_integer(conv: Any, kind: str, zeros: bool, seed: int) -> None:
    n = drawn(
        Case(w=kind, per_channel=False, seed=seed), (conv.batch, conv.in_channels, *conv.size), conv.weight_shape, 1, 1
    )
    net = Network()
    given_zeros = [net.constant(n.zx, "uint8"), net.constant(n.zw[0])] if zeros else []
    result = (conv.batch, conv.out_channels, *conv.output_size)
    operands = net.input(n.x), net.constant(n.w), *given_zeros
    y = net.node("ConvInteger", *operands, shape=result, dtype="int32", group=conv.groups, **windows(conv))
    assert np.array_equal(net.evaluated(y), net.by_onnxruntime(y))


@settings(max_examples=60)
@given(st.data(), st.integers(1, 3), st.sampled_from([1, 2, 3]), st.booleans(), st.integers(0, 2**16))
def test_conv_transpose(data: st.DataObject, rank: int, groups: int, bias: bool, seed: int) -> None:
    """Against ONNX Runtime: groups, whose bias onnx's own evaluator adds wrongly, strides, dilation, uneven pads."""
    rng, net = np.random.default_rng(seed), Network()

    def drawn_extents(least: int, most: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(least, most)) for _ in range(rank))

    size, kernel, strides, dilations = (drawn_extents(1, most) for most in (5, 4, 3, 2))
    beyond = tuple(data.draw(st.integers(0, s - 1)) for s in strides)
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    pads = tuple(data.draw(st.integers(0, r // 2)) for r in (*reach, *reach))
    each, batch, channels = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2)), groups * 2
    axes = zip(size, strides, reach, beyond, pads[:rank], pads[rank:], strict=True)
    result = (batch, groups * each, *((n - 1) * s + r + 1 + o - b - e for n, s, r, o, b, e in axes))
    x, w, b = (
        rng.integers(-8, 9, shape).astype(np.float32)
        for shape in ((batch, channels, *size), (channels, each, *kernel), (groups * each,))
    )
    operands = [net.input(x), net.constant(w), *([net.constant(b)] if bias else [])]
    places = {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": beyond}
    y = net.node("ConvTranspose", *operands, shape=result, dtype="float32", group=groups, kernel_shape=kernel, **places)
    assert np.array_equal(net.evaluated(y), net.by_onnxruntime(y))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("pads", [(0, 0, 1, 2, 0, 0, 2, 1), (0, 0, -1, 1, 0, 0, 1, -1), (0, -2, 0, -1, 0, -1, 0, 0)])
@pytest.mark.parametrize("value", [None, 2.5])
def test_pads(mode: str, pads: tuple[int, ...], value: float | None) -> None:
    """Of any sign: what is negative cuts off, which onnx's own evaluator does not know."""
    net, x = Network(), np.random.default_rng(0).standard_normal(X).astype(np.float32)
    operands = [net.input(x), net.constant(np.array(pads, np.int64))]
    operands += [] if value is None else scalars(net, (value, "float32"))
    shape = tuple(n + b + e for n, b, e in zip(X, pads[:4], pads[4:], strict=True))
    y = net.node("Pad", *operands, shape=shape, mode=mode)
    assert np.array_equal(net.evaluated(y), net.by_onnxruntime(y))


@pytest.mark.parametrize("op", ["Softsign", "Exp", "Erf", "HardSwish"])
def test_one_number(op: str) -> None:
    """Of rank 0: what NumPy makes of it is no array, which onnx's evaluator does not take."""
    net = Network()
    compare(net, net.node(op, net.input(np.array(0.75, np.float32)), shape=()))


def test_pads_of_some_axes() -> None:
    net, x = Network(), np.random.default_rng(0).standard_normal(X).astype(np.float32)
    pads, axes = (net.constant(np.array(each, np.int64)) for each in ((1, -1, 0, 2), (-1, 1)))
    shape = (X[0], X[1] - 1 + 2, X[2], X[3] + 1)
    y = net.node("Pad", net.input(x), pads, "", axes, shape=shape)
    assert np.array_equal(net.evaluated(y), net.by_onnxruntime(y))


@settings(max_examples=40)
@given(st.tuples(*[st.integers(1, 7)] * 4), BYTES, st.booleans(), st.integers(0, 2**16))
def test_integer_products(extents: tuple[int, ...], kinds: tuple[str, str], per_column: bool, seed: int) -> None:
    """QLinearMatMul and MatMulInteger, zero points and scales of B by column."""
    batch, rows, depth, columns = extents
    case, net = Case(x=kinds[0], w=kinds[1], per_channel=per_column, seed=seed), Network()
    n = drawn(case, (batch, rows, depth), (depth, columns), columns, depth)
    a, za, b = net.input(n.x), net.constant(n.zx, case.x), net.constant(n.w)
    sb, zb = (net.constant(each if per_column else each[0]) for each in (n.sw, n.zw))
    sa, sy, zy = scalars(net, (n.sx, "float32"), (n.sy, "float32"), (n.zy, case.x))
    shape = (batch, rows, columns)
    y = net.node("QLinearMatMul", a, sa, za, b, sb, zb, sy, zy, shape=shape, dtype=case.x)
    total = net.node("MatMulInteger", a, b, za, zb, shape=shape, dtype="int32")
    for ours, theirs in zip(net.evaluated(y, total), net.by_onnxruntime(y, total), strict=True):
        assert np.array_equal(ours, theirs)


def test_products_by_row() -> None:
    """What ONNX Runtime has not: A's and the result's scales and zero points by row, B's by column, in fractions."""
    rng, net = np.random.default_rng(0), Network()
    a, b = rng.integers(0, 256, (2, 3, 4), "uint8"), rng.integers(-128, 128, (2, 4, 5), "int8")
    (sa, sy), sb = rng.uniform(0.1, 1, (2, 3)).astype(np.float32), rng.uniform(0.1, 1, 5).astype(np.float32)
    za, zy, zb = rng.integers(0, 256, 3, "uint8"), rng.integers(0, 256, 3, "uint8"), rng.integers(-9, 9, 5, "int8")
    sy *= 200
    parts = [net.constant(each) for each in (sa, za, b, sb, zb, sy, zy)]
    x = net.input(a)
    total = net.node("MatMulInteger", x, parts[2], parts[1], parts[4], shape=(2, 3, 5), dtype="int32")
    found, sums = net.evaluated(net.node("QLinearMatMul", x, *parts, shape=(2, 3, 5), dtype="uint8"), total)
    for n, i, j in np.ndindex(2, 3, 5):
        products = [(int(a[n, i, k]) - int(za[i])) * (int(b[n, k, j]) - int(zb[j])) for k in range(4)]
        assert sums[n, i, j] == sum(products)
        code = np.rint(np.float32(sum(products)) * (sa[i] * sb[j] / sy[i])) + int(zy[i])
        assert found[n, i, j] == np.clip(code, 0, 255)


@pytest.mark.parametrize("x", [[-1.5, 0.3, 2.7], [1.0, 2.0], [-1.0, -2.0], [0.0, 255.0, 0.5, 1.5, 2.5]])
def test_dynamic_quantization(x: Sequence[float]) -> None:
    net = Network()
    codes = net.node("DynamicQuantizeLinear", net.input(np.array(x, np.float32)), shape=(len(x),), dtype="uint8")
    names = codes, net.output("scale", "float32", ()), net.output("zero", "uint8", ())
    for ours, theirs in zip(net.evaluated(*names), net.by_onnxruntime(*names), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_range_of_zero_has_scale_0() -> None:
    """As onnx's text divides it; ONNX Runtime gives 1, onnx's evaluator 1 / 255."""
    net = Network()
    codes = net.node("DynamicQuantizeLinear", net.input(np.zeros(3, np.float32)), shape=(3,), dtype="uint8")
    names = codes, net.output("scale", "float32", ()), net.output("zero", "uint8", ())
    assert [array.tolist() for array in net.evaluated(*names)] == [[0, 0, 0], 0, 0]


X = (2, 6, 5, 4)
WINDOW = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1)}
NODES: list[tuple[str, Sequence[tuple[int, ...]], tuple[int, ...], dict[str, Any]]] = [
    ("Add", [X, (6, 1, 1)], X, {}),
    ("AveragePool", [X], (2, 6, 3, 4), WINDOW),
    ("AveragePool", [X], (2, 6, 3, 4), WINDOW | {"count_include_pad": 1}),
    ("AveragePool", [X], (2, 6, 3, 2), {"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1}),
    ("AveragePool", [X], (2, 6, 3, 2), {"kernel_shape": (2, 2), "dilations": (2, 2)}),
    ("AveragePool", [(1, 1, 1, 1)], (1, 1, 1, 1), {"kernel_shape": (2, 2), "dilations": (1, 2), "pads": (0, 1, 1, 1)}),
    ("BatchNormalization", [X, (6,), (6,), (6,), (6,)], X, {"epsilon": 1e-3}),
    ("Clip", [X, (), ()], X, {}),
    ("Concat", [X, (2, 1, 5, 4)], (2, 7, 5, 4), {"axis": 1}),
    ("Conv", [X, (4, 3, 3, 2), (4,)], (2, 4, 3, 4), WINDOW | {"group": 2}),
    ("Flatten", [X], (2, 120), {}),
    ("Gemm", [(3, 5), (4, 3), (4,)], (5, 4), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("GlobalAveragePool", [X], (2, 6, 1, 1), {}),
    ("GlobalMaxPool", [(2, 6, 5)], (2, 6, 1), {}),
    ("GlobalMaxPool", [X], (2, 6, 1, 1), {}),
    ("GlobalMaxPool", [(2, 3, 5, 4, 3)], (2, 3, 1, 1, 1), {}),
    ("Identity", [X], X, {}),
    ("LpNormalization", [X], X, {"axis": 1, "p": 1}),
    ("LpNormalization", [X], X, {"axis": -1}),
    ("LRN", [X], X, {"size": 3, "alpha": 0.5, "beta": 0.75, "bias": 2.0}),
    ("MatMul", [X, (4, 7)], (2, 6, 5, 7), {}),
    ("MaxPool", [X], (2, 6, 3, 4), WINDOW),
    ("Mul", [X, (6, 1, 1)], X, {}),
    ("Relu", [X], X, {}),
    ("Softmax", [X], X, {"axis": 1}),
    ("Transpose", [X], (4, 5, 6, 2), {}),
    ("Transpose", [X], (2, 5, 4, 6), {"perm": (0, 2, 3, 1)}),
    ("Elu", [X], X, {"alpha": 0.5}),  # onnx's own
    ("Sum", [X, (6, 1, 1), X], X, {}),
]


@pytest.mark.parametrize(("op", "shapes", "result", "attributes"), NODES, ids=[case[0] for case in NODES])
def test_floats(op: str, shapes: Sequence[Any], result: tuple[int, ...], attributes: dict[str, Any]) -> None:
    rng, net = np.random.default_rng(0), Network()
    draw = rng.random if op == "BatchNormalization" else rng.standard_normal
    operands = [net.input(np.asarray(draw(shape), np.float32)) for shape in shapes]
    compare(net, net.node(op, *operands, shape=result, **attributes))


def test_normalization_over_an_even_number_of_channels() -> None:
    """ONNX Runtime takes odd ones alone: here by definition, one channel more after than before."""
    x = np.random.default_rng(0).standard_normal(X).astype(np.float32)
    node = Node(op="LRN", inputs=("x",), outputs=("y",), layer="y", version=13, attributes={"size": 4, "alpha": 0.5})
    found = np.asarray(OPERATORS["LRN"](node, [x], X))
    for c in range(X[1]):
        sums = np.square(x[:, max(c - 1, 0) : c + 3]).sum(1)
        assert np.allclose(found[:, c], x[:, c] / (1 + 0.5 / 4 * sums) ** 0.75, rtol=16 * UNIT, atol=0)


def test_softmax_before_opset_13() -> None:
    """Over all axes from the one given."""
    net = Network(version=11)
    x = net.input(np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32))
    for axis in (0, 1, -1):
        compare(net, net.node("Softmax", x, shape=(2, 3, 4), axis=axis))


def test_clip_before_opset_11() -> None:
    net = Network(version=6)
    x = net.input(np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32))
    tried: list[dict[str, Any]] = [{}, {"min": -0.5}, {"max": 0.25}, {"min": 0.0, "max": 0.5}]
    for bounds in tried:
        compare(net, net.node("Clip", x, shape=(2, 3), **bounds))


@pytest.mark.parametrize("given", [(), (-0.5,), (None, 0.25), (-0.5, 0.25)])
def test_clip_with_bounds_absent(given: Sequence[float | None]) -> None:
    net = Network()
    x = net.input(np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32))
    bounds = ["" if bound is None else net.constant(bound, "float32") for bound in given]
    compare(net, net.node("Clip", x, *bounds, shape=(2, 3)))


@pytest.mark.parametrize("op", ["Reshape", "Squeeze", "Unsqueeze"])
def test_shapes_come_from_the_graph(op: str) -> None:
    net = Network()
    x = net.input(np.arange(12, dtype=np.float32).reshape(1, 3, 4))
    operand, shape = {"Reshape": ([0, -1], (1, 12)), "Squeeze": ([0], (3, 4)), "Unsqueeze": ([1], (1, 1, 3, 4))}[op]
    compare(net, net.node(op, x, net.constant(operand, "int64"), shape=shape))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_maxima_of_integers(dtype: str) -> None:
    rng, net = np.random.default_rng(0), Network()
    x = net.input(rng.integers(*limits(dtype), X, dtype))
    compare(net, net.node("MaxPool", x, shape=(2, 6, 3, 4), dtype=dtype, **WINDOW))


def test_every_operator_is_tried() -> None:
    tried = {case[0] for case in NODES} | {"ConvTranspose", "Pad", "Reshape", "Squeeze", "Unsqueeze"}
    assert set(OPERATORS) <= tried


def compare(net: Network, y: str) -> None:
    """Sums of fewer than 64 terms of magnitude 1 and more, each rounded once, and a few roundings besides."""
    (ours,), (theirs,) = net.evaluated(y), net.by_onnxruntime(y)
    assert ours.dtype == theirs.dtype
    if ours.dtype == np.float32:
        assert np.allclose(ours, theirs, rtol=0, atol=64 * UNIT * max(1.0, float(np.abs(theirs).max())))
    else:
        assert np.array_equal(ours, theirs)
