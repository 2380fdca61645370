"""How much a message holds, counted on its bytes: protobuf turns 60 MB of two-byte fields into gigabytes.

Descends only where ONNX nests (node, attribute, graph, tensor, type), so the payload of a tensor is one field.
"""

from collections.abc import Mapping

from lowprec.frontend.wire import BYTES, Buffer, Malformed, fields

CHILDREN: Mapping[str, Mapping[int, str]] = {
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "function": {7: "node", 11: "attribute", 12: "value"},
    "tensor": {},
    "value": {2: "type"},
    "type": {1: "tensor type", 4: "sequence type", 5: "map type", 9: "sequence type"},
    "sequence type": {1: "type"},
    "map type": {2: "type"},
    "tensor type": {2: "shape"},
    "shape": {},
}
"""For each kind of message, the kinds of its fields (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto)."""

SMALL = 4096
"""Messages of fewer bytes cannot hold too much."""
DEEPEST = 90
"""Nested messages; protobuf itself stops at 100."""


def check_crowding(data: Buffer, kind: str, start: int, end: int, most: int) -> None:
    """Raises `Malformed` when the message at data[start:end] holds more than `most` fields, or nests too deep."""
    count = 0
    stack = [(kind, start, end, 0)]
    while stack:
        kind, start, end, depth = stack.pop()
        if end - start < SMALL and depth == 0:
            continue
        if depth > DEEPEST:
            raise Malformed(f"it is nested more than {DEEPEST} messages deep")
        children = CHILDREN[kind]
        for field in fields(data, start, end):
            count += 1
            if count > most:
                raise Malformed(f"it has more than {most} fields")
            child = children.get(field.number) if field.kind == BYTES else None
            if child is not None:
                stack.append((child, field.start, field.end, depth + 1))
