"""Nodes that contradict their operator: axes, shapes, attributes, operands, the operators themselves."""

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.corpus.case import (
    Case,
    Spoil,
    from_bytes,
    from_model,
    model_of,
    node_of,
    single,
    spoiled,
    tensor,
    value,
    varint,
    with_attribute,
)

ONES = np.ones
F32 = np.float32
I64 = np.int64


def cases() -> Iterator[Case]:
    yield from axes()
    yield from shapes()
    yield from operands()
    yield from attributes()
    yield from unknown()
    yield from control()


def axes() -> Iterator[Case]:
    for op in ("Softmax", "LogSoftmax", "Hardmax", "Concat", "ArgMax", "Flatten"):
        for axis in (3, -4, 1 << 40):
            dtype = TensorProto.INT64 if op == "ArgMax" else TensorProto.FLOAT
            model = single(op, [[2, 3]], axis=axis, output_dtype=dtype)
            yield from_model("axis outside the rank", f"{op} {axis}", model, mentions="spoiled")
    for perm in ([0, 0], [0], [0, 2], [-1, 0], [0, 1, 2]):
        yield from_model("transpose", f"{perm}", single("Transpose", [[2, 3]], perm=perm), mentions="spoiled")
    for chosen in ([5], [-3], [0, 0], [1, -1]):
        yield from_model("reduction axes", f"{chosen}", single("ReduceMean", [[2, 3]], axes=chosen), mentions="spoiled")
        constants = [("axes", np.array(chosen, I64))]
        yield from_model(
            "reduction axes", f"input {chosen}", single("ReduceSum", [[2, 3]], constants), mentions="spoiled"
        )
    yield from_model("squeeze", "of 3", single("Squeeze", [[2, 3]], [("axes", np.array([1], I64))]), mentions="spoiled")
    for index in (3, -4, 1 << 40):
        constants = [("indices", np.array([0, index], I64))]
        yield from_model(
            "index outside the axis", f"Gather {index}", single("Gather", [[3, 2]], constants), mentions="spoiled"
        )


def shapes() -> Iterator[Case]:
    def reshape(*target: int) -> ModelProto:
        return single("Reshape", [[2, 3]], [("shape", np.array(target, I64))])

    for target in ((7,), (-1, -1), (-2, 3), (4, -1), (0, 0, 0), (1 << 62, 1 << 62)):
        yield from_model("reshape", f"{target}", reshape(*target), mentions="spoiled")
    for op, first, second in (
        ("Add", [2, 3], [2, 4]),
        ("Mul", [5], [4]),
        ("MatMul", [2, 3], [4, 2]),
        ("Gemm", [2, 3], [4, 2]),
        ("Gemm", [2, 3, 1], [3, 2]),
        ("PRelu", [2, 3], [4]),
    ):
        yield from_model(
            "shapes that do not fit", f"{op} {first} {second}", single(op, [first, second]), mentions="spoiled"
        )
    model = single("Concat", [[2, 3], [3, 4]], axis=0)
    yield from_model("shapes that do not fit", "Concat", model, mentions="spoiled")
    constants = [("split", np.array([2, 2], I64))]
    yield from_model("split", "sum", single("Split", [[5]], constants, axis=0), mentions="spoiled")
    for count in (2, 4, 0, -1):
        node = helper.make_node("Split", ["x"], ["y", "a", "b"], num_outputs=count, name="spoiled")
        model = model_of([node], [value("x", [6])], [value("y", None)], opset=18)
        yield from_model("split", f"{count} for 3 results", model, mentions="spoiled")
    for name, array in (("steps", [0]), ("axes", [9])):
        given = {"starts": [0], "ends": [2], "axes": [0], "steps": [1]} | {name: array}
        constants = [(key, np.array(item, I64)) for key, item in given.items()]
        yield from_model("slice", name, single("Slice", [[5]], constants), mentions="spoiled")
    for block in (0, -1, 3):
        yield from_model(
            "block size", f"{block}", single("DepthToSpace", [[1, 4, 2, 2]], blocksize=block), mentions="spoiled"
        )
    for bad in (0.0, -2.0, np.nan, np.inf):
        constants = [("scales", np.array([1, 1, bad, bad], F32))]
        model = single("Resize", [[1, 1, 4, 4]], constants, order=["x0", "", "scales"])
        yield from_model("resize scale", f"{bad}", model, mentions="spoiled")
    constants = [("sizes", np.array([1, 1, 0, -4], I64))]
    model = single("Resize", [[1, 1, 4, 4]], constants, order=["x0", "", "", "sizes"])
    yield from_model("resize size", "0 and -4", model, mentions="spoiled")
    constants = [("k", np.array([9], I64))]
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"], name="spoiled")
    model = model_of([node], [value("x", [5])], [value("y", None)], [tensor(*constants[0])])
    yield from_model("top k", "9 of 5", model, mentions="spoiled")
    constants = [("zero", np.zeros(1, np.int32))]
    model = single("Div", [[4]], constants, dtype=TensorProto.INT32)
    yield from_model("division by zero", "integers", model, mentions="spoiled")
    pads = [("pads", np.array([0, -9, 0, 0], I64))]
    yield from_model("pad below nothing", "-9 of 3", single("Pad", [[2, 3]], pads), mentions="spoiled")
    pads = [("pads", np.array([0, 1], I64))]
    yield from_model("pads of the wrong count", "2 for rank 2", single("Pad", [[2, 3]], pads), mentions="spoiled")
    pads = [("pads", np.zeros(4, I64))]
    yield from_model("unknown mode", "Pad", single("Pad", [[2, 3]], pads, mode="mirror"), mentions="spoiled")


