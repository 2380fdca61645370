"""Weights and biases as integers, and why a layer stays in float."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from lowprec.exporting import to_onnx
from lowprec.frontend.quantization import quantize_graph
from tests.corpus.case import model_of, tensor, value
from tests.graphs import evaluate, feeds_for, load, operators
from tests.refusals import refused
from tests.rounded import chain, constant, conv, producers, quantized, random, rounded


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "axis"),
    [
        ("Conv", (4, 3, 3, 3), {}, 0),
        ("Gemm", (6, 4), {}, 1),
        ("Gemm", (4, 6), {"transB": 1}, 0),
        ("MatMul", (6, 4), {}, 1),
    ],
)
def test_weights_have_a_scale_for_each_output_channel(
    tmp_path: Path, op: str, shape: tuple[int, ...], attributes: dict[str, Any], axis: int
) -> None:
    weights = random(*shape)
    weights[(slice(None),) * axis + (0,)] = 0
    weights[(slice(None),) * axis + (1,)] *= 1000
    source = [2, 3, 5, 5] if op == "Conv" else [2, 6]
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    graph, _ = quantized(chain([node], {"w": weights}, source), tmp_path)
    dequantize = producers(graph)["w/rounded"]
    codes, scale, zeros = (constant(graph, name).astype(np.float64) for name in dequantize.inputs)
    assert dequantize.attributes == {"axis": axis}
    assert constant(graph, dequantize.inputs[0]).dtype == np.int8
    assert np.abs(codes).max() == 127
    assert not zeros.any()
    assert scale[0] == 1
    others = tuple(index for index in range(len(shape)) if index != axis)
    assert np.allclose(scale[1:], np.abs(weights).max(axis=others)[1:] / 127, rtol=1e-6)
    step = np.expand_dims(scale, others)
    assert (np.abs(codes * step - weights) <= 0.5000001 * step).all()


@pytest.mark.parametrize("shape", [(4,), (1,), (), (1, 4), (1, 1)])
def test_a_bias_is_counted_in_units_of_the_sum(tmp_path: Path, shape: tuple[int, ...]) -> None:
    bias = random(*shape) if shape else np.float32(0.3)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    graph, _ = quantized(chain([node], {"w": random(6, 4), "b": bias}, [2, 6]), tmp_path)
    codes, units, _ = (constant(graph, f"b/{part}") for part in ("codes", "scale", "zero_point"))
    expected = np.float32(rounded(graph)["x"][0]) * constant(graph, "w/scale")
    assert codes.dtype == np.int32
    assert np.array_equal(units, expected)
    assert (np.abs(codes * units.astype(np.float64) - np.broadcast_to(bias, (1, 4))) <= 0.5000001 * units).all()


def test_a_bias_beyond_the_integers_stays_in_float(tmp_path: Path) -> None:
    bias = np.array([0, 0, 2e9, 0], np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    graph, reasons = quantized(chain([node], {"w": random(6, 4) / 10, "b": bias}, [2, 6]), tmp_path)
    layer = next(node for node in graph.nodes if node.op == "Gemm")
    assert not reasons
    assert layer.inputs == ("x/rounded", "w/rounded", "b")
    assert np.array_equal(constant(graph, "b"), bias)


def test_a_float_bias_has_one_number_for_each_channel(tmp_path: Path) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    graph, _ = quantized(chain([node], {"w": random(6, 4) / 10, "b": np.float32(2e9)}, [2, 6]), tmp_path)
    (name,) = (node.inputs[2] for node in graph.nodes if node.op == "Gemm")
    assert np.array_equal(constant(graph, name), np.full(4, 2e9, np.float32))


def test_sums_that_just_fit_32_bits(tmp_path: Path) -> None:
    """255 * 127 * 66311 + 10 is below 2^31, with one weight more it would not be."""
    layer = helper.make_node("MatMul", ["x", "w"], ["y"])
    for rows, fits in ((66_311, True), (66_312, False)):
        graph = load(chain([layer], {"w": np.ones((rows, 1), np.float32)}, [1, rows]), tmp_path)
        _, reasons = quantize_graph(graph, {"x": (0.0, 1.0), "y": (0.0, 1.0)})
        assert (
            not reasons
            if fits
            else reasons == {"y": "its sums may reach 2147514120, and 32 bits hold less than 2147483648"}
        )
    small = np.full((66_312, 1), 0.1, np.float32)
    small[0] = 1
    graph = load(chain([layer], {"w": small}, [1, 66_312]), tmp_path)
    assert quantize_graph(graph, {"x": (0.0, 1.0), "y": (0.0, 1.0)})[1] == {}


GEMM = {"w": random(6, 4), "b": random(4)}


NAN, INFINITE = np.full((6, 4), np.nan, np.float32), np.full(4, np.inf, np.float32)


# fmt: off
FLOATS: list[tuple[str, list[str], dict[str, Any], list[int], dict[str, Any], str]] = [
    ("Gemm", ["x", "w"], GEMM, [6, 2], {"transA": 1}, "its first operand is transposed"),
    ("Gemm", ["x", "w", "b"], GEMM, [2, 6], {"alpha": 0.5}, "alpha is 0.5, and sums of integers have no factor"),
    ("Gemm", ["x", "w", "b"], GEMM, [2, 6], {"beta": 2.0}, "beta is 2, and sums of integers have no factor"),
    ("Gemm", ["x", "w", "b"], GEMM | {"b": random(2, 1)}, [2, 6], {},
     "its bias is [2, 1], not one number for each of 4 channels"),
    ("Gemm", ["x", "w", "x"], {"w": random(6, 6)}, [6, 6], {},
     "its bias is computed at run time, and integers are made of constants"),
    ("Gemm", ["x", "w", "b"], GEMM | {"b": INFINITE}, [2, 6], {}, "its bias holds a NaN or an infinity"),
    ("MatMul", ["x", "w"], {"w": NAN}, [2, 6], {}, "its weights hold a NaN or an infinity"),
    ("MatMul", ["x", "x"], {}, [6, 6], {}, "its weights are computed at run time, and integers are made of constants"),
    ("MatMul", ["x", "w"], {"w": random(3, 6, 4)}, [2, 6], {},
     "its second operand has 3 dimensions, and one scale per column needs 2"),
    ("MatMul", ["x", "w"], {"w": random(6, 0)}, [2, 6], {}, "its weights have no elements"),
    ("ConvTranspose", ["x", "w"], {"w": random(3, 4, 2, 2)}, [1, 3, 4, 4], {},
     "a transposed convolution is computed in float"),
]
# fmt: on


@pytest.mark.parametrize(("op", "inputs", "constants", "shape", "attributes", "reason"), FLOATS)
def test_a_layer_stays_in_float_and_says_why(
    tmp_path: Path,
    op: str,
    inputs: list[str],
    constants: dict[str, Any],
    shape: list[int],
    attributes: dict[str, Any],
    reason: str,
) -> None:
    node = helper.make_node(op, inputs, ["y"], **attributes)
    graph = load(chain([node], constants, shape), tmp_path)
    found, reasons = quantize_graph(graph, {})
    assert reasons == {"y": reason}
    assert operators(found) == [op]


def test_a_layer_of_other_numbers_stays_in_float(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([node], [value("x", [2, 6], 11)], [value("y", None, 11)], [tensor("w", np.ones((6, 4)))])
    _, reasons = quantize_graph(load(model, tmp_path), {})
    assert reasons == {"y": "its input is float64, and integers are made of float32"}


def test_weights_too_small_for_their_scales(tmp_path: Path) -> None:
    """Their products with the input's scale are normal numbers: so small a channel is one of zeros."""
    weights = random(4, 3, 3, 3)
    weights[1] *= np.float32(1e-40)
    graph, _ = quantized(chain([conv("x", "y")], {"w": weights}, [1, 3, 6, 6]), tmp_path)
    units = np.float32(rounded(graph)["x"][0]) * constant(graph, "w/scale")
    assert (units >= np.finfo(np.float32).tiny).all()
    assert not constant(graph, "w/codes")[1].any()


