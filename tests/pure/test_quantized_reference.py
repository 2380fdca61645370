"""The oracle of quantized networks: where integers are meant, and where not. `test_oracle_layers` has the integers."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.errors import Unsupported, UsageError
from lowprec.quantized_reference import evaluate
from tests.graphs import load
from tests.integer_layers import WORDS, Case, Numbers, cases, drawn, layer, small_conv
from tests.quantized import Network, limits

Array = NDArray[Any]


def in_floats(net: Network, y: str, numbers: Numbers, dtype: str) -> Array:
    """Rule 2, from the float result."""
    (found,) = net.evaluated(y)
    return np.asarray(np.clip(np.rint(found / numbers.sy) + numbers.zy, *limits(dtype)), dtype)


def tie(relu: bool = False) -> tuple[Network, Numbers, str]:
    """A layer of one product, 134 * 1, of which three quarters are 100.5: the two rules round it apart.

    Rule 1a multiplies by fp32(fp32(1 * 0.126) / 0.168), rule 1b by fp32(1 * 0.126) before it divides.
    """
    numbers = Numbers(
        x=np.full((1, 1), 134, np.uint8),
        w=np.ones((1, 1), np.int8),
        bias=np.zeros(1, np.int32),
        sx=np.float32(1),
        sw=np.array([0.126], np.float32),
        sy=np.float32(0.168),
        zx=0,
        zw=np.zeros(1, np.int8),
        zy=0,
    )
    net = Network()
    return net, numbers, layer(net, Case(per_channel=False, bias=False, relu=relu), numbers, "MatMul", (1, 1), 1)


@pytest.mark.parametrize("relu", [False, True])
def test_one_quantizer_alone_is_fused(relu: bool) -> None:
    net, numbers, y = tie(relu)
    (found,) = net.evaluated(net.quantize(y, numbers.sy, numbers.zy, "uint8"))
    assert (found.item(), in_floats(net, y, numbers, "uint8").item()) == (100, 101)


def also_an_output(net: Network, y: str, numbers: Numbers) -> list[str]:
    return [net.quantize(y, numbers.sy, numbers.zy, "uint8"), y]


def also_read(net: Network, y: str, numbers: Numbers) -> list[str]:
    return [net.quantize(y, numbers.sy, numbers.zy, "uint8"), net.node("Neg", y, shape=(1, 1))]


def quantized_twice(net: Network, y: str, numbers: Numbers) -> list[str]:
    return [net.quantize(y, numbers.sy, numbers.zy, "uint8") for _ in range(2)]


def rectified_twice(net: Network, y: str, numbers: Numbers) -> list[str]:
    for _ in range(2):
        y = net.node("Relu", y, shape=(1, 1))
    return [net.quantize(y, numbers.sy, numbers.zy, "uint8")]


def read_before_relu(net: Network, y: str, numbers: Numbers) -> list[str]:
    rectified = net.node("Relu", y, shape=(1, 1))
    return [net.quantize(rectified, numbers.sy, numbers.zy, "uint8"), net.node("Neg", y, shape=(1, 1))]


def clipped(net: Network, y: str, numbers: Numbers) -> list[str]:
    y = net.node("Clip", y, net.constant(np.float32(0)), shape=(1, 1))
    return [net.quantize(y, numbers.sy, numbers.zy, "uint8")]


@pytest.mark.parametrize(
    "ending", [also_an_output, also_read, quantized_twice, rectified_twice, read_before_relu, clipped]
)
def test_what_is_not_fused(ending: Callable[[Network, str, Numbers], list[str]]) -> None:
    net, numbers, y = tie()
    expected = in_floats(net, y, numbers, "uint8")
    assert np.array_equal(net.evaluated(*ending(net, y, numbers))[0], expected)


@settings(max_examples=30)
@given(cases([*itertools.product(WORDS[:2], WORDS[:2])]), st.sampled_from(["float", "scale", "none"]))
def test_a_result_in_floats(case: Case, bias: str) -> None:
    """Rule 1b; a bias of floats, or at another scale, is added after the product: no quantizer is fused then."""
    case = replace(case, bias=bias == "scale", relu=False)
    net, (numbers, y) = small_conv(case)
    conv = net.nodes[-1]
    added = np.zeros(5, np.float32)
    if bias == "float":
        added = np.random.default_rng(1).standard_normal(5).astype(np.float32)
        net.nodes[-1] = replace(conv, inputs=(*conv.inputs, net.constant(added)))
    if bias == "scale":
        scale = net.constants[net.nodes[-2].inputs[1]]
        scale *= np.float32(1.5)
        added = numbers.bias.astype(np.float32) * scale
    (found,) = net.evaluated(y)
    x = np.pad(numbers.x.astype(np.int64) - numbers.zx, [(0, 0), (0, 0), (1, 0), (0, 1)])
    w = numbers.w.astype(np.int64) - numbers.zw.reshape(-1, 1, 1, 1)
    shape = found.shape[2:]
    total = sum(
        np.einsum("ncij,kc->nkij", x[:, :, i : i + shape[0], j : j + 2 * shape[1] - 1 : 2], w[:, :, i, j])
        for i, j in itertools.product(range(3), range(3))
    )
    scale = np.multiply(numbers.sx, numbers.sw, dtype=np.float32).reshape(-1, 1, 1)
    expected = np.asarray(total).astype(np.float32) * scale + added.reshape(-1, 1, 1)
    assert np.array_equal(found, expected)
    if bias != "none":
        (codes,) = net.evaluated(net.quantize(y, numbers.sy, numbers.zy, case.x))
        assert np.array_equal(codes, in_floats(net, y, numbers, case.x))


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_gemm_that_scales_is_of_floats(name: str) -> None:
    """Its sums of 16-bit integers are rounded on the way, an integer layer's are not."""
    case = Case(x="uint16", w="int16", bias=False, per_channel=False, zeros=False)
    exact = []
    for factor in (1.0, 2.0):
        net, numbers = Network(), drawn(case, (3, 999), (999, 4), 4, 999)
        (found,) = net.evaluated(layer(net, case, numbers, "Gemm", (3, 4), 1, **{name: factor}))
        total = (numbers.x.astype(np.int64) - numbers.zx) @ (numbers.w.astype(np.int64) - numbers.zw[0])
        scaled = total.astype(np.float32) * (numbers.sx * numbers.sw[0])
        expected = scaled * np.float32(factor if name == "alpha" else 1)
        assert np.allclose(found, expected, rtol=0, atol=999 * 2.0**-24 * np.abs(total).max() * float(scaled.max()))
        exact.append(np.array_equal(found, expected))
    assert exact == [True, False]


