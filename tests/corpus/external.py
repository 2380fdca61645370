"""Weights kept outside the model's file: places that are not the model's, and sizes that are not the file's."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from onnx import TensorProto, helper

from tests.corpus.case import Case, constant_of, network, tensor

SIZE = 8 * 3 * 3 * 3 * 4
Prepare = Callable[[Path], None]


def cases() -> Iterator[Case]:
    yield from escapes()
    yield from links()
    yield from numbers()
    yield from others()


def outside(kind: str, name: str, entries: Mapping[str, str], prepare: Prepare | None = None) -> Case:
    """The small network with its convolution's weights outside."""

    def write(folder: Path) -> Path:
        inner = folder / "inner"
        inner.mkdir()
        (folder / "secret.bin").write_bytes(bytes(SIZE))
        (inner / "weight.bin").write_bytes(bytes(SIZE))
        if prepare is not None:
            prepare(inner)
        model = network()
        weight = constant_of(model.graph, "weight")
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, content in entries.items():
            weight.external_data.add(key=key, value=content.replace("FOLDER", str(folder)))
        path = inner / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return Case(kind=kind, name=name, write=write, mentions="weight")


def escapes() -> Iterator[Case]:
    for location in (
        "../secret.bin",
        "./../secret.bin",
        "a/../../secret.bin",
        "..",
        "../inner/weight.bin",
        "inner/../../secret.bin",
    ):
        yield outside("external data above the folder", location, {"location": location})
    for location in (
        "FOLDER/secret.bin",
        "/etc/passwd",
        "/dev/zero",
        "//etc/passwd",
        "C:\\secret.bin",
        "C:/secret.bin",
    ):
        yield outside("external data at an absolute path", location, {"location": location})
    for location in ("..\\secret.bin", "file:///etc/passwd", "~/secret.bin", "$HOME/secret.bin", "weight.bin\0.txt"):
        yield outside("external data at an odd path", location, {"location": location})
    for location in ("", ".", "/", "none.bin", "weight.bin/inside", "n" * 300):
        yield outside("external data that is not there", location[:20], {"location": location})
    yield outside("external data that is not there", "no location", {"offset": "0"})


def links() -> Iterator[Case]:
    def link(target: str) -> Prepare:
        return lambda folder: os.symlink(target, folder / "link")

    for target in ("../secret.bin", "weight.bin", "/etc/passwd", "link"):
        yield outside("external data through a link", target, {"location": "link"}, link(target))
    yield outside("external data through a linked folder", "..", {"location": "link/secret.bin"}, link(".."))
    yield outside("external data through a linked folder", ".", {"location": "link/weight.bin"}, link("."))
    yield outside(
        "external data that is no file", "folder", {"location": "sub"}, lambda folder: (folder / "sub").mkdir()
    )
    yield outside(
        "external data that is no file", "pipe", {"location": "pipe"}, lambda folder: os.mkfifo(folder / "pipe")
    )


def shorten(folder: Path) -> None:
    (folder / "weight.bin").write_bytes(bytes(SIZE - 1))


def numbers() -> Iterator[Case]:
    size = str(SIZE)
    for offset, length in (
        ("1", size),
        (size, size),
        ("0", str(SIZE + 1)),
        ("0", str(SIZE - 4)),
        ("4", str(SIZE - 4)),
        ("9" * 18, size),
        ("0", "9" * 18),
        ("0", "0"),
    ):
        entries = {"location": "weight.bin", "offset": offset, "length": length}
        yield outside("external data past the end", f"{offset} {length}", entries)
    for text in ("-4", "1e3", "0x10", "abc", "", " 0", "9" * 5000, "\u0664", "0.0"):
        entries = {"location": "weight.bin", "offset": text, "length": size}
        yield outside("external data with an odd offset", ascii(text)[:20], entries)
        entries = {"location": "weight.bin", "offset": "0", "length": text}
        yield outside("external data with an odd length", ascii(text)[:20], entries)
    yield outside(
        "external data of the wrong size",
        "short file",
        {"location": "weight.bin"},
        shorten,
    )


def others() -> Iterator[Case]:
    def twice(folder: Path) -> Path:
        model = network()
        weight = constant_of(model.graph, "weight")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="weight.bin")
        (folder / "weight.bin").write_bytes(bytes(SIZE))
        return _saved(model.SerializeToString(), folder)

    yield Case(kind="data twice", name="inside and outside", write=twice, mentions="weight")

    def keys(folder: Path) -> Path:
        model = network()
        weight = constant_of(model.graph, "weight")
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for location in ("weight.bin", "../secret.bin"):
            weight.external_data.add(key="location", value=location)
        (folder / "weight.bin").write_bytes(bytes(SIZE))
        return _saved(model.SerializeToString(), folder)

    yield Case(kind="external data key twice", name="location", write=keys, mentions="weight")

    def attribute(folder: Path) -> Path:
        model = network()
        inner = tensor("inner", [1.0])
        inner.ClearField("raw_data")
        inner.data_location = TensorProto.EXTERNAL
        inner.external_data.add(key="location", value="/etc/passwd")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["inner"], value=inner))
        return _saved(model.SerializeToString(), folder)

    yield Case(kind="external data of an attribute", name="Constant", write=attribute, exit_code=4, mentions="inner")


def _saved(data: bytes, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path
