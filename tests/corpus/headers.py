"""Versions, names and order: what is wrong before any operator is looked at."""

from collections.abc import Iterator

from onnx import ModelProto, NodeProto, TensorProto, helper

from tests.corpus.case import Case, Spoil, model_of, node_of, spoiled, value
from tests.corpus.case import from_model as whole


def cases() -> Iterator[Case]:
    yield from versions()
    yield from names()
    yield from order()
    yield from declarations()
    yield from types()


def versions() -> Iterator[Case]:
    def ir(number: int) -> Spoil:
        return lambda model: setattr(model, "ir_version", number)

    for number, code in ((0, 3), (-5, 3), (1, 4), (2, 4), (99, 4), (2**62, 4)):
        yield spoiled("IR version", f"{number}", ir(number), exit_code=code, mentions="IR version")

    def opset(*numbers: int) -> Spoil:
        def spoil(model: ModelProto) -> None:
            del model.opset_import[:]
            model.opset_import.extend(helper.make_opsetid("", number) for number in numbers)

        return spoil

    for numbers, code in (((), 3), ((0,), 3), ((-1,), 3), ((17, 17), 3), ((13, 17), 3), ((29,), 4), ((2**60,), 4)):
        yield spoiled(
            "opset", f"{numbers}", opset(*numbers), exit_code=code, mentions="import" if code == 3 else "opset"
        )


def names() -> Iterator[Case]:
    def twice(field: str, index: int) -> Spoil:
        return lambda model: getattr(model.graph, field).append(getattr(model.graph, field)[index])

    yield spoiled("initializer twice", "first", twice("initializer", 0), mentions="weight")
    yield spoiled("initializer twice", "last", twice("initializer", 7), mentions="offset")
    yield spoiled("input twice", "x", twice("input", 0), mentions="x")
    yield spoiled("output twice", "y", twice("output", 0), mentions="y")
    for index, name in enumerate(("conv", "norm", "relu", "pool", "flat", "y")):
        yield spoiled("value twice", name, twice("node", index), mentions=name)

    def takes(output: str, name: str) -> Spoil:
        def spoil(model: ModelProto) -> None:
            node_of(model, output).output[0] = name

        return spoil

    yield spoiled("value named as an input", "relu", takes("relu", "x"), mentions="x")
    yield spoiled("value named as an initializer", "relu", takes("relu", "bias"), mentions="bias")

    def rename(field: str) -> Spoil:
        return lambda model: setattr(getattr(model.graph, field)[0], "name", "")

    yield spoiled("no name", "input", rename("input"), mentions="input")
    yield spoiled("no name", "initializer", rename("initializer"), mentions="initializer")
    yield spoiled("no name", "output", rename("output"), mentions="output")


def order() -> Iterator[Case]:
    def reads(output: str, position: int, name: str) -> Spoil:
        def spoil(model: ModelProto) -> None:
            node_of(model, output).input[position] = name

        return spoil

    for output, position in (("conv", 0), ("conv", 1), ("norm", 4), ("relu", 0), ("pool", 0), ("y", 1)):
        yield spoiled("undefined value", f"{output} {position}", reads(output, position, "nowhere"), mentions="nowhere")
    for output, later in (("relu", "relu"), ("norm", "pool"), ("conv", "flat"), ("conv", "pool"), ("pool", "flat")):
        yield spoiled("cycle", f"{output} reads {later}", reads(output, 0, later), mentions=output)

    def shuffled(model: ModelProto) -> None:
        first = model.graph.node.pop(0)
        model.graph.node.append(first)

    yield spoiled("wrong order", "first node last", shuffled, mentions="conv")

    def reverse(model: ModelProto) -> None:
        nodes = list(model.graph.node)[::-1]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    yield spoiled("wrong order", "reversed", reverse, mentions="y")
    ring = [NodeProto(op_type="Relu", input=[f"r{i}"], output=[f"r{(i + 1) % 5000}"]) for i in range(5000)]
    yield whole("cycle", "of 5000", model_of(ring, [value("x", [1])], [value("r0", [1])]), mentions="r1")


def declarations() -> Iterator[Case]:
    def output(name: str, dtype: int, shape: list[int] | None) -> Spoil:
        def spoil(model: ModelProto) -> None:
            del model.graph.output[:]
            model.graph.output.append(value(name, shape, dtype))

        return spoil

    float32 = TensorProto.FLOAT
    yield spoiled("output nobody computes", "z", output("z", float32, [1, 10]), mentions="z")
    yield spoiled("no outputs", "none", lambda model: model.graph.ClearField("output"), mentions="output")
    for shape in ([1, 11], [2, 10], [1, 10, 1], [10]):
        yield spoiled("declared shape", f"{shape}", output("y", float32, shape), mentions="y")
    for dtype in (TensorProto.INT64, TensorProto.DOUBLE):
        yield spoiled("declared type", TensorProto.DataType.Name(dtype), output("y", dtype, [1, 10]), mentions="y")

    def input_dims(*dims: int) -> Spoil:
        def spoil(model: ModelProto) -> None:
            model.graph.input[0].CopyFrom(value("x", dims))

        return spoil

    yield spoiled("input shape", "negative", input_dims(1, 3, -8, 8), mentions="x")
    yield spoiled("input shape", "rank 40", input_dims(*[1] * 40), mentions="x")
    yield spoiled("input shape", "huge", input_dims(1, 3, 1 << 20, 1 << 20), mentions="x")
    yield spoiled("input shape", "overflow", input_dims(1, 3, 1 << 62, 1 << 62), mentions="x")
    yield spoiled("input shape", "other channels", input_dims(1, 4, 8, 8), mentions="conv")
    yield spoiled("input shape", "other rank", input_dims(1, 3, 8), mentions="conv")
    yield spoiled("input shape", "other size", input_dims(1, 3, 9, 12), mentions="y")

    def symbolic(*dims: int | str | None) -> Spoil:
        def spoil(model: ModelProto) -> None:
            model.graph.input[0].CopyFrom(value("x", dims))

        return spoil

    yield spoiled("symbolic size", "named", symbolic(1, 3, "height", 8), exit_code=2, mentions="height")
    yield spoiled("symbolic size", "unnamed", symbolic(1, 3, None, 8), exit_code=2, mentions="x")


def types() -> Iterator[Case]:
    """What an input may not be."""
    for form in ("sequence_type", "optional_type", "map_type", "sparse_tensor_type"):
        yield spoiled("input that is no tensor", form, of_kind(form), exit_code=4, mentions="x")
    yield spoiled("input without a type", "x", lambda model: model.graph.input[0].ClearField("type"), mentions="x")

    def element(number: int) -> Spoil:
        return lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", number)

    for number in (0, 77, -1):
        yield spoiled("unknown element type", f"input {number}", element(number), mentions="x")
    for number, name in ((8, "string"), (7, "int64"), (9, "bool"), (14, "complex")):
        yield spoiled("wrong element type", f"input {name}", element(number), mentions="conv")


def of_kind(form: str) -> Spoil:
    """The input's type becomes one of the other forms."""

    def spoil(model: ModelProto) -> None:
        item = model.graph.input[0].type
        item.Clear()
        inner = getattr(item, form)
        if form in ("sequence_type", "optional_type"):
            inner.elem_type.tensor_type.elem_type = 1
        elif form == "map_type":
            inner.key_type = 7
            inner.value_type.tensor_type.elem_type = 1
        else:
            inner.elem_type = 1
            inner.shape.dim.add(dim_value=3)

    return spoil
