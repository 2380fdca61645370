"""Model-local functions that recurse, explode, contradict their calls or are not what they say."""

from collections.abc import Iterator, Sequence

from onnx import FunctionProto, ModelProto, NodeProto, helper

from tests.corpus.case import Case, from_model, model_of, value

LOCAL = "local"


def cases() -> Iterator[Case]:
    yield from recursion()
    yield from definitions()
    yield from calls()


def function(
    name: str,
    nodes: Sequence[NodeProto],
    *,
    inputs: Sequence[str] = ("a",),
    outputs: Sequence[str] = ("b",),
    attributes: Sequence[str] = (),
    domain: str = LOCAL,
    imports: Sequence[tuple[str, int]] = (("", 17), (LOCAL, 1)),
) -> FunctionProto:
    opsets = [helper.make_opsetid(key, version) for key, version in imports]
    return helper.make_function(domain, name, inputs, outputs, nodes, opsets, attributes)


def call(name: str, inputs: Sequence[str] = ("a",), outputs: Sequence[str] = ("b",)) -> NodeProto:
    return helper.make_node(name, inputs, outputs, domain=LOCAL)


def calling(functions: Sequence[FunctionProto], node: NodeProto | None = None) -> ModelProto:
    """One call of F, from x to y."""
    node = node or call("F", ["x"], ["y"])
    return model_of([node], [value("x", [4])], [value("y", [4])], functions=functions, domains=[LOCAL])


def recursion() -> Iterator[Case]:
    yield from_model("recursive function", "itself", calling([function("F", [call("F")])]), mentions="F")
    for length in (2, 3, 50):
        names = ["F", *(f"F{i}" for i in range(1, length))]
        ring = [function(name, [call(names[(i + 1) % length])]) for i, name in enumerate(names)]
        yield from_model("recursive function", f"ring of {length}", calling(ring), mentions="F")
    for fan, depth in ((2, 40), (10, 12), (100, 8)):
        levels = [function("F0", [helper.make_node("Relu", ["a"], ["b"])])]
        for level in range(1, depth):
            names = ["a", *(f"t{i}" for i in range(fan - 1)), "b"]
            body = [call(f"F{level - 1}", [names[i]], [names[i + 1]]) for i in range(fan)]
            levels.append(function("F" if level == depth - 1 else f"F{level}", body))
        yield from_model("exploding function", f"{fan} calls, {depth} deep", calling(levels), mentions="F")
    chain = [function("G0", [helper.make_node("Relu", ["a"], ["b"])])]
    chain += [function(f"G{i}", [call(f"G{i - 1}")]) for i in range(1, 400)]
    chain.append(function("F", [call("G399")]))
    yield from_model("deep calls", "400", calling(chain), mentions="y")


def definitions() -> Iterator[Case]:
    relu = helper.make_node("Relu", ["a"], ["b"])
    twice = [function("F", [relu]), function("F", [relu])]
    yield from_model("function twice", "F", calling(twice), mentions="F")
    stray = helper.make_node("Add", ["a", "nowhere"], ["b"])
    yield from_model("undefined value in a function", "nowhere", calling([function("F", [stray])]), mentions="nowhere")
    other = helper.make_node("Relu", ["a"], ["c"])
    yield from_model("function output nobody computes", "b", calling([function("F", [other])]), mentions="F")
    same = function("F", [relu], inputs=["a", "a"])
    yield from_model("function operand twice", "a", calling([same], call("F", ["x", "x"], ["y"])), mentions="F")
    again = function("F", [relu, helper.make_node("Neg", ["a"], ["b"])])
    yield from_model("value twice in a function", "b", calling([again]), mentions="b")
    loop = [helper.make_node("Relu", ["c"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
    yield from_model("cycle in a function", "b and c", calling([function("F", loop)]), mentions="b")
    late = [helper.make_node("Relu", ["c"], ["b"]), helper.make_node("Relu", ["a"], ["c"])]
    yield from_model("wrong order in a function", "c", calling([function("F", late)]), mentions="c")
    shadow = function("Relu", [relu], domain="")
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], [value("x", [4])], [value("y", [4])], functions=[shadow])
    yield from_model("function in ONNX's domain", "Relu", model, exit_code=4, mentions="Relu")
    unimported = function("F", [relu], imports=())
    yield from_model("function without imports", "F", calling([unimported]), mentions="b")
    unknown = function("F", [helper.make_node("Frobnicate", ["a"], ["b"])])
    yield from_model("unknown operator in a function", "Frobnicate", calling([unknown]), exit_code=4, mentions="b")
    foreign = function("F", [helper.make_node("Gelu", ["a"], ["b"], domain="com.microsoft")])
    yield from_model("foreign domain in a function", "Gelu", calling([foreign]), exit_code=4, mentions="b")
    future = function("F", [relu], imports=(("", 99),))
    yield from_model("future opset in a function", "99", calling([future]), exit_code=4, mentions="b")


def calls() -> Iterator[Case]:
    plain = function("F", [helper.make_node("Relu", ["a"], ["b"])])
    yield from_model("function operands", "two for one", calling([plain], call("F", ["x", "x"], ["y"])), mentions="y")
    yield from_model("function results", "two for one", calling([plain], call("F", ["x"], ["y", "z"])), mentions="y")
    yield from_model("function operands", "none", calling([plain], call("F", [], ["y"])), mentions="y")
    node = call("F", ["x"], ["y"])
    node.attribute.append(helper.make_attribute("alpha", 1.0))
    yield from_model("function attribute", "unknown", calling([plain], node), mentions="alpha")
    missing = calling([plain], call("H", ["x"], ["y"]))
    yield from_model("function that is not there", "H", missing, exit_code=4, mentions="y")
    needs = helper.make_node("LeakyRelu", ["a"], ["b"])
    item = needs.attribute.add(name="alpha", type=2)
    item.ref_attr_name = "slope"
    node = call("F", ["x"], ["y"])
    node.attribute.append(helper.make_attribute("slope", [1, 2]))
    wrong = calling([function("F", [needs], attributes=["slope"])], node)
    yield from_model("function attribute", "of another type", wrong, mentions="y")
