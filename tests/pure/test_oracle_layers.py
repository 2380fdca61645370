"""Integer layers: against Python's integers and fractions one element at a time, and against ONNX Runtime, whose
QLinearConv, QGemm and QLinearMatMul compute rule 1a."""

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.convolution import Conv
from lowprec.oracle_layers import EXACT, carrier, sums_of
from tests.integer_layers import FUSED, WORDS, Case, Numbers, axes, cases, conv_layer, convs, drawn, layer, small_conv
from tests.quantized import Network, fp32, limits, run_onnxruntime

Array = NDArray[Any]


def by_definition(conv: Conv, case: Case, numbers: Numbers) -> Array:
    """Rule 1a in Python's integers and fractions, one product at a time."""
    x, w = (array.astype(object) for array in (numbers.x, numbers.w))
    low, high = limits(case.x)
    found = np.zeros((conv.batch, conv.out_channels, *conv.output_size), case.x)
    for place in np.ndindex(*found.shape):
        n, k, *at = place
        group = k // (conv.out_channels // conv.groups)
        scale, zero = (values[k if case.per_channel else 0] for values in (numbers.sw, numbers.zw))
        total = int(numbers.bias[k]) if case.bias else 0
        for c, *tap in itertools.product(range(w.shape[1]), *map(range, conv.kernel)):
            places = zip(at, tap, conv.stride, conv.dilation, conv.pads_begin, strict=True)
            where = [o * s + t * d - p for o, t, s, d, p in places]
            if all(0 <= i < size for i, size in zip(where, conv.size, strict=True)):
                centred = x[(n, group * w.shape[1] + c, *where)] - numbers.zx
                total += centred * (w[(k, c, *tap)] - int(zero))
        factor = fp32(fp32(Fraction(float(numbers.sx)) * Fraction(float(scale))) / Fraction(float(numbers.sy)))
        code = min(max(round(fp32(fp32(total) * factor)) + numbers.zy, low), high)
        found[place] = max(code, numbers.zy) if case.relu else code
    return found


@settings(max_examples=40)
@given(convs(), cases(list(itertools.product(WORDS, WORDS))), st.booleans())
def test_a_convolution_is_its_definition(conv: Conv, case: Case, apart: bool) -> None:
    """Any word lengths, and any zero points: those of the weights by channel."""
    net = Network()
    numbers, y = conv_layer(net, case, conv)
    if apart and case.per_channel:
        numbers.zw[:] = np.random.default_rng(case.seed).integers(*limits(case.w), conv.out_channels, endpoint=True)
        name = next(node.inputs[2] for node in net.nodes if node.inputs[0] in net.constants)
        net.constants[name] = numbers.zw
    (found,) = net.evaluated(net.quantize(y, numbers.sy, numbers.zy, case.x))
    assert np.array_equal(found, by_definition(conv, case, numbers))


@settings(max_examples=150)
@given(convs(), cases())
def test_convolutions_are_onnxruntimes(conv: Conv, case: Case) -> None:
    net = Network()
    numbers, y = conv_layer(net, case, conv)
    q = net.quantize(y, numbers.sy, numbers.zy, case.x)
    assert np.array_equal(net.evaluated(q), net.by_onnxruntime(q))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kinds", FUSED)
def test_onnxruntime_convolves_integers(kinds: tuple[str, str], relu: bool, tmp_path: Path) -> None:
    """So the test above compares what it says."""
    net, (numbers, y) = small_conv(Case(x=kinds[0], w=kinds[1], relu=relu))
    saved = str(tmp_path / "optimized.onnx")
    run_onnxruntime(net.model(net.quantize(y, numbers.sy, numbers.zy, kinds[0])), net.feeds, saved)
    operators = [node.op_type for node in onnx.load(saved).graph.node]
    assert [op for op in operators if op != "Transpose"] == ["QLinearConv"]


