"""Stored tensors whose description and bytes disagree."""

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, SparseTensorProto, TensorProto, helper

from tests.corpus.case import Case, Spoil, constant_of, from_model, model_of, spoiled, tensor, value

NAMES = ("weight", "bias", "matrix", "variance")


def cases() -> Iterator[Case]:
    yield from sizes()
    yield from types()
    yield from forms()


def sizes() -> Iterator[Case]:
    def raw(name: str, change: int) -> Spoil:
        def spoil(model: ModelProto) -> None:
            item = constant_of(model.graph, name)
            item.raw_data = item.raw_data[:change] if change < 0 else item.raw_data + bytes(change)

        return spoil

    for name in NAMES:
        for change in (-4, -1, 1, 4):
            yield spoiled("raw bytes of the wrong length", f"{name} {change:+}", raw(name, change), mentions=name)

    def dims(name: str, *shape: int) -> Spoil:
        def spoil(model: ModelProto) -> None:
            item = constant_of(model.graph, name)
            del item.dims[:]
            item.dims.extend(shape)

        return spoil

    for name in NAMES:
        yield spoiled("negative extent", name, dims(name, -1, 8), mentions=name)
    for shape in ((1 << 40,), (1 << 20, 1 << 20), (1 << 33, 1 << 33), ((1 << 63) - 1, 2), (0, 1 << 62)):
        yield spoiled("huge shape", f"{shape}", dims("weight", *shape), mentions="weight")
    for rank in (17, 100, 10_000):
        yield spoiled("huge rank", f"{rank}", dims("bias", 8, *[1] * (rank - 1)), mentions="bias")
    yield spoiled(
        "no data", "weight", lambda model: constant_of(model.graph, "weight").ClearField("raw_data"), mentions="weight"
    )


def types() -> Iterator[Case]:
    def element(name: str, number: int) -> Spoil:
        return lambda model: setattr(constant_of(model.graph, name), "data_type", number)

    for number in (0, 99, -3):
        yield spoiled("unknown element type", f"initializer {number}", element("weight", number), mentions="weight")
    yield spoiled("strings as raw bytes", "weight", element("weight", TensorProto.STRING), mentions="weight")
    for number in (TensorProto.INT32, TensorProto.UINT32):
        yield spoiled("wrong element type", f"weight {number}", element("weight", number), mentions="conv")
        yield spoiled("wrong element type", f"matrix {number}", element("matrix", number), mentions="y")
    for number in (TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT4, TensorProto.BOOL):
        yield spoiled("element type of another size", f"{number}", element("bias", number), mentions="bias")


def forms() -> Iterator[Case]:
    def typed(name: str, field: str, count: int, *, keep_raw: bool) -> Spoil:
        def spoil(model: ModelProto) -> None:
            item = constant_of(model.graph, name)
            if not keep_raw:
                item.ClearField("raw_data")
            getattr(item, field).extend([0] * count)

        return spoil

    yield spoiled(
        "typed values of the wrong count", "too few", typed("bias", "float_data", 7, keep_raw=False), mentions="bias"
    )
    yield spoiled(
        "typed values of the wrong count", "too many", typed("bias", "float_data", 9, keep_raw=False), mentions="bias"
    )
    yield spoiled(
        "typed values of another type", "int64", typed("bias", "int64_data", 8, keep_raw=False), mentions="bias"
    )
    yield spoiled("data twice", "raw and typed", typed("bias", "float_data", 8, keep_raw=True), mentions="bias")

    def big_twice(model: ModelProto) -> None:
        item = constant_of(model.graph, "matrix")
        item.float_data.extend([0.0] * 1280)

    yield spoiled("data twice", "raw and typed, large", big_twice, mentions="matrix")

    def segment(model: ModelProto) -> None:
        item = constant_of(model.graph, "weight")
        item.segment.begin, item.segment.end = 0, 10

    yield spoiled("segments", "weight", segment, exit_code=4, mentions="weight")

    def sparse(model: ModelProto) -> None:
        item = SparseTensorProto(dims=[8])
        item.values.CopyFrom(tensor("thin", np.ones(1, np.float32)))
        item.indices.CopyFrom(tensor("", np.zeros(1, np.int64)))
        model.graph.sparse_initializer.append(item)

    yield spoiled("sparse", "initializer", sparse, exit_code=4, mentions="thin")
    words = TensorProto(name="words", data_type=TensorProto.STRING, dims=[2], string_data=[b"a", b"b"])
    node = helper.make_node("Identity", ["words"], ["y"])
    model = model_of([node], [value("x", [1])], [value("y", [2], TensorProto.STRING)], [words])
    yield from_model("strings", "as an output", model, exit_code=4, mentions="y")
