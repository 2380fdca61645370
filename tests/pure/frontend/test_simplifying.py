"""Rewrites: before and after, meaning kept, every way to decline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from lowprec.errors import Unsupported
from lowprec.frontend.graph import Graph
from tests.corpus.case import model_of, tensor, value
from tests.graphs import load, operators, same_meaning

Float32 = NDArray[np.float32]
RELAXED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random(*shape: int, seed: int = 0) -> Float32:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def statistics(channels: int) -> list[TensorProto]:
    return [
        tensor("gamma", random(channels, seed=1)),
        tensor("beta", random(channels, seed=2)),
        tensor("mean", random(channels, seed=3)),
        tensor("variance", np.abs(random(channels, seed=4)) + np.float32(0.5)),
    ]


def batch_norm(source: str, result: str) -> Any:
    return helper.make_node("BatchNormalization", [source, "gamma", "beta", "mean", "variance"], [result])


def chain(nodes: Sequence[Any], constants: Sequence[TensorProto], shape: Sequence[int], opset: int = 17) -> ModelProto:
    last = nodes[-1].output[0]
    return model_of(nodes, [value("x", shape)], [value(last, None)], constants, opset=opset)


def folded(model: ModelProto, folder: Path, opset: int = 17) -> Graph:
    graph = load(model, folder)
    same_meaning(model, graph, opset=opset)
    return graph


def test_batch_norm_goes_into_the_convolution_before_it(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["conv"]), batch_norm("conv", "norm")]
    graph = folded(chain(nodes, [tensor("w", random(4, 3, 3, 3)), *statistics(4)], [1, 3, 6, 6]), tmp_path)
    (conv,) = graph.nodes
    assert (conv.op, conv.layer, conv.outputs) == ("Conv", "conv", ("norm",))
    assert graph.constants[conv.inputs[2]].shape == (4,)


def test_a_whole_chain_of_arithmetic_goes_with_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], group=2),
        batch_norm("conv", "norm"),
        helper.make_node("Mul", ["norm", "scale"], ["scaled"]),
        helper.make_node("Sub", ["shift", "scaled"], ["shifted"]),
        helper.make_node("Div", ["shifted", "two"], ["y"]),
    ]
    constants = [
        tensor("w", random(4, 2, 3, 3)),
        tensor("b", random(4)),
        *statistics(4),
        tensor("scale", random(4, 1, 1)),
        tensor("shift", random(1, 4, 1, 1)),
        tensor("two", np.float32(2)),
    ]
    assert operators(folded(chain(nodes, constants, [2, 4, 6, 6]), tmp_path)) == ["Conv"]


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_goes_into_a_transposed_convolution(tmp_path: Path, groups: int) -> None:
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["conv"], strides=[2, 2], group=groups),
        batch_norm("conv", "norm"),
    ]
    constants = [tensor("w", random(4, 6 // groups, 3, 3)), *statistics(6)]
    assert operators(folded(chain(nodes, constants, [1, 4, 5, 5]), tmp_path)) == ["ConvTranspose"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(), (1,), (5,), (1, 5), (2, 1), None])
def test_batch_norm_goes_into_a_gemm(tmp_path: Path, transposed: int, bias: tuple[int, ...] | None) -> None:
    inputs = ["x", "w"] if bias is None else ["x", "w", "b"]
    nodes = [
        helper.make_node("Gemm", inputs, ["gemm"], transB=transposed, alpha=0.5, beta=2.0),
        batch_norm("gemm", "norm"),
    ]
    stored = [] if bias is None else [tensor("b", random(*bias))]
    weights = random(5, 3) if transposed else random(3, 5)
    graph = folded(chain(nodes, [tensor("w", weights), *stored, *statistics(5)], [2, 3]), tmp_path)
    assert operators(graph) == ["Gemm"]


def test_batch_norms_alone_become_one_mul_and_one_add(tmp_path: Path) -> None:
    nodes = [batch_norm("x", "norm"), helper.make_node("Mul", ["norm", "two"], ["twice"]), batch_norm("twice", "y")]
    graph = folded(chain(nodes, [*statistics(3), tensor("two", np.float32(2))], [2, 3, 4, 4]), tmp_path)
    assert operators(graph) == ["Mul", "Add"]
    assert graph.nodes[1].layer == "y"
    assert len({node.layer for node in graph.nodes}) == 2


def test_a_value_read_elsewhere_keeps_its_convolution(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"]),
        batch_norm("conv", "norm"),
        helper.make_node("Add", ["conv", "norm"], ["y"]),
    ]
    graph = folded(chain(nodes, [tensor("w", random(4, 3, 1, 1)), *statistics(4)], [1, 3, 4, 4]), tmp_path)
    assert operators(graph) == ["Conv", "Mul", "Add", "Add"]


def test_an_output_of_the_model_keeps_its_convolution(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["conv"]), batch_norm("conv", "norm")]
    constants = [tensor("w", random(4, 3, 1, 1)), *statistics(4)]
    outputs = [value("norm", None), value("conv", None)]
    graph = folded(model_of(nodes, [value("x", [1, 3, 4, 4])], outputs, constants), tmp_path)
    assert operators(graph) == ["Conv", "Mul", "Add"]


def test_weights_shared_by_two_convolutions_stay_apart(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["first"]),
        helper.make_node("Conv", ["x", "w"], ["second"]),
        batch_norm("second", "norm"),
        helper.make_node("Add", ["first", "norm"], ["y"]),
    ]
    graph = folded(chain(nodes, [tensor("w", random(4, 3, 1, 1)), *statistics(4)], [1, 3, 4, 4]), tmp_path)
    assert operators(graph) == ["Conv", "Conv", "Add"]
    assert graph.nodes[0].inputs[1] == "w" != graph.nodes[1].inputs[1]


def test_weights_that_are_an_input_stay(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["conv"]), batch_norm("conv", "y")]
    inputs = [value("x", [1, 3, 4, 4]), value("w", [4, 3, 1, 1])]
    graph = folded(model_of(nodes, inputs, [value("y", None)], statistics(4)), tmp_path)
    assert operators(graph) == ["Conv", "Mul", "Add"]


def test_weights_that_would_overflow_stay(tmp_path: Path) -> None:
    half = np.float16
    nodes = [helper.make_node("Conv", ["x", "w"], ["conv"]), helper.make_node("Mul", ["conv", "big"], ["y"])]
    constants = [tensor("w", np.full((2, 1, 1, 1), 6e4, half)), tensor("big", half(1000))]
    model = model_of(
        nodes, [value("x", [1, 1, 2, 2], TensorProto.FLOAT16)], [value("y", None, TensorProto.FLOAT16)], constants
    )
    assert operators(load(model, tmp_path)) == ["Conv", "Mul"]


def test_arithmetic_along_another_axis_stays(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["conv"]), helper.make_node("Mul", ["conv", "row"], ["y"])]
    constants = [tensor("w", random(4, 3, 1, 1)), tensor("row", random(4))]
    assert operators(folded(chain(nodes, constants, [1, 3, 4, 4]), tmp_path)) == ["Conv", "Mul"]


def pad_node(opset: int, pads: Sequence[int], value_: float | None = 0.0, **more: Any) -> tuple[Any, list[TensorProto]]:
    constants = [tensor("pads", np.array(pads, np.int64))]
    names = ["x", "pads"]
    if value_ is not None:
        constants.append(tensor("fill", np.float32(value_)))
        names.append("fill")
    return helper.make_node("Pad", names, ["padded"], **more), constants


@RELAXED
@given(
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    own=st.tuples(*[st.integers(0, 1)] * 4),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
)
def test_padding_goes_into_a_convolution(
    tmp_path: Path, pads: tuple[int, ...], own: tuple[int, ...], stride: int, dilation: int
) -> None:
    node, constants = pad_node(17, [0, 0, *pads[:2], 0, 0, *pads[2:]])
    conv = helper.make_node("Conv", ["padded", "w"], ["y"], pads=own, strides=[stride] * 2, dilations=[dilation] * 2)
    graph = folded(chain([node, conv], [*constants, tensor("w", random(2, 3, 3, 3))], [1, 3, 7, 6]), tmp_path)
    assert operators(graph) == ["Conv"]
    assert graph.nodes[0].attributes["pads"] == tuple(a + b for a, b in zip(pads, own, strict=True))


@pytest.mark.parametrize(
    ("pads", "fill", "mode"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 1.0, "constant"),
        ([0, 0, 1, 1, 0, 0, 1, 1], None, "reflect"),
        ([0, 0, 1, 1, 0, 0, 1, 1], None, "edge"),
        ([0, 0, -1, 1, 0, 0, 1, 1], 0.0, "constant"),
        ([0, 1, 1, 1, 0, 0, 1, 1], 0.0, "constant"),
        ([1, 0, 1, 1, 0, 0, 1, 1], 0.0, "constant"),
    ],
    ids=["not zero", "reflect", "edge", "negative", "channels", "batch"],
)
def test_other_padding_stays(tmp_path: Path, pads: list[int], fill: float | None, mode: str) -> None:
    node, constants = pad_node(17, pads, fill, mode=mode)
    channels = 3 + pads[1]
    conv = helper.make_node("Conv", ["padded", "w"], ["y"])
    model = chain([node, conv], [*constants, tensor("w", random(2, channels, 3, 3))], [1, 3, 7, 6])
    assert operators(folded(model, tmp_path)) == ["Pad", "Conv"]


def test_padding_of_named_axes_goes_into_a_convolution(tmp_path: Path) -> None:
    constants = [
        tensor("pads", np.array([2, 1], np.int64)),
        tensor("axes", np.array([-1], np.int64)),
        tensor("w", random(2, 3, 3, 3)),
    ]
    pad = helper.make_node("Pad", ["x", "pads", "", "axes"], ["padded"])
    conv = helper.make_node("Conv", ["padded", "w"], ["y"])
    graph = folded(chain([pad, conv], constants, [1, 3, 7, 6], opset=18), tmp_path, opset=18)
    assert graph.nodes[0].attributes["pads"] == (0, 2, 0, 1)


@pytest.mark.parametrize(
    ("attributes", "absorbed"),
    [
        ({}, True),
        ({"count_include_pad": 1, "pads": [1, 1, 1, 0]}, True),
        ({"count_include_pad": 1, "pads": [1, 1, 1, 1]}, False),
        ({"pads": [1, 1, 1, 1]}, False),
        ({"ceil_mode": 1}, False),
    ],
)
def test_padding_goes_into_an_average_only_where_it_is_counted(
    tmp_path: Path, attributes: dict[str, Any], absorbed: bool
) -> None:
    node, constants = pad_node(17, [0, 0, 1, 0, 0, 0, 1, 2])
    pool = helper.make_node("AveragePool", ["padded"], ["y"], kernel_shape=[3, 3], strides=[2, 2], **attributes)
    graph = folded(chain([node, pool], constants, [1, 2, 7, 6]), tmp_path)
    assert operators(graph) == (["AveragePool"] if absorbed else ["Pad", "AveragePool"])


def test_padding_never_goes_into_a_maximum(tmp_path: Path) -> None:
    node, constants = pad_node(17, [0, 0, 1, 1, 0, 0, 1, 1])
    pool = helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[3, 3])
    assert operators(folded(chain([node, pool], constants, [1, 2, 7, 6]), tmp_path)) == ["Pad", "MaxPool"]


@pytest.mark.parametrize(
    ("op", "attributes", "pads"),
    [
        ("MaxPool", {}, (0, 0, 0, 1)),
        ("AveragePool", {}, (0, 0, 0, 1)),
        ("AveragePool", {"pads": [0, 0, 0, 1], "count_include_pad": 1}, (0, 0, 0, 1)),
        ("AveragePool", {"count_include_pad": 1}, None),
        ("MaxPool", {"kernel_shape": [1, 2], "dilations": [1, 5], "strides": [3, 2]}, (0, 0, 0, 1)),
        ("MaxPool", {"kernel_shape": [1, 2], "dilations": [1, 5], "strides": [3, 3]}, None),
    ],
)
def test_ceiling_mode_becomes_padding(
    tmp_path: Path, op: str, attributes: dict[str, Any], pads: tuple[int, ...] | None
) -> None:
    """Not where that would be counted, or be as long as the window. A window behind the input there never was."""
    options = {"kernel_shape": [1, 2], "strides": [3, 3], "ceil_mode": 1, **attributes}
    pool = helper.make_node(op, ["x"], ["y"], **options)
    graph = load(chain([pool], [], [2, 3, 5, 7], opset=19), tmp_path)
    (node,) = graph.nodes
    if pads is None:
        assert node.attributes["ceil_mode"] == 1
    else:
        assert "ceil_mode" not in node.attributes
        assert node.attributes["pads"] == pads


@RELAXED
@given(
    mode=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    op=st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
)
def test_windows_are_spelled_out(
    tmp_path: Path, mode: str, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], op: str
) -> None:
    stride = (min(stride[0], kernel[0]), min(stride[1], kernel[1]))  # ONNX Runtime wants it
    names = ["x", "w"] if op == "Conv" else ["x"]
    node = helper.make_node(op, names, ["y"], auto_pad=mode, strides=stride, kernel_shape=kernel)
    constants = [tensor("w", random(2, 2, *kernel))] if op == "Conv" else []
    graph = folded(chain([node], constants, [1, 2, *size]), tmp_path)
    (left,) = graph.nodes
    assert "auto_pad" not in left.attributes
    assert left.attributes["kernel_shape"] == kernel
    assert left.attributes["strides"] == stride
    assert len(left.attributes["pads"]) == 4  # type: ignore[arg-type]


@RELAXED
@given(
    mode=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "shape"]),
    kernel=st.integers(2, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
)
def test_transposed_windows_are_spelled_out(tmp_path: Path, mode: str, kernel: int, stride: int, dilation: int) -> None:
    stated: dict[str, Any] = {"output_shape": [4 * stride, 3 * stride]} if mode == "shape" else {"auto_pad": mode}
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], strides=[stride] * 2, dilations=[dilation] * 2, **stated
    )
    graph = folded(chain([node], [tensor("w", random(2, 3, kernel, kernel))], [1, 2, 4, 3]), tmp_path)
    assert not {"auto_pad", "output_shape"} & graph.nodes[0].attributes.keys()


def test_a_size_that_onnx_and_its_runtimes_disagree_on_is_refused(tmp_path: Path) -> None:
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER", output_padding=[1, 1]
    )
    with pytest.raises(Unsupported, match="ConvTranspose node 'y': auto_pad SAME_UPPER with output_padding"):
        load(chain([node], [tensor("w", random(2, 3, 3, 3))], [1, 2, 4, 3]), tmp_path)


def test_nodes_that_do_nothing_go(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Dropout", ["a"], ["b", "mask"]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[0, 1]),
        helper.make_node("Cast", ["d"], ["e"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["e"], ["f"]),
        helper.make_node("Relu", ["f"], ["y"]),
    ]
    graph = folded(chain(nodes, [tensor("shape", np.array([2, -1], np.int64))], [2, 3]), tmp_path)
    assert operators(graph) == ["Relu"]
    assert graph.nodes[0].inputs == ("x",)


def test_an_output_keeps_its_name_when_the_identity_before_it_goes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Identity", ["r"], ["y"])]
    graph = folded(chain(nodes, [], [3]), tmp_path)
    (relu,) = graph.nodes
    assert (relu.op, relu.outputs, relu.layer) == ("Relu", ("y",), "r")


@pytest.mark.parametrize("source", ["x", "stored", "other"])
def test_an_identity_stays_where_an_output_would_lose_its_name(tmp_path: Path, source: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["other"]), helper.make_node("Identity", [source], ["y"])]
    outputs = [value("y", None), value("other", None)]
    graph = load(model_of(nodes, [value("x", [3])], outputs, [tensor("stored", random(3))]), tmp_path)
    assert operators(graph).count("Identity") == 1
    assert [spec.name for spec in graph.outputs] == ["y", "other"]


def test_a_dropout_that_trains_stays_and_is_not_taken_for_nothing(tmp_path: Path) -> None:
    constants = [tensor("ratio", np.float32(0.5)), tensor("training", np.array(True))]
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])
    assert operators(load(chain([node], constants, [3]), tmp_path)) == ["Dropout"]


def test_what_nobody_needs_goes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["unused"]),
        helper.make_node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2]),
    ]
    graph = load(
        model_of(nodes, [value("x", [1, 1, 4, 4])], [value("y", None)], [tensor("spare", random(3))]), tmp_path
    )
    assert operators(graph) == ["MaxPool"]
    assert graph.nodes[0].outputs == ("y",)
    assert not graph.constants
    assert set(graph.types) == {"x", "y"}