@settings(max_examples=60)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.booleans(), cases())
def test_gemms_are_onnxruntimes(extents: tuple[int, int, int], transposed: bool, case: Case) -> None:
    net, (rows, depth, columns) = Network(), extents
    w_shape = (columns, depth) if transposed else (depth, columns)
    numbers = drawn(case, (rows, depth), w_shape, columns, depth)
    y = layer(net, case, numbers, "Gemm", (rows, columns), 0 if transposed else 1, transB=int(transposed))
    q = net.quantize(y, numbers.sy, numbers.zy, case.x)
    assert np.array_equal(net.evaluated(q), net.by_onnxruntime(q))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(1, 5), cases(), st.booleans())
def test_products_are_onnxruntimes(x_shape: list[int], columns: int, case: Case, quantized: bool) -> None:
    """Rule 1b, too: MatMulIntegerToFloat; of Conv and Gemm it has no such operator."""
    net, case = Network(), replace(case, bias=False)
    numbers = drawn(case, x_shape, (x_shape[-1], columns), columns, x_shape[-1])
    y = layer(net, case, numbers, "MatMul", (*x_shape[:-1], columns), 1)
    y = net.quantize(y, numbers.sy, numbers.zy, case.x) if quantized else y
    assert np.array_equal(net.evaluated(y), net.by_onnxruntime(y))


def test_sums_stay_exact_beyond_float64() -> None:
    """16-bit operands of many terms: 2^53 is passed, and int64 takes over."""
    net = Network()
    gemm = net.nodes
    node = (net.node("MatMul", "a", "b", shape=(1, 1)), gemm[-1])[1]
    for depth, kind in ((2**19, np.float64), (2**22, np.int64)):
        x, w = np.full((1, depth), 65535), np.full((depth, 1), -65535)
        w[-1] += 1
        assert carrier(x, w, depth) is kind
        assert (65535**2 * depth < EXACT) == (kind is np.float64)
        assert sums_of(node, x, w, (1, 1))[0, 0] == 65535 - 65535**2 * depth


def test_numpy_rounds_sums_to_nearest_even() -> None:
    """int64 -> float32 in one rounding, near every power of two and its ties."""
    rng = np.random.default_rng(0)
    near = [
        s * (2**e + d) for e in range(20, 55) for d in (-3, -2, -1, 0, 1, 2, 3, 2 ** max(e - 24, 0)) for s in (-1, 1)
    ]
    sums = np.array([*near, *rng.integers(-(2**40), 2**40, 500)], np.int64)
    assert [Fraction(float(found)) for found in sums.astype(np.float32)] == [fp32(int(each)) for each in sums]


@st.composite
def pools(draw: st.DrawFn) -> tuple[Conv, bool, bool]:
    """Geometry, ceiling mode, padding counted."""
    extents = draw(axes(draw(st.integers(1, 3)), stride=3))
    conv = Conv(batch=1, in_channels=2, out_channels=2, groups=2, **extents)
    return conv, draw(st.booleans()), draw(st.booleans())


def pooled_size(conv: Conv, ceil: bool) -> list[int]:
    """Ceiling mode: a last window that starts within the input or the padding before it."""
    sizes = []
    for n, o, s, r, b, e in zip(
        conv.size, conv.output_size, conv.stride, conv.reach, conv.pads_begin, conv.pads_end, strict=True
    ):
        more = ceil and (n + b + e - r) % s != 0 and o * s < n + b
        sizes.append(o + more)
    return sizes


def average(net: Network, conv: Conv, ceil: bool, counted: bool, x: str) -> str:
    """Without dilations where there are none: ONNX Runtime's operator on integers does not know the attribute."""
    dilations: dict[str, Any] = {"dilations": conv.dilation} if max(conv.dilation) > 1 else {}
    return net.node(
        "AveragePool", x, shape=(1, 2, *pooled_size(conv, ceil)), kernel_shape=conv.kernel, strides=conv.stride,
        pads=(*conv.pads_begin, *conv.pads_end), ceil_mode=int(ceil), count_include_pad=int(counted), **dilations,
    )  # fmt: skip


