"""model.onnx on disk -> its structure parsed, its large weights left where they lie.

The file is scanned first: what is no ONNX model is refused by name, nodes and tensors are counted, and the payload of
every large initializer is cut out. Only the rest goes through protobuf and onnx's checker, so both stay cheap for a
model of any size, and a weight is read once, straight into its array.
"""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError, Message
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from lowprec.errors import InvalidModel, UsageError
from lowprec.frontend.crowding import check_crowding
from lowprec.frontend.limits import Limits, limits_for
from lowprec.frontend.naming import quote
from lowprec.frontend.wire import BYTES, Buffer, Field, Malformed, fields, read_varint, write_varint

MODEL_GRAPH, MODEL_FUNCTION, GRAPH_NODE, GRAPH_INITIALIZER = 7, 25, 1, 5
TENSOR_RAW, TENSOR_FLOATS, TENSOR_DOUBLES = 9, 4, 10
PACKED_FIELDS: dict[int, int] = {TensorProto.FLOAT: TENSOR_FLOATS, TensorProto.DOUBLE: TENSOR_DOUBLES}
LARGE = 4096

FOREIGN = (
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint, or a packed model): unpack or export it to ONNX"),
    (b"\x1f\x8b", "gzip data: unpack it first"),
    (b"BZh", "bzip2 data: unpack it first"),
    (b"\xfd7zXZ", "xz data: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstandard data: unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer, not the model: fetch it with `git lfs pull`"),
    (b"\x89HDF", "an HDF5 file (Keras): convert it to ONNX first"),
    (b"\x7fELF", "a machine-code library"),
    (b"\x89PNG", "a picture"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80\x02", "a Python pickle (a PyTorch checkpoint?): export it to ONNX first"),
    (b"\x80\x04", "a Python pickle (a PyTorch checkpoint?): export it to ONNX first"),
)
TEXT = (b"{", b"[", b"<", b"#", b"ir_version", b"graph", b"import", b"opset_import", b"//", b"---")


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Where raw bytes lie: `path` from `offset` for `length` bytes; `folder` if that is not the model's file."""

    path: Path
    offset: int
    length: int
    folder: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model as read: `proto` without the bytes of the initializers that are in `payloads` (keys are names)."""

    path: Path
    proto: ModelProto
    payloads: dict[str, Payload]
    file_bytes: int
    limits: Limits


@dataclass(slots=True)
class _Skeleton:
    """What the scan keeps: spans of the file, with new length prefixes between them."""

    pieces: list[bytes]
    parts: list[tuple[type[Message], str, int, int]]
    cut: dict[int, tuple[int, int]]


def read_model(path: Path, limits: Limits | None) -> Source:
    """The structure of the model at `path`, and where its weights are."""
    path = Path(os.path.abspath(path))
    size = _size(path)
    limits = limits or limits_for(size)
    with path.open("rb") as file:
        _refuse_foreign(path, file.read(64))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            skeleton, proto = _parse(path, data, size, limits)
    payloads = {}
    for index, (offset, length) in skeleton.cut.items():
        tensor = proto.graph.initializer[index]
        if tensor.name in payloads:
            raise InvalidModel(f"initializer {quote(tensor.name)} is defined twice: names must be unique")
        payloads[tensor.name] = Payload(path=path, offset=offset, length=length)
    return Source(path=path, proto=proto, payloads=payloads, file_bytes=size, limits=limits)


def _size(path: Path) -> int:
    if not path.exists():
        raise UsageError(f"no such file: {path}: give the path of an ONNX model")
    if not path.is_file():
        raise UsageError(f"{path} is not a file: give the path of an ONNX model")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read: check its permissions")
    size = path.stat().st_size
    if size == 0:
        raise InvalidModel(f"{path.name} is empty: an ONNX model was expected")
    return size


def _refuse_foreign(path: Path, head: bytes) -> None:
    for magic, what in FOREIGN:
        if head.startswith(magic):
            raise InvalidModel(f"{path.name} is {what}; an ONNX model (binary protobuf) was expected")
    if head[4:8] == b"TFL3":
        raise InvalidModel(f"{path.name} is a TensorFlow Lite model; convert it to ONNX first")
    text = head.lstrip(b" \t\r\n\xef\xbb\xbf")
    if text.startswith(TEXT) and text.isascii() and not (set(text) & set(range(9))):
        raise InvalidModel(f"{path.name} is text; an ONNX model (binary protobuf) was expected: convert it first")


def _parse(path: Path, data: Buffer, size: int, limits: Limits) -> tuple[_Skeleton, ModelProto]:
    try:
        skeleton = _scan(data, size, limits)
    except Malformed as error:
        raise InvalidModel(f"{path.name} is not an ONNX model, or is cut short: {error}") from error
    total = sum(map(len, skeleton.pieces))
    if total > limits.structure_bytes:
        raise InvalidModel(f"{path.name}: {total} bytes beside its weights; at most {limits.structure_bytes} are read")
    proto = ModelProto()
    try:
        proto.ParseFromString(b"".join(skeleton.pieces))
    except (DecodeError, UnicodeDecodeError) as error:
        raise InvalidModel(f"{path.name} is damaged: {_damaged_part(skeleton, data)}") from error
    return skeleton, proto


def _scan(data: Buffer, size: int, limits: Limits) -> _Skeleton:
    """Walks the model's and the graph's own fields and each initializer's, nothing below."""
    skeleton = _Skeleton(pieces=[], parts=[], cut={})
    graphs = 0
    for count, field in enumerate(fields(data, 0, size)):
        if count > limits.items:
            raise Malformed(f"it has more than {limits.items} top-level fields")
        if field.number == MODEL_GRAPH and field.kind == BYTES:
            graphs += 1
            if graphs > 1:
                raise Malformed("it holds more than one graph")
            inner = _scan_graph(data, field, skeleton, limits)
            skeleton.pieces += [_prefix(MODEL_GRAPH, sum(map(len, inner))), *inner]
            continue
        if field.number == MODEL_FUNCTION and field.kind == BYTES:
            skeleton.parts.append((FunctionProto, "function", field.start, field.end))
            _check_crowding(data, "function number", "function", field, skeleton, limits)
        skeleton.pieces.append(_take(data, field.tag, field.end))
    if not graphs:
        raise Malformed("it holds no graph")
    return skeleton


