"""Constants computed from constants: right, within their budget, and nothing random among them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from lowprec.errors import InvalidModel, Unsupported
from lowprec.frontend import Limits
from tests.corpus.case import model_of, tensor, value
from tests.graphs import load, operators

F32 = np.float32


def summed(nodes: list[Any], constants: list[TensorProto], name: str) -> Any:
    """x + the constant of that name."""
    last = helper.make_node("Add", ["x", name], ["y"])
    return model_of([*nodes, last], [value("x", [1])], [value("y", None)], constants)


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "expected"),
    [
        ("Add", ([1, 2], [3, 4]), {}, [4, 6]),
        ("Expand", ([7], np.array([2, 2])), {}, [[7, 7], [7, 7]]),
        ("ConstantOfShape", (np.array([2]),), {}, [0, 0]),
        ("Reshape", ([1, 2, 3, 4], np.array([2, -1])), {}, [[1, 2], [3, 4]]),
        ("Transpose", ([[1, 2], [3, 4]],), {}, [[1, 3], [2, 4]]),
        ("Gather", ([1, 2, 3], np.array([-1, 0])), {}, [3, 1]),
        ("Slice", ([1, 2, 3, 4], np.array([3]), np.array([0]), np.array([0]), np.array([-1])), {}, [4, 3, 2]),
        ("Tile", ([1, 2], np.array([2])), {}, [1, 2, 1, 2]),
        ("Range", (F32(1), F32(4), F32(1)), {}, [1, 2, 3]),
        ("MatMul", ([[1, 2]], [[3], [4]]), {}, [[11]]),
        ("ReduceSum", ([[1, 2], [3, 4]], np.array([0])), {"keepdims": 0}, [4, 6]),
        ("Pad", ([1], np.array([1, 1])), {}, [0, 1, 0]),
        ("NonZero", ([0, 3, 0, 5],), {}, [[1, 3]]),
        ("Compress", ([1, 2, 3], np.array([True, False, True])), {}, [1, 3]),
        ("Where", (np.array([True, False]), [1, 2], [3, 4]), {}, [1, 4]),
    ],
)
def test_constants_of_constants_are_computed(
    tmp_path: Path, op: str, operands: tuple[Any, ...], attributes: dict[str, Any], expected: Any
) -> None:
    arrays = [item if hasattr(item, "dtype") else np.asarray(item, F32) for item in operands]
    constants = [tensor(f"c{index}", array) for index, array in enumerate(arrays)]
    node = helper.make_node(op, [item.name for item in constants], ["folded"], **attributes)
    if op == "NonZero":
        graph = load(model_of([node], [], [value("folded", None, TensorProto.INT64)], constants), tmp_path)
        np.testing.assert_array_equal(graph.constants["folded/constant"], expected)
        return
    graph = load(summed([node], constants, "folded"), tmp_path)
    assert operators(graph) == ["Add"]
    np.testing.assert_array_equal(graph.constants["folded"], np.asarray(expected))
    assert not graph.constants["folded"].flags.writeable


def test_a_fill_takes_no_memory(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["fill"], value=tensor("", np.array([0.5], F32))),
        helper.make_node("Unsqueeze", ["fill", "axis"], ["wide"]),
    ]
    constants = [tensor("shape", np.array([1 << 14, 1 << 14])), tensor("axis", np.array([0]))]
    graph = load(summed(nodes, constants, "wide"), tmp_path)
    assert graph.constants["wide"].shape == (1, 1 << 14, 1 << 14)
    assert not any(graph.constants["wide"].strides)


def test_what_is_computed_has_a_budget(tmp_path: Path) -> None:
    nodes = [helper.make_node("Tile", ["one", "times"], ["tiled"])]
    constants = [tensor("one", np.ones(1000, F32)), tensor("times", np.array([1000]))]
    with pytest.raises(InvalidModel, match="Tile node 'tiled': constants computed so far take more than 4096 bytes"):
        load(summed(nodes, constants, "tiled"), tmp_path, limits=Limits(folded_bytes=4096))


def test_long_work_is_left_for_the_compiled_model(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["a", "a"], ["product"])]
    model = summed(nodes, [tensor("a", np.ones((64, 64), F32))], "product")
    assert operators(load(model, tmp_path, limits=Limits(evaluation=1000))) == ["MatMul", "Add"]
    assert operators(load(model, tmp_path)) == ["Add"]


def test_random_numbers_are_not_constants(tmp_path: Path) -> None:
    nodes = [helper.make_node("RandomNormal", [], ["noise"], shape=[1])]
    with pytest.raises(Unsupported, match="RandomNormal node 'noise'"):
        load(summed(nodes, [], "noise"), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("value_int", 3, np.int64(3)),
        ("value_ints", [3, 4], np.array([3, 4])),
        ("value_float", 0.5, F32(0.5)),
        ("value_floats", [0.5, 1.5], np.array([0.5, 1.5], F32)),
        ("value", tensor("", np.array([2, 3], np.int8)), np.array([2, 3], np.int8)),
    ],
)
def test_a_constant_has_one_of_several_forms(tmp_path: Path, name: str, content: Any, expected: Any) -> None:
    node = helper.make_node("Constant", [], ["c"], **{name: content})
    graph = load(
        model_of([node], [value("x", [1])], [value("c", None, helper.np_dtype_to_tensor_dtype(expected.dtype))]),
        tmp_path,
    )
    (found,) = graph.constants.values()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_a_constant_that_is_an_output_keeps_its_name_and_its_readers(tmp_path: Path) -> None:
    node = helper.make_node("Neg", ["one"], ["minus"])
    last = helper.make_node("Add", ["x", "minus"], ["y"])
    outputs = [value("y", None), value("minus", None)]
    graph = load(model_of([node, last], [value("x", [1])], outputs, [tensor("one", np.ones(1, F32))]), tmp_path)
    assert [(item.op, item.outputs) for item in graph.nodes] == [("Identity", ("minus",)), ("Add", ("y",))]
    assert graph.nodes[1].inputs[1] in graph.constants


def test_operators_onnx_defines_by_others_are_expanded(tmp_path: Path) -> None:
    node = helper.make_node("HammingWindow", ["size"], ["window"])
    graph = load(summed([node], [tensor("size", np.array(8))], "window"), tmp_path)
    assert operators(graph) == ["Add"]
    n = np.arange(8)
    wanted = 25 / 46 - 21 / 46 * np.cos(2 * np.pi * n / 8)
    assert np.allclose(graph.constants["window"].astype(np.float64), wanted, atol=1e-6)
