"""Static shapes: defaults, given shapes, contradictions, and what stays unknown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from lowprec.errors import InvalidModel, Unsupported, UsageError
from tests.corpus.case import model_of, tensor, value
from tests.graphs import load, operators


def relu(*dims: int | str | None) -> Any:
    return model_of([helper.make_node("Relu", ["data"], ["y"])], [value("data", dims)], [value("y", None)])


def test_a_symbolic_first_dimension_is_one(tmp_path: Path) -> None:
    assert load(relu("batch", 3), tmp_path).inputs[0].shape == (1, 3)
    assert load(relu(None, 3), tmp_path).inputs[0].shape == (1, 3)


def test_any_other_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'data' is \[1, height\]: dimension 1 \('height'\) is not fixed"):
        load(relu(1, "height"), tmp_path)
    assert load(relu(1, "height"), tmp_path, input_shapes={"data": (1, 7)}).outputs[0].shape == (1, 7)


def test_one_symbol_is_one_size(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    model = model_of([node], [value("a", ["n", 2]), value("b", ["n", 2])], [value("y", None)])
    assert load(model, tmp_path, input_shapes={"a": (5, 2)}).inputs[1].shape == (5, 2)
    with pytest.raises(UsageError, match="dimension 'n' is 5 elsewhere"):
        load(model, tmp_path, input_shapes={"a": (5, 2), "b": (4, 2)})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"dats": (1, 3)}, r"no such input \(did you mean 'data'\?\); inputs are 'data'"),
        ({"data": (1, 4)}, r"contradicts the model, which declares \[1, 3\]"),
        ({"data": (1, 3, 1)}, r"has 3 dimensions, the model declares \[1, 3\]"),
        ({"data": (0, 3)}, "every extent must be at least 1"),
    ],
)
def test_shapes_that_do_not_fit_are_the_callers_fault(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load(relu(1, 3), tmp_path, input_shapes=shapes)


def test_an_input_of_unknown_rank_must_be_given(tmp_path: Path) -> None:
    model = relu()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UsageError, match="input 'data' has no shape"):
        load(model, tmp_path)
    assert load(model, tmp_path, input_shapes={"data": (2, 2)}).outputs[0].shape == (2, 2)


def test_shape_arithmetic_is_folded(tmp_path: Path) -> None:
    """What exporters write for x.view(x.size(0), -1)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["row"]),
        helper.make_node("Concat", ["row", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = [tensor("zero", np.array(0)), tensor("axes", np.array([0])), tensor("rest", np.array([-1]))]
    graph = load(model_of(nodes, [value("x", ["n", 3, 4])], [value("y", None)], constants), tmp_path)
    assert operators(graph) == ["Reshape"]
    assert graph.outputs[0].shape == (1, 12)
    np.testing.assert_array_equal(graph.constants[graph.nodes[0].inputs[1]], [1, -1])


def test_a_shape_known_only_at_run_time_may_be_declared(tmp_path: Path) -> None:
    inputs = [value("x", [2, 6]), value("target", [2], TensorProto.INT64)]
    node = helper.make_node("Reshape", ["x", "target"], ["y"])
    assert load(model_of([node], inputs, [value("y", [3, 4])]), tmp_path).outputs[0].shape == (3, 4)
    with pytest.raises(Unsupported, match=r"Reshape node 'y': output 'y': .* known only when the model runs"):
        load(model_of([node], inputs, [value("y", ["a", "b"])]), tmp_path)


@pytest.mark.parametrize("declared", [(2, 7), (2, 6, 1)])
def test_a_declaration_that_contradicts_the_operator_is_refused(tmp_path: Path, declared: Sequence[int]) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], [value("x", [2, 6])], [value("y", declared)])
    with pytest.raises(InvalidModel, match=r"Relu node 'y'.* the file declares"):
        load(model, tmp_path)


@pytest.mark.parametrize("opset", [13, 17, 22])
@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_a_pool_in_ceiling_mode_has_no_window_behind_the_input(tmp_path: Path, op: str, opset: int) -> None:
    """As in every runtime; onnx's inference says 4 before opset 22."""
    pool = helper.make_node(op, ["x"], ["y"], kernel_shape=[2], strides=[2], pads=[1, 1], ceil_mode=1)
    model = model_of([pool], [value("x", [1, 1, 5])], [value("y", None)], opset=opset)
    assert load(model, tmp_path).outputs[0].shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("op", "opset"),
    [("LessOrEqual", 13), ("GreaterOrEqual", 15), ("GroupNormalization", 21), ("MeanVarianceNormalization", 13)],
)
def test_operators_that_onnx_does_not_infer(tmp_path: Path, op: str, opset: int) -> None:
    inputs = [value("x", [2, 4, 3, 3]), value("scale", [4]), value("bias", [4])]
    reads = {"GroupNormalization": ["x", "scale", "bias"], "MeanVarianceNormalization": ["x"]}.get(op, ["x", "x"])
    attributes: dict[str, Any] = {"num_groups": 2} if op == "GroupNormalization" else {}
    node = helper.make_node(op, reads, ["y"], **attributes)
    compared = op.endswith("Equal")
    output = value("y", None, TensorProto.BOOL if compared else TensorProto.FLOAT)
    found = load(model_of([node], inputs, [output], opset=opset), tmp_path).outputs[0]
    assert (found.shape, found.dtype) == ((2, 4, 3, 3), "bool" if compared else "float32")


def test_a_declared_shape_is_known_backwards_through_what_keeps_it(tmp_path: Path) -> None:
    """The body of ReduceL2: which axes are summed is known to the run alone, the result's shape is declared."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
        helper.make_node("Sqrt", ["sum"], ["y"]),
    ]
    inputs = [value("x", [3, 2, 2]), value("axes", [1], TensorProto.INT64)]
    model = model_of(nodes, inputs, [value("y", [3, 2])], opset=18)
    assert load(model, tmp_path).types["sum"].shape == (3, 2)