def operands() -> Iterator[Case]:
    for count in (1, 4, 9):
        model = single("Conv", [[1, 3, 8, 8]] * count)
        yield from_model("operand count", f"Conv {count}", model, mentions="spoiled")
    yield from_model("operand count", "Relu 2", single("Relu", [[1], [1]]), mentions="spoiled")
    yield from_model("operand count", "Add 1", single("Add", [[1]]), mentions="spoiled")
    yield from_model("missing operand", "Conv", single("Conv", [[1, 3, 8, 8]], order=["x0", ""]), mentions="spoiled")

    def more_outputs(model: ModelProto) -> None:
        node_of(model, "relu").output.append("more")

    yield spoiled("result count", "Relu 2", more_outputs, mentions="relu")
    mixed = model_of(
        [helper.make_node("Add", ["a", "b"], ["y"], name="spoiled")],
        [value("a", [2]), value("b", [2], TensorProto.INT64)],
        [value("y", [2])],
    )
    yield from_model("mixed element types", "Add", mixed, mentions="spoiled")
    for op, dtype in (("Relu", TensorProto.BOOL), ("Sigmoid", TensorProto.INT64), ("Conv", TensorProto.INT32)):
        rank = [[1, 3, 8, 8]] if op == "Conv" else [[4]]
        extra = [("w", ONES((4, 3, 3, 3), np.int32))] if op == "Conv" else []
        yield from_model("wrong element type", op, single(op, rank, extra, dtype=dtype), mentions="spoiled")


def attributes() -> Iterator[Case]:
    yield spoiled("unknown attribute", "Conv", with_attribute("conv", "paddings", [1]), mentions="conv")
    yield spoiled("unknown attribute", "Relu", with_attribute("relu", "alpha", 1.0), mentions="relu")
    for name, content in (("strides", 2), ("group", [1]), ("auto_pad", 3), ("pads", "1111"), ("dilations", [1.0, 1.0])):
        yield spoiled("attribute of another type", name, with_attribute("conv", name, content), mentions="conv")
    yield from_model("missing attribute", "Concat", single("Concat", [[1], [1]]), mentions="spoiled")
    yield from_model("missing attribute", "Cast", single("Cast", [[1]]), mentions="spoiled")
    for number in (0, 99):
        yield from_model("unknown element type", f"Cast {number}", single("Cast", [[1]], to=number), mentions="spoiled")

    def twice(model: ModelProto) -> None:
        node = node_of(model, "conv")
        node.attribute.append(node.attribute[0])

    yield spoiled("attribute twice", "pads", twice, mentions="conv")

    def reference(model: ModelProto) -> None:
        item = node_of(model, "conv").attribute[0]
        item.Clear()
        item.name, item.ref_attr_name, item.type = "pads", "outer", 7

    yield spoiled("attribute reference outside a function", "pads", reference, mentions="conv")

    def bad_text(model: ModelProto) -> None:
        node_of(model, "conv").attribute.add(name="auto_pad", type=3, s=b"\xff\xfe")

    yield spoiled("text that is not UTF-8", "auto_pad", bad_text, mentions="conv")
    for count in (0, 2):
        node = helper.make_node("Constant", [], ["y"], name="spoiled")
        node.attribute.extend(helper.make_attribute(name, 1) for name in ("value_int", "value_ints")[:count])
        if count:
            node.attribute[1].CopyFrom(helper.make_attribute("value_ints", [1]))
        yield from_model(
            "constant with other than one value",
            f"{count}",
            model_of([node], [], [value("y", None)]),
            mentions="spoiled",
        )