@pytest.mark.parametrize("kind", ["variable weights", "by the row", "blocked", "activations by channel", "of 32 bits"])
def test_what_is_no_integer_layer(kind: str) -> None:
    """Then the operator is one of floats, whose sums are rounded."""
    rng, net = np.random.default_rng(0), Network()
    codes, filters = rng.integers(-(2**15), 2**15, (3, 512), "int16"), rng.integers(-(2**15), 2**15, (512, 4), "int16")
    x, w = net.input(codes), net.input(filters) if kind == "variable weights" else net.constant(filters)
    sx: Any = np.float32(0.1)
    sw: Any = np.float32(0.1)
    options: dict[str, Any] = {}
    if kind == "by the row":
        sw, options = np.full(512, 0.1), {"axis": 0}
    if kind == "blocked":
        sw, options = np.full((2, 4), 0.1), {"axis": 0, "block_size": 256}
    if kind == "activations by channel":
        sx = np.full(512, 0.1)
    if kind == "of 32 bits":
        x = net.input(codes.astype(np.int32))
    zeros = [np.zeros(np.shape(scale), np.int64) for scale in (sx, sw)]
    parts = net.dequantize(x, sx, zeros[0]), net.dequantize(w, sw, zeros[1], **options)
    (found,) = net.evaluated(net.node("MatMul", *parts, shape=(3, 4)))
    total = codes.astype(np.int64) @ filters.astype(np.int64)
    integer = total.astype(np.float32) * np.float32(np.float32(0.1) * np.float32(0.1))
    assert not np.array_equal(found, integer)
    assert np.allclose(found, integer, rtol=0, atol=512 * 2.0**-24 * 512 * 2.0**30 * 0.01)


def test_an_average_that_others_read_is_of_floats() -> None:
    """Rule 3 needs one quantizer alone, and 8 bits."""
    rng, found = np.random.default_rng(0), []
    for dtype, read in (("uint8", False), ("uint8", True), ("uint16", False)):
        net = Network()
        x = net.dequantize(net.input(rng.integers(0, 256, (1, 64, 7, 7)).astype(dtype)), np.float32(0.05), 3)
        y = net.node("GlobalAveragePool", x, shape=(1, 64, 1, 1))
        q = net.quantize(y, np.float32(0.05), 3, dtype)
        if read:
            net.node("Neg", y, shape=(1, 64, 1, 1))
        values, average, codes = net.evaluated(q, wanted=[y, x])
        total = np.rint(codes / np.float32(0.05)).sum((2, 3), keepdims=True).astype(np.float32)
        found.append(np.array_equal(average, total * (np.float32(0.05) / np.float32(49))))
        assert np.abs(values - np.rint(average / np.float32(0.05)) - 3).max() <= 1
    assert found == [True, False, False]


def test_the_front_end_keeps_integers(tmp_path: Path) -> None:
    """A constant that is dequantized stays one: else the layer would be one of floats, and its result 101."""
    net, numbers, y = tie()
    q = net.quantize(y, numbers.sy, numbers.zy, "uint8")
    graph = load(net.model(q), tmp_path)
    assert evaluate(graph, net.feeds)[q].item() == 100


