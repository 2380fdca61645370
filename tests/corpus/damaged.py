"""Files that are no ONNX model, or were one once: foreign formats, cuts, overwritten and repeated parts."""

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, helper

from tests.corpus.case import Case, from_bytes, network, spoiled, varint

MEBI = 1 << 20


def cases() -> Iterator[Case]:
    yield from foreign()
    yield from cut()
    yield from overwritten()
    yield from repeated()
    yield from crowded()


def foreign() -> Iterator[Case]:
    """Other people's formats, named."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model.onnx", network().SerializeToString())
    as_text = str(network())
    formats = {
        "empty": b"",
        "zip": packed.getvalue(),
        "gzip": gzip.compress(network().SerializeToString()),
        "pickle": pickle.dumps({"weights": [1, 2, 3]}),
        "json": json.dumps({"irVersion": 8, "graph": {"node": []}}).encode(),
        "text": as_text.encode(),
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 102400\n",
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(500),
        "tflite": b"\x1c\0\0\0TFL3" + bytes(500),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(500),
        "numpy": b"\x93NUMPY\x01\0v\0" + bytes(200),
        "prose": b"The quick brown fox jumps over the lazy dog. " * 40,
        "python": b"import onnx\nmodel = onnx.load('x')\n" * 10,
    }
    for name, data in formats.items():
        yield from_bytes(f"foreign {name}", name, data)
    draw = np.random.default_rng(1)
    for length in (1, 7, 100, 10_000, MEBI):
        yield from_bytes("random bytes", f"{length}", b"\xff" + draw.bytes(length - 1))
    for name, data in (("zeros", bytes(1000)), ("ones", b"\xff" * 1000), ("many zeros", bytes(60 * MEBI))):
        yield from_bytes("constant bytes", name, data)


def cut() -> Iterator[Case]:
    """A sound file that ends too early."""
    data = network().SerializeToString()
    for count in (1, 2, 5, 17, 50, 130, 400, 900, 2000, 4000, len(data) - 600, len(data) - 40):
        yield from_bytes("cut short", f"{count} of {len(data)}", data[:count])


def overwritten() -> Iterator[Case]:
    """Bytes that cannot be a number where one must stand, and lengths that lead out of the file."""
    data = network().SerializeToString()
    graph = data.index(b"\x3a")
    for place in (0, 1, graph, graph + 2, graph + 5):
        yield from_bytes("overlong number", f"at {place}", data[:place] + b"\xff" * 12 + data[place + 12 :])
    for length in (b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x10"):
        yield from_bytes("length past the end", length.hex(), b"\x08\x09\x3a" + length + data[:100])
    for kind in (3, 4, 6, 7):
        yield from_bytes("unknown wire type", f"{kind}", bytes([1 << 3 | kind]) + data)
    text = bytearray(data)
    place = data.index(b"BatchNormalization")
    text[place : place + 4] = b"\xff\xfe\xfd\xfc"
    yield from_bytes("text that is not UTF-8", "an operator's name", bytes(text), mentions="node number 1")


def repeated() -> Iterator[Case]:
    """Two graphs, or none."""
    data = network().SerializeToString()
    yield from_bytes("two graphs", "the same twice", data + data)
    without = ModelProto(ir_version=9, opset_import=[helper.make_opsetid("", 17)])
    yield from_bytes("no graph", "a header alone", without.SerializeToString())

    def add_bytes_again(model: ModelProto) -> None:
        big = model.graph.initializer.add(name="big", data_type=1, dims=[2048])
        big.raw_data = bytes(8192)

    model = network()
    add_bytes_again(model)
    raw = model.graph.initializer[-1].SerializeToString()
    model.graph.initializer.pop()
    doubled = raw + b"\x4a\x80\x40" + bytes(8192)
    graph = model.graph.SerializeToString() + b"\x2a" + varint(len(doubled)) + doubled
    header = ModelProto(ir_version=9, opset_import=model.opset_import).SerializeToString()
    yield from_bytes("bytes twice", "an initializer", header + b"\x3a" + varint(len(graph)) + graph)


def crowded() -> Iterator[Case]:
    """Counts far beyond any network, in files small and large."""
    header = ModelProto(ir_version=9, opset_import=[helper.make_opsetid("", 17)]).SerializeToString()

    def with_graph(content: bytes) -> bytes:
        return bytes(header) + b"\x3a" + varint(len(content)) + content

    empty_node, empty_tensor, empty_value = b"\x0a\x00", b"\x2a\x00", b"\x6a\x00"
    yield from_bytes("too many nodes", "empty, 60 000", with_graph(empty_node * 60_000), mentions="nodes")
    yield from_bytes("too many nodes", "empty, 32 million", with_graph(empty_node * 32 * MEBI), mentions="nodes")
    yield from_bytes("too many tensors", "empty, 300 000", with_graph(empty_tensor * 300_000), mentions="tensors")
    yield from_bytes("too many declarations", "300 000", with_graph(empty_value * 300_000), mentions="declarations")
    yield from_bytes("too many fields", "imports", b"\x42\x00" * 10 * MEBI)
    attribute = b"\x0a\x01k" + b"\x4a\x00" * 30 * MEBI + b"\xa0\x01\x08"
    node = b"\x12\x01y\x22\x04Relu\x2a" + varint(len(attribute)) + attribute
    crowd = with_graph(b"\x0a" + varint(len(node)) + node + network().graph.SerializeToString())
    yield from_bytes("too many strings", "an attribute of 30 million", crowd, mentions="node number 0")
    inputs = b"\x0a\x00" * 20 * MEBI + b"\x22\x04Relu"
    crowd = with_graph(b"\x0a" + varint(len(inputs)) + inputs + network().graph.SerializeToString())
    yield from_bytes("too many operands", "20 million", crowd, mentions="node number 0")

    def many_ints(model: ModelProto) -> None:
        model.graph.node[0].attribute.add(name="strides", type=7, ints=range(3_000_000))

    yield spoiled("too many numbers", "an attribute of 3 million", many_ints, mentions="node number 0")

    def long_name(model: ModelProto) -> None:
        model.graph.node[0].input[0] = "n" * (4 * MEBI)

    yield spoiled("long name", "an input of 4 MB", long_name, mentions="conv")

    def odd_name(model: ModelProto) -> None:
        model.graph.node[0].input[0] = "\x1b[31mred\ntwo lines\r\0"

    yield spoiled("name with control characters", "an input", odd_name, mentions="conv")