def _scan_graph(data: Buffer, graph: Field, skeleton: _Skeleton, limits: Limits) -> list[bytes]:
    pieces: list[bytes] = []
    nodes = initializers = 0
    kinds: dict[int, tuple[type[Message], str, str]] = {
        GRAPH_NODE: (NodeProto, "node", "node"),
        GRAPH_INITIALIZER: (TensorProto, "initializer", ""),
        11: (ValueInfoProto, "input", "value"),
        12: (ValueInfoProto, "output", "value"),
        13: (ValueInfoProto, "value", "value"),
    }
    for count, field in enumerate(fields(data, graph.start, graph.end)):
        if count > limits.items:
            raise InvalidModel(f"the graph has more than {limits.items} nodes, tensors and declarations")
        if field.number in kinds and field.kind == BYTES:
            kind, word, message = kinds[field.number]
            skeleton.parts.append((kind, word, field.start, field.end))
            if message:
                _check_crowding(data, f"{word} number", message, field, skeleton, limits)
        nodes += field.number == GRAPH_NODE
        if nodes > limits.nodes:
            raise InvalidModel(f"the graph has more than {limits.nodes} nodes, the most that is accepted")
        if field.number != GRAPH_INITIALIZER or field.kind != BYTES:
            pieces.append(_take(data, field.tag, field.end))
            continue
        if field.end - field.start < LARGE:
            pieces.append(_take(data, field.tag, field.end))
        else:
            pieces += _scan_initializer(data, field, initializers, skeleton, limits)
        initializers += 1
    return pieces


def _scan_initializer(data: Buffer, tensor: Field, index: int, skeleton: _Skeleton, limits: Limits) -> list[bytes]:
    """The tensor's fields without its bytes, which are remembered by the initializer's index."""
    kept: list[Field] = []
    raw: list[Field] = []
    for count, field in enumerate(fields(data, tensor.start, tensor.end)):
        if count > limits.items:
            raise Malformed(f"initializer {index} has more than {limits.items} fields")
        (raw if field.number == TENSOR_RAW and field.kind == BYTES else kept).append(field)
    if len(raw) > 1:
        raise Malformed(f"initializer {index} has its bytes twice")
    if not raw:
        raw = _packed(data, kept)
    if raw:
        skeleton.cut[index] = (raw[0].start, raw[0].end - raw[0].start)
    pieces = [_take(data, field.tag, field.end) for field in kept if field not in raw]
    return [_prefix(GRAPH_INITIALIZER, sum(map(len, pieces))), *pieces]


def _packed(data: Buffer, kept: list[Field]) -> list[Field]:
    """Packed floats or doubles have the very bytes of raw data: the one field that holds them, if there is just one."""
    types = [read_varint(data, field.start, field.end)[0] for field in kept if field.number == 2 and field.kind == 0]
    wanted = PACKED_FIELDS.get(types[0]) if len(types) == 1 else None
    found = [field for field in kept if field.number == wanted]
    return found if len(found) == 1 and found[0].kind == BYTES else []


def _check_crowding(data: Buffer, what: str, kind: str, field: Field, skeleton: _Skeleton, limits: Limits) -> None:
    try:
        check_crowding(data, kind, field.start, field.end, limits.items)
    except Malformed as error:
        index = sum(word == what.split()[0] for _, word, _, _ in skeleton.parts) - 1
        raise InvalidModel(f"{what} {index} (bytes {field.start} to {field.end}) is malformed: {error}") from error


def _prefix(number: int, length: int) -> bytes:
    return write_varint(number << 3 | BYTES) + write_varint(length)


def _take(data: Buffer, start: int, end: int) -> bytes:
    return bytes(data[start:end])  # type: ignore[index]


def _damaged_part(skeleton: _Skeleton, data: Buffer) -> str:
    """Which node, tensor or declaration the parser choked on."""
    seen: dict[str, int] = {}
    for kind, word, start, end in skeleton.parts:
        index = seen.get(word, 0)
        seen[word] = index + 1
        try:
            kind.FromString(_take(data, start, end))
        except (DecodeError, UnicodeDecodeError):
            return f"{word} number {index} (bytes {start} to {end}) is malformed, or nested more than 100 deep"
    return "its header is malformed"