def test_what_is_wanted_comes_after_the_outputs() -> None:
    net, numbers, y = tie()
    q = net.quantize(y, numbers.sy, numbers.zy, "uint8")
    x = net.inputs[0]
    found = evaluate(net.graph(q), net.feeds, wanted=[y, x, q])
    assert list(found) == [q, y, x]
    assert (found[q].item(), found[y].item()) == (100, np.float32(134) * np.float32(0.126))
    found[x].fill(0)
    assert net.feeds[x].item() == 134


def test_a_tensor_that_is_not_there() -> None:
    net, _, y = tie()
    with pytest.raises(UsageError, match="no tensor 'z': ask for inputs, constants or outputs"):
        evaluate(net.graph(y), net.feeds, wanted=["z"])


def test_inputs_are_the_models() -> None:
    net, _, y = tie()
    with pytest.raises(UsageError, match="input 'x0' is missing"):
        evaluate(net.graph(y), {})


def test_operators_of_others_are_refused() -> None:
    net, _, y = tie()
    net.nodes[-1] = replace(net.nodes[-1], domain="com.example")
    with pytest.raises(Unsupported, match=f"MatMul node '{y}' is of domain 'com.example'"):
        evaluate(net.graph(y), net.feeds)


@settings(max_examples=40)
@given(st.sampled_from(WORDS), st.sampled_from([None, 0, 1, -1]), st.integers(0, 2**16))
def test_quantizers_are_onnxruntimes(dtype: str, axis: int | None, seed: int) -> None:
    """Rule 2, there and back, ties and saturation included, and back again from the same integers."""
    rng, net, shape = np.random.default_rng(seed), Network(), (3, 5, 2)
    count = 1 if axis is None else shape[axis]
    scale = (2.0 ** rng.integers(-4, 1, count) * rng.choice([1, 1.1], count)).astype(np.float32)
    low, high = limits(dtype)
    zero = rng.integers(low, high, count, dtype, endpoint=True)
    s, z = (scale[0], zero[0]) if axis is None else (scale, zero)
    options: dict[str, Any] = {} if axis is None else {"axis": axis}
    x = rng.integers(-400, 400, shape) / np.float32(2) * (rng.choice([1, 1000, 1e30], shape)).astype(np.float32)
    q = net.quantize(net.input(x.astype(np.float32)), s, z, dtype, **options)
    y = net.dequantize(q, s, z, **options)
    again = net.quantize(y, s, z, dtype, **options)
    found = net.evaluated(q, y, again)
    assert np.array_equal(found[0], found[2])
    for ours, theirs in zip(found, net.by_onnxruntime(q, y, again), strict=True):
        assert np.array_equal(ours, theirs)


@settings(max_examples=40)
@given(st.sampled_from(["Add", "Mul"]), st.sampled_from(["uint8", "int8"]), st.integers(0, 2**16))
def test_residuals_are_near_onnxruntimes(op: str, dtype: str, seed: int) -> None:
    """Rule 4 between rule 2's quantizers. ONNX Runtime's QLinearAdd multiplies by ratios of scales: a step at most."""
    rng, net, (low, high) = np.random.default_rng(seed), Network(), limits(dtype)
    (*scales, sy), zeros = rng.uniform(0.01, 0.02, 3).astype(np.float32), rng.integers(low, high, 3, endpoint=True)
    parts = [
        net.dequantize(net.input(rng.integers(low, high, (2, 3, 4), dtype, endpoint=True)), scale, zero)
        for scale, zero in zip(scales, zeros, strict=False)
    ]
    q = net.quantize(net.node(op, *parts, shape=(2, 3, 4)), sy, zeros[2], dtype)
    (ours,), (theirs,) = net.evaluated(q), net.by_onnxruntime(q)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@settings(max_examples=30)
@given(st.sampled_from(["uint8", "int8"]), st.integers(0, 2**16))
def test_what_moves_integers_is_onnxruntimes(dtype: str, seed: int) -> None:
    """MaxPool, Concat, Transpose, Reshape: one scale all along, and no rounding."""
    rng, net, (low, high) = np.random.default_rng(seed), Network(), limits(dtype)
    scale, zero = np.float32(rng.uniform(0.01, 0.02)), int(rng.integers(low, high))
    codes = [rng.integers(low, high, (1, 2, 4, 4), dtype, endpoint=True) for _ in range(2)]
    parts = [net.dequantize(net.input(each), scale, zero) for each in codes]
    window = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 0, 1, 1)}
    shapes: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
        ("Concat", (1, 4, 4, 4), {"axis": 1}), ("MaxPool", (1, 4, 2, 2), window),
        ("Transpose", (1, 2, 2, 4), {"perm": (0, 2, 3, 1)}), ("Flatten", (1, 16), {}),
    ]  # fmt: skip
    for op, shape, attributes in shapes:
        q = net.quantize(net.node(op, *parts, shape=shape, **attributes), scale, zero, dtype)
        parts = [net.dequantize(q, scale, zero)]
    assert np.array_equal(net.evaluated(q), net.by_onnxruntime(q))