def unknown() -> Iterator[Case]:
    def becomes(output: str, op: str, domain: str = "") -> Spoil:
        def spoil(model: ModelProto) -> None:
            node = node_of(model, output)
            node.op_type, node.domain = op, domain
            if domain:
                model.opset_import.append(helper.make_opsetid(domain, 1))

        return spoil

    for op in ("Convolution", "conv", "FusedConv", "Relu6", "Swish6"):
        yield spoiled("unknown operator", op, becomes("relu", op), exit_code=4, mentions="relu")
    yield spoiled("unknown operator", "none", becomes("relu", ""), mentions="relu")
    for domain in ("com.microsoft", "ai.onnx.ml", "ai.onnx.preview.training", "org.pytorch.aten", "x" * 5000):
        yield spoiled("foreign domain", domain[:30], becomes("relu", "Gelu", domain), exit_code=4, mentions="relu")
    new = single("Gelu", [[4]], opset=17)
    yield from_model("operator newer than the opset", "Gelu at 17", new, exit_code=4, mentions="spoiled")
    old = single("Upsample", [[1, 1, 2, 2]], [("s", ONES(4, F32))], opset=17)
    yield from_model("operator withdrawn before the opset", "Upsample at 17", old, mentions="spoiled")
    for op in ("RandomNormal", "RandomUniform"):
        yield from_model("random operator", op, single(op, [], shape=[4]), exit_code=4, mentions="y")
    for op in ("Bernoulli", "RandomNormalLike"):
        yield from_model("random operator", op, single(op, [[4]]), exit_code=4, mentions="y")
    sequence = single("SequenceConstruct", [[4]])
    yield from_model("sequence", "SequenceConstruct", sequence, exit_code=4, mentions="y")


def control() -> Iterator[Case]:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("v", [4])],
        [value("d", [], TensorProto.BOOL), value("w", [4])],
    )
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body, name="spoiled")
    trips = tensor("trips", np.array(1 << 62, I64))
    yield from_model(
        "loop",
        "2^62 trips",
        model_of([loop], [value("x", [4])], [value("y", [4])], [trips]),
        exit_code=4,
        mentions="spoiled",
    )
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["w"])], "branch", [], [value("w", [4])])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch, name="spoiled")
    inputs = [value("x", [4]), value("c", [], TensorProto.BOOL)]
    longer = helper.make_graph([helper.make_node("Concat", ["x", "x"], ["w"], axis=0)], "branch", [], [value("w", [8])])
    unequal = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=longer, name="spoiled")
    yield from_model(
        "branch",
        "condition at run time, shapes that differ",
        model_of([unequal], inputs, [value("y", ["n"])]),
        exit_code=4,
        mentions="spoiled",
    )
    two = tensor("c", np.array([True, False]))
    yield from_model(
        "branch", "two conditions", model_of([choice], inputs[:1], [value("y", [4])], [two]), mentions="spoiled"
    )
    stray = helper.make_graph([helper.make_node("Relu", ["nowhere"], ["w"])], "branch", [], [value("w", [4])])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=stray, else_branch=stray, name="spoiled")
    true = tensor("c", np.array(True))
    yield from_model(
        "branch",
        "undefined value inside",
        model_of([choice], inputs[:1], [value("y", [4])], [true]),
        mentions="nowhere",
    )
    for depth in (20, 45, 5000):
        yield from_bytes("nested branches", f"{depth}", nested(depth), mentions="" if depth < 30 else "node number 0")


def nested(depth: int) -> bytes:
    """If in If in If, put together by hand: protobuf would not write what it cannot read."""
    true, branch = (
        tensor("c", np.array(True)),
        helper.make_graph([helper.make_node("Relu", ["x"], ["w"])], "g", [], [value("w", [4])]),
    )
    content = branch.SerializeToString()
    tail = branch.SerializeToString()[len(field(1, branch.node[0].SerializeToString())) :]
    for _ in range(depth):
        branches = [
            field(1, name) + field(6, content if name == b"then_branch" else tail) + b"\xa0\x01\x05"
            for name in BRANCHES
        ]
        node = field(1, b"c") + field(2, b"w") + field(4, b"If") + b"".join(field(5, item) for item in branches)
        content = field(1, node) + tail
    rest = model_of([], [value("x", [4])], [value("w", [4])], [true])
    graph = content[: len(content) - len(tail)] + rest.graph.SerializeToString()
    rest.ClearField("graph")
    return bytes(rest.SerializeToString()) + field(7, graph)


BRANCHES = (b"then_branch", b"else_branch")


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content
