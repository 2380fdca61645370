"""Who reads a value: what a rewrite must know before it removes one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowprec.frontend.graph import Array, Graph, Node
from lowprec.frontend.scopes import unused


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """The readers of each value (a node that reads it twice counts twice), and the model's output names."""

    readers: Mapping[str, Sequence[Node]]
    outputs: frozenset[str]

    def only_reader(self, name: str) -> Node | None:
        """The one node that reads `name`, if there is just one and nobody outside sees it."""
        readers = self.readers.get(name, ())
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def uses_of(graph: Graph) -> Uses:
    """The graph's uses as it stands."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            if name:
                readers.setdefault(name, []).append(node)
    return Uses(readers=readers, outputs=frozenset(spec.name for spec in graph.outputs))


def fresh(name: str, graph: Graph, constants: Mapping[str, Array]) -> str:
    """A name near `name` that no value of the graph has."""
    return unused(name, {*graph.types, *constants} if name in graph.types or name in constants else set())