def test_scales_beyond_float32_are_refused(tmp_path: Path) -> None:
    graph = load(chain([conv("x", "y")], {"w": np.full((1, 3, 1, 1), 1e30, np.float32)}, [1, 3, 6, 6]), tmp_path)
    message = refused(lambda: quantize_graph(graph, {"x": (0.0, 1e30), "y": (0.0, 1.0)}))
    assert message.startswith(
        "layer 'y': its input's scale 3.92157e+27 times its weights' 7.87402e+27 is beyond float32"
    )


def test_integers_are_what_the_floats_were(tmp_path: Path) -> None:
    """The sum of products of integers, by the unit, is what ONNX Runtime computes of the dequantized operands."""
    model = chain([conv("x", "y", "b", strides=[2, 2])], {"w": random(4, 3, 3, 3), "b": random(4)}, [1, 3, 7, 7])
    graph, _ = quantized(model, tmp_path)
    feeds = feeds_for(graph)
    scale, zero = rounded(graph)["x"]
    x = np.clip(np.rint(np.divide(feeds["x"], scale, dtype=np.float32)) + zero, 0, 255).astype(np.int64) - zero
    codes, bias = constant(graph, "w/codes").astype(np.int64), constant(graph, "b/codes").astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2]
    sums = np.einsum("nchwij,kcij->nkhw", windows, codes) + bias.reshape(-1, 1, 1)
    units = constant(graph, "b/scale").astype(np.float64).reshape(-1, 1, 1)
    inner = replace(graph, outputs=(graph.types["y/float"],))
    (found,) = evaluate(to_onnx(inner), feeds)
    magnitude = (255 * np.abs(codes).sum(axis=(1, 2, 3)) + np.abs(bias)).reshape(-1, 1, 1) * units
    assert (np.abs(found - sums * units) <= 30 * np.finfo(np.float32).eps * magnitude).all()


def test_nearly_no_weights_leave_the_bias_an_integer(tmp_path: Path) -> None:
    """One channel of them would make the whole layer's bias a float: it has a larger scale, and weights of zero."""
    weights = random(6, 4)
    weights[:, 1] = 1e-20
    weights[0, 1] = 1e-12
    bias = np.array([0.5, 3.0, -1.0, 0.0], np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    graph, _ = quantized(chain([node], {"w": weights, "b": bias}, [2, 6]), tmp_path)
    codes, units, _ = (constant(graph, f"b/{part}") for part in ("codes", "scale", "zero_point"))
    assert codes.dtype == np.int32
    assert abs(int(codes[1])) <= 1 << 30
    assert (np.abs(codes * units.astype(np.float64) - bias) <= 0.51 * units + 1e-6 * np.abs(bias)).all()
    assert not constant(graph, "w/codes")[:, 1].any()
    alone, _ = quantized(chain([node], {"w": np.delete(weights, 1, 1), "b": np.delete(bias, 1)}, [2, 6]), tmp_path)
    assert np.array_equal(np.delete(constant(graph, "w/codes"), 1, 1), constant(alone, "w/codes"))