def average_by_definition(conv: Conv, counted: bool, x: Array, parameters: Any, shape: Any) -> Array:
    """Rule 3 in Python's integers and fractions."""
    sx, zx, sy, zy = parameters
    found = np.zeros(shape, x.dtype)
    for place in np.ndindex(*shape):
        total = elements = 0
        for tap in np.ndindex(*conv.kernel):
            places = zip(place[2:], tap, conv.stride, conv.dilation, conv.pads_begin, strict=True)
            where = tuple(o * s + t * d - p for o, t, s, d, p in places)
            inside = all(0 <= i < n for i, n in zip(where, conv.size, strict=True))
            padding = all(
                -b <= i < n + e for i, n, b, e in zip(where, conv.size, conv.pads_begin, conv.pads_end, strict=True)
            )
            total += int(x[(*place[:2], *where)]) - zx if inside else 0
            elements += inside or (counted and padding)
        factor = fp32(fp32(Fraction(float(sx)) / elements) / Fraction(float(sy)))
        low, high = limits(x.dtype.name)
        found[place] = min(max(round(fp32(fp32(total) * factor)) + zy, low), high)
    return found


@settings(max_examples=100)
@given(pools(), st.sampled_from(["uint8", "int8"]), st.integers(0, 2**16))
def test_averages(pool: tuple[Conv, bool, bool], dtype: str, seed: int) -> None:
    """By definition. ONNX Runtime adds float32 values, one after the other, and divides: a step off at most.

    Of integers it knows no dilation, and counts what ceiling mode adds as padding.
    """
    rng, (conv, ceil, counted), net = np.random.default_rng(seed), pool, Network()
    low, high = limits(dtype)
    x = rng.integers(low, high, (1, 2, *conv.size), dtype, endpoint=True)
    sx, sy = rng.uniform(0.01, 0.02, 2).astype(np.float32)
    zx, zy = (int(zero) for zero in rng.integers(low, high, 2, endpoint=True))
    y = average(net, conv, ceil, counted, net.dequantize(net.input(x), sx, zx))
    q = net.quantize(y, sy, zy, dtype)
    (found,) = net.evaluated(q)
    assert np.array_equal(found, average_by_definition(conv, counted, x, (sx, zx, sy, zy), found.shape))
    if max(conv.dilation) == 1 and not (ceil and counted):
        (theirs,) = net.by_onnxruntime(q)
        assert np.abs(found.astype(int) - theirs).max() <= 1


@settings(max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.sampled_from(["uint8", "int8"]), st.integers(0, 2**16))
def test_global_averages(size: list[int], dtype: str, seed: int) -> None:
    """One window that is everything. ONNX Runtime multiplies by fp32(sx / fp32(sy * n)): a step off at most."""
    rng, net, shape = np.random.default_rng(seed), Network(), (2, 3, *size)
    low, high = limits(dtype)
    x = rng.integers(low, high, shape, dtype, endpoint=True)
    sx, sy = rng.uniform(0.01, 0.02, 2).astype(np.float32)
    zx, zy = (int(zero) for zero in rng.integers(low, high, 2, endpoint=True))
    y = net.node("GlobalAveragePool", net.dequantize(net.input(x), sx, zx), shape=(2, 3, *[1] * len(size)))
    q = net.quantize(y, sy, zy, dtype)
    (found,) = net.evaluated(q)
    factor = fp32(fp32(Fraction(float(sx)) / int(np.prod(size))) / Fraction(float(sy)))
    totals = (x.astype(int) - zx).sum(tuple(range(2, len(shape)))).ravel()
    exact = [min(max(round(fp32(fp32(int(total)) * factor)) + zy, low), high) for total in totals]
    assert found.ravel().tolist() == exact
    (theirs,) = net.by_onnxruntime(q)
    assert np.abs(found.astype(int) - theirs).max() <= 1
