"""Names and order: every value defined once, before it is read."""

from collections.abc import Iterable, Sequence

from onnx import GraphProto, NodeProto

from lowprec.errors import InvalidModel
from lowprec.frontend.naming import label, nearest, quote


def check_names(graph: GraphProto) -> None:
    """One definition per name: inputs, initializers, node outputs; no output listed twice."""
    _check_unique((info.name for info in graph.input), "input")
    _check_unique((tensor.name for tensor in graph.initializer), "initializer")
    _check_unique((info.name for info in graph.output), "output")
    stored = {tensor.name for tensor in graph.initializer}
    given = {info.name for info in graph.input}
    defined: dict[str, NodeProto] = {}
    for node in graph.node:
        for name in node.output:
            if not name:
                continue
            if name in defined:
                raise InvalidModel(
                    f"value {quote(name)} is defined twice: by {label(defined[name])} and by {label(node)}"
                )
            if name in given or name in stored:
                kind = "input" if name in given else "initializer"
                raise InvalidModel(f"{label(node)}: its output {quote(name)} is also an {kind} of the model")
            defined[name] = node


def _check_unique(names: Iterable[str], kind: str) -> None:
    seen: set[str] = set()
    for position, name in enumerate(names):
        if not name:
            raise InvalidModel(f"{kind} number {position} has no name")
        if name in seen:
            raise InvalidModel(f"{kind} {quote(name)} is there twice: names must be unique")
        seen.add(name)


def check_order(nodes: Sequence[NodeProto], known: set[str], *, where: str = "") -> None:
    """Every input defined before its node; what is not is a cycle, a wrong order, or a name that exists nowhere."""
    producers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    for index, node in enumerate(nodes):
        for name in node.input:
            if not name or name in known or producers.get(name, index) < index:
                continue
            if name not in producers:
                hint = nearest(name, known | producers.keys())
                raise InvalidModel(f"{label(node)}: input {quote(name)} is defined nowhere{where}{hint}")
            cycle = _cycle(nodes, producers, index)
            if cycle:
                raise InvalidModel(f"{label(node)}: it depends on itself, through {' <- '.join(map(quote, cycle))}")
            raise InvalidModel(
                f"{label(node)}: input {quote(name)} is computed only later, by {label(nodes[producers[name]])}; "
                f"nodes must be in order{where}"
            )


def _cycle(nodes: Sequence[NodeProto], producers: dict[str, int], start: int) -> list[str]:
    """Some names on a way from the node back to itself; none when there is no way."""
    came_from: dict[int, tuple[int, str]] = {}
    stack = [start]
    while stack:
        index = stack.pop()
        for name in nodes[index].input:
            before = producers.get(name)
            if before == start:
                return _way(came_from, index, name)
            if before is not None and before not in came_from:
                came_from[before] = (index, name)
                stack.append(before)
    return []


def _way(came_from: dict[int, tuple[int, str]], index: int, last: str) -> list[str]:
    names = [last]
    while index in came_from and len(names) < 8:
        index, name = came_from[index]
        names.append(name)
    return names[::-1]
