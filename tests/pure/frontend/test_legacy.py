"""Models of opset 6 and before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from lowprec.errors import InvalidModel
from tests.corpus.case import model_of, tensor, value
from tests.graphs import evaluate, feeds_for, load, operators, to_model


def random(*shape: int) -> Any:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (1,), (2, 3)])
@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_an_axis_says_where_an_operand_stands(tmp_path: Path, op: str, shape: tuple[int, ...]) -> None:
    axis = 0 if shape[0] == 2 else 1
    node = helper.make_node(op, ["x", "b"], ["y"], broadcast=1, axis=axis)
    other = random(*shape)
    model = model_of([node], [value("x", [2, 3, 4, 5])], [value("y", [2, 3, 4, 5])], [tensor("b", other)], opset=6)
    graph = load(model, tmp_path)
    feeds = feeds_for(graph)
    (found,) = evaluate(to_model(graph, 7), feeds)
    aligned = other.reshape((1,) * axis + shape + (1,) * (4 - axis - len(shape)))
    expected = feeds["x"] + aligned if op == "Add" else feeds["x"] * aligned
    assert np.allclose(found.astype(np.float64), expected.astype(np.float64), rtol=1e-6)


def test_an_operand_that_is_no_constant_is_reshaped(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "b"], ["y"], broadcast=1, axis=1)
    model = model_of([node], [value("x", [2, 3, 4]), value("b", [3])], [value("y", [2, 3, 4])], opset=6)
    assert operators(load(model, tmp_path)) == ["Unsqueeze", "Add"]


def test_an_axis_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "b"], ["y"], broadcast=1, axis=2)
    model = model_of([node], [value("x", [2, 3]), value("b", [3])], [value("y", [2, 3])], opset=6)
    with pytest.raises(InvalidModel, match="Add node 'y': axis 2 puts an operand of rank 1 outside one of rank 2"):
        load(model, tmp_path)


def test_an_old_network_reads_as_a_new_one(tmp_path: Path) -> None:
    constants = [
        tensor("w", random(4, 3, 3, 3)),
        *(tensor(name, np.abs(random(4)) + np.float32(0.5)) for name in ("gamma", "beta", "mean", "variance")),
        tensor("shape", np.array([1, -1], np.int64)),
        tensor("matrix", random(16, 5)),
        tensor("offset", random(5)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["conv", "gamma", "beta", "mean", "variance"], ["norm"], is_test=1),
        helper.make_node("Relu", ["norm"], ["relu"]),
        helper.make_node("MaxPool", ["relu"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Dropout", ["pool"], ["drop"], is_test=1),
        helper.make_node("Reshape", ["drop", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "offset"], ["gemm"], broadcast=1),
        helper.make_node("Softmax", ["gemm"], ["y"]),
    ]
    inputs = [value("x", [1, 3, 4, 4])]
    graph = load(model_of(nodes, inputs, [value("y", [1, 5])], constants, opset=6), tmp_path)
    assert operators(graph) == ["Conv", "Relu", "MaxPool", "Reshape", "Gemm", "Softmax"]
