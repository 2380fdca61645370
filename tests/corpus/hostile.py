"""Small files that ask for a lot: memory, time, or both."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from tests.corpus.case import Case, from_model, model_of, tensor, value

F32, I64 = np.float32, np.int64


def cases() -> Iterator[Case]:
    yield from fills()
    yield from repeats()
    yield from ranges()
    yield from windows()
    yield from growth()
    yield from work()


def folded(op: str, constants: Sequence[tuple[str, Any]], *, opset: int = 17, **attributes: Any) -> ModelProto:
    """A node of constants alone, whose result is added to the input."""
    nodes = [
        helper.make_node(op, [name for name, _ in constants], ["spoiled"], **attributes),
        helper.make_node("Add", ["x", "spoiled"], ["y"]),
    ]
    stored = [tensor(name, array) for name, array in constants]
    return model_of(nodes, [value("x", [1])], [value("y", None)], stored, opset=opset)


def fills() -> Iterator[Case]:
    for shape in ([1 << 40], [1 << 20, 1 << 20], [1 << 62, 4], [-1], [2, -3], [1 << 33, 1 << 33], [1] * 70):
        model = folded("ConstantOfShape", [("shape", np.array(shape, I64))])
        yield from_model("hostile fill", f"ConstantOfShape {shape[:4]}", model, mentions="spoiled")
        model = folded("Expand", [("seed", np.ones(1, F32)), ("shape", np.array(shape, I64))])
        yield from_model("hostile expand", f"{shape[:4]}", model, mentions="spoiled")
    for shape in ([1 << 40], [1 << 20, 1 << 20]):
        node = helper.make_node("Expand", ["x", "shape"], ["spoiled"])
        model = model_of([node], [value("x", [1])], [value("spoiled", None)], [tensor("shape", np.array(shape, I64))])
        yield from_model("hostile expand", f"of an input {shape}", model, mentions="spoiled")


def repeats() -> Iterator[Case]:
    for times in (1 << 40, 1 << 62, -1):
        model = folded("Tile", [("seed", np.ones(16, F32)), ("repeats", np.array([times], I64))])
        yield from_model("hostile tile", f"{times}", model, mentions="spoiled")
    for count in (1 << 40, 1 << 31, -5):
        constants = [("indices", np.zeros(4, I64)), ("depth", np.array(count, I64)), ("values", np.array([0, 1], F32))]
        yield from_model("hostile one-hot", f"{count}", folded("OneHot", constants), mentions="spoiled")
    for pads in ([1 << 40, 0], [1 << 62, 1 << 62], [-1 << 40, 0]):
        model = folded("Pad", [("seed", np.ones(4, F32)), ("pads", np.array(pads, I64))])
        yield from_model("hostile pad", f"{pads}", model, mentions="spoiled")


def ranges() -> Iterator[Case]:
    for start, limit, delta in ((0, 1 << 50, 1), (0, 10, 0), (0, 1 << 62, 1 << 20)):
        constants = [(name, np.array(item, I64)) for name, item in (("a", start), ("b", limit), ("c", delta))]
        yield from_model("hostile range", f"{start} {limit} {delta}", folded("Range", constants), mentions="spoiled")
    for first, last, step in ((0.0, 1e30, 1e-3), (0.0, np.nan, 1.0), (0.0, np.inf, 1.0), (0.0, 1.0, 1e-30)):
        constants = [(name, np.array(item, F32)) for name, item in (("a", first), ("b", last), ("c", step))]
        yield from_model("hostile range", f"{first} {last} {step}", folded("Range", constants), mentions="spoiled")


def windows() -> Iterator[Case]:
    for factor in (1e6, 1e12, 1e30):
        constants = [tensor("roi", np.zeros(0, F32)), tensor("scales", np.array([1, 1, factor, factor], F32))]
        node = helper.make_node("Resize", ["x", "roi", "scales"], ["spoiled"])
        model = model_of([node], [value("x", [1, 1, 64, 64])], [value("spoiled", None)], constants)
        yield from_model("hostile resize", f"scale {factor}", model, mentions="spoiled")
    sizes = tensor("sizes", np.array([1, 1, 1 << 40, 1 << 40], I64))
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["spoiled"])
    model = model_of([node], [value("x", [1, 1, 64, 64])], [value("spoiled", None)], [sizes])
    yield from_model("hostile resize", "sizes", model, mentions="spoiled")
    weights = tensor("w", np.ones((1, 1, 1, 1), F32))
    node = helper.make_node("Conv", ["x", "w"], ["spoiled"], pads=[1 << 22] * 4)
    model = model_of([node], [value("x", [1, 1, 4, 4])], [value("spoiled", None)], [weights])
    yield from_model("hostile pads", "Conv", model, mentions="spoiled")
    node = helper.make_node("ConvTranspose", ["x", "w"], ["spoiled"], strides=[1 << 22, 1 << 22])
    model = model_of([node], [value("x", [1, 1, 64, 64])], [value("spoiled", None)], [weights])
    yield from_model("hostile strides", "ConvTranspose", model, mentions="spoiled")


def growth() -> Iterator[Case]:
    """Every step is small; together they are not."""
    for op, arity in (("Concat", 2), ("Concat", 8)):
        nodes = [helper.make_node(op, [f"v{i}"] * arity, [f"v{i + 1}"], axis=0) for i in range(40)]
        yield from_model("doubling", f"{op} of {arity}", chained(nodes), mentions="v")
    nodes = []
    for i in range(40):
        nodes.append(helper.make_node("Unsqueeze", [f"v{i}", "one"], [f"u{i}"]))
        nodes.append(helper.make_node("Mul", [f"v{i}", f"u{i}"], [f"v{i + 1}"]))
    yield from_model("doubling", "outer products", chained(nodes), mentions="")
    nodes = [helper.make_node("Expand", ["v0", "shape"], ["wide"])]
    nodes += [helper.make_node("Exp", ["wide"], [f"e{i}"]) for i in range(60)]
    nodes += [helper.make_node("Sum", [f"e{i}" for i in range(60)], ["v40"])]
    shape = tensor("shape", np.array([1 << 20, 64], I64))
    yield from_model("many large constants", "60 of 64 million", chained(nodes, [shape]), mentions="e")
    nodes = [helper.make_node("Expand", ["v0", f"shape{i}"], [f"e{i}"]) for i in range(40)]
    nodes.append(helper.make_node("Sum", ["x", *(f"e{i}" for i in range(40))], ["total"]))
    shapes = [tensor(f"shape{i}", np.array([1 << 22, 16], I64)) for i in range(40)]
    model = model_of(nodes, [value("x", [1])], [value("total", None)], [tensor("v0", np.ones(16, F32)), *shapes])
    yield from_model("many large constants", "40 fills of 64 million", model, mentions="e")
    nodes = [helper.make_node("Concat", [f"d{i}"] * 4, [f"d{i + 1}"], axis=0) for i in range(30)]
    runtime = model_of(nodes, [value("d0", [16])], [value("d30", None)])
    yield from_model("doubling", "of an input", runtime, mentions="d")


def chained(nodes: Sequence[NodeProto], extra: Sequence[TensorProto] = ()) -> ModelProto:
    """Constants grow from v0; the sum of the last is added to the input."""
    last = nodes[-1].output[0]
    constants = [tensor("v0", np.ones(16, F32)), tensor("one", np.array([1], I64)), *extra]
    tail = [helper.make_node("ReduceSum", [last], ["total"]), helper.make_node("Add", ["x", "total"], ["y"])]
    return model_of([*nodes, *tail], [value("x", [1])], [value("y", None)], constants)


def work() -> Iterator[Case]:
    """Long to evaluate or to check, in little memory."""
    nodes = [helper.make_node("Identity" if i % 2 else "Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(16_000)]
    tail = [helper.make_node("Celu", ["t16000"], ["spoiled"], alpha=float("nan"))]
    model = model_of([*nodes, *tail], [value("t0", [2])], [value("spoiled", [2])])
    yield from_model("long chain", "16 000 nodes", model, mentions="")
    many = [helper.make_node("Loop", ["n", "", "x"], ["spoiled"], body=helper.make_graph([], "g", [], []))]
    model = model_of(many, [value("x", [1])], [value("spoiled", [1])], [tensor("n", np.array(1 << 60, I64))])
    yield from_model("empty loop", "2^60 trips", model, exit_code=4, mentions="spoiled")
