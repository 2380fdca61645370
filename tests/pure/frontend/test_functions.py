"""Model-local functions and constant branches: inlined with the meaning of where they stand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import FunctionProto, NodeProto, TensorProto, helper

from lowprec.errors import InvalidModel
from tests.corpus.case import model_of, tensor, value
from tests.graphs import evaluate, feeds_for, load, operators, same_meaning, to_model


def function(
    name: str, nodes: Sequence[NodeProto], inputs: Sequence[str] = ("a",), outputs: Sequence[str] = ("b",), **more: Any
) -> FunctionProto:
    imports = more.pop("imports", [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)])
    return helper.make_function("local", name, inputs, outputs, nodes, imports, **more)


def call(name: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> NodeProto:
    return helper.make_node(name, inputs, outputs, domain="local", **attributes)


def model(nodes: Sequence[NodeProto], functions: Sequence[FunctionProto], constants: Sequence[TensorProto] = ()) -> Any:
    return model_of(nodes, [value("x", [3])], [value("y", [3])], constants, functions=functions, domains=["local"])


def test_a_function_named_as_an_operator_means_what_its_body_says(tmp_path: Path) -> None:
    absolute = function("Neg", [helper.make_node("Abs", ["a"], ["b"])])
    made = model([call("Neg", ["x"], ["y"])], [absolute])
    graph = load(made, tmp_path)
    assert operators(graph) == ["Abs"]
    assert graph.nodes[0].layer == "y"
    same_meaning(made, graph)


def test_the_operator_of_the_same_name_keeps_its_meaning(tmp_path: Path) -> None:
    absolute = function("Neg", [helper.make_node("Abs", ["a"], ["b"])])
    made = model([call("Neg", ["x"], ["m"]), helper.make_node("Neg", ["m"], ["y"])], [absolute])
    assert operators(load(made, tmp_path)) == ["Abs", "Neg"]


def test_names_inside_clash_with_nothing(tmp_path: Path) -> None:
    body = [helper.make_node("Exp", ["a"], ["m"]), helper.make_node("Neg", ["m"], ["b"])]
    nodes = [
        helper.make_node("Sin", ["x"], ["m"]),
        call("F", ["m"], ["b"]),
        call("F", ["b"], ["a"]),
        helper.make_node("Add", ["a", "m"], ["y"]),
    ]
    made = model(nodes, [function("F", body)])
    graph = load(made, tmp_path)
    names = [name for node in graph.nodes for name in node.outputs]
    assert len(set(names)) == len(names) == 6
    assert {"m", "b", "a", "y", "b/m", "a/m"} == set(names)
    same_meaning(made, graph)


def test_functions_call_functions(tmp_path: Path) -> None:
    inner = function("G", [helper.make_node("Tanh", ["a"], ["b"])])
    outer = function("F", [call("G", ["a"], ["t"]), call("G", ["t"], ["b"])])
    made = model([call("F", ["x"], ["y"])], [outer, inner])
    graph = load(made, tmp_path)
    assert operators(graph) == ["Tanh", "Tanh"]
    same_meaning(made, graph)


def leaky() -> NodeProto:
    node = helper.make_node("LeakyRelu", ["a"], ["b"])
    node.attribute.add(name="alpha", type=1).ref_attr_name = "slope"
    return node


def test_attributes_come_from_the_call(tmp_path: Path) -> None:
    made = model([call("F", ["x"], ["y"], slope=0.25)], [function("F", [leaky()], attributes=["slope"])])
    assert load(made, tmp_path).nodes[0].attributes == {"alpha": 0.25}


def test_attributes_have_defaults(tmp_path: Path) -> None:
    defaults = [helper.make_attribute("slope", 0.5)]
    made = model([call("F", ["x"], ["y"])], [function("F", [leaky()], attribute_protos=defaults)])
    assert load(made, tmp_path).nodes[0].attributes == {"alpha": 0.5}


def test_an_attribute_nobody_gives_is_the_operators_default(tmp_path: Path) -> None:
    made = model([call("F", ["x"], ["y"])], [function("F", [leaky()], attributes=["slope"])])
    assert load(made, tmp_path).nodes[0].attributes == {}


def test_an_operand_left_out_is_absent_inside(tmp_path: Path) -> None:
    body = [helper.make_node("Clip", ["a", "low", "high"], ["b"])]
    low = tensor("floor", np.float32(0.1))
    made = model([call("F", ["x", "floor"], ["y"])], [function("F", body, ["a", "low", "high"])], [low])
    (clip,) = load(made, tmp_path).nodes
    assert clip.inputs == ("x", "floor", "")


def test_a_function_may_give_back_its_operand(tmp_path: Path) -> None:
    through = function("F", [helper.make_node("Exp", ["a"], ["b"])], ["a"], ["b", "a"])
    made = model([call("F", ["x"], ["e", "same"]), helper.make_node("Add", ["e", "same"], ["y"])], [through])
    graph = load(made, tmp_path)
    assert operators(graph) == ["Exp", "Add"]
    assert graph.nodes[1].inputs == ("e", "x")


def two_opsets(inner: int) -> Any:
    body = [helper.make_node("Softmax", ["a"], ["b"])]
    old = function("F", body, imports=[helper.make_opsetid("", inner)])
    nodes = [call("F", ["x"], ["old"]), helper.make_node("Softmax", ["old"], ["y"])]
    shape = [2, 3, 4]
    return model_of(nodes, [value("x", shape)], [value("y", shape)], functions=[old], domains=["local"])


def test_each_body_has_its_own_opset(tmp_path: Path) -> None:
    assert [node.version for node in load(two_opsets(13), tmp_path).nodes] == [13, 17]


def test_a_body_whose_operator_means_something_else_there_is_refused(tmp_path: Path) -> None:
    """Softmax at opset 11 flattens to a matrix; ONNX forbids to mix the two."""
    with pytest.raises(InvalidModel, match=r"Softmax.* version 11 whereas model imports version 17"):
        load(two_opsets(11), tmp_path)


def branch(op: str, result: str, source: str = "x") -> Any:
    return helper.make_graph([helper.make_node(op, [source], [result])], op, [], [value(result, [3])])


def test_a_constant_condition_takes_its_branch(tmp_path: Path) -> None:
    for condition, op in ((True, "Exp"), (False, "Neg")):
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch("Exp", "t"), else_branch=branch("Neg", "e"))
        made = model_of([node], [value("x", [3])], [value("y", [3])], [tensor("c", np.array(condition))])
        graph = load(made, tmp_path)
        assert operators(graph) == [op]
        same_meaning(made, graph)


def test_a_branch_may_bring_its_own_constants_and_give_what_is_outside(tmp_path: Path) -> None:
    own = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["t"])],
        "own",
        [],
        [value("t", [3])],
        [tensor("one", np.ones(3, np.float32))],
    )
    outside = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "outside", [], [value("e", [3])])
    for condition in (True, False):
        node = helper.make_node("If", ["c"], ["m"], then_branch=own, else_branch=outside)
        made = model_of(
            [node, helper.make_node("Relu", ["m"], ["y"])],
            [value("x", [3])],
            [value("y", [3])],
            [tensor("c", np.array(condition))],
        )
        graph = load(made, tmp_path)
        feeds = feeds_for(graph)
        np.testing.assert_array_equal(evaluate(made, feeds)[0], evaluate(to_model(graph, 17), feeds)[0])


def test_a_condition_may_depend_on_shapes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ReduceProd", ["s"], ["n"], keepdims=0),
        helper.make_node("Greater", ["n", "two"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Exp", "t"), else_branch=branch("Neg", "e")),
    ]
    made = model_of(nodes, [value("x", [3])], [value("y", [3])], [tensor("two", np.array(2, np.int64))])
    assert operators(load(made, tmp_path)) == ["Exp"]
