"""How messages name things: one line, printable, short, whatever bytes a hostile file put into a name."""

import difflib
from collections.abc import Iterable

from onnx import NodeProto

LONGEST = 120


def quote(name: str) -> str:
    """A name between quotes, its control characters escaped, its middle cut when it is very long."""
    printable = ascii(name)[1:-1] if not name.isprintable() else name
    if len(printable) > LONGEST:
        printable = f"{printable[: LONGEST // 2]}...{printable[-LONGEST // 2 :]}"
    return f"'{printable}'"


def one_line(text: str, longest: int = 400) -> str:
    """Somebody else's message (onnx's checker, protobuf) on one printable line."""
    line = " ".join(text.split())
    line = line if line.isprintable() else ascii(line)[1:-1]
    return line if len(line) <= longest else f"{line[:longest]}..."


def label(node: NodeProto) -> str:
    """`Conv node 'conv1' (output 'conv1_1')`: the node's own name where it has one, and always its first output."""
    output = next((name for name in node.output if name), "")
    operator = one_line(node.op_type, 60) or "nameless-operator"
    if node.name and node.name != output:
        return f"{operator} node {quote(node.name)} (output {quote(output)})"
    return f"{operator} node {quote(output)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'data_0'?)`, or nothing when no known name is close."""
    if len(name) > LONGEST:
        return ""
    found = difflib.get_close_matches(name, [item for item in known if len(item) <= LONGEST][:2000], n=1, cutoff=0.4)
    return f" (did you mean {quote(found[0])}?)" if found else ""
