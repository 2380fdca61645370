"""The end of the walk: outputs that exist, constants among them exposed, the graph put together."""

from collections.abc import Sequence
from dataclasses import replace

from onnx import GraphProto

from lowprec.errors import InvalidModel, Unsupported
from lowprec.frontend.graph import Graph, Node, TensorSpec
from lowprec.frontend.naming import quote
from lowprec.frontend.progress import Walk
from lowprec.frontend.scopes import unused


def finish(graph: GraphProto, inputs: Sequence[TensorSpec], state: Walk) -> Graph:
    """What was gathered, as a `Graph`."""
    outputs = []
    for info in graph.output:
        spec = state.types.get(info.name)
        if spec is None:
            if info.name in state.untyped:
                raise Unsupported(f"output {quote(info.name)}: its shape is known only when the model runs")
            raise InvalidModel(f"output {quote(info.name)} is computed by no node")
        outputs.append(spec)
    stored = _expose_constants([spec for spec in outputs if spec.name in state.constants], state)
    nodes = (replace(node, inputs=tuple(stored.get(name, name) for name in node.inputs)) for node in state.nodes)
    return Graph(
        name=graph.name,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        nodes=(*(_identity(output, constant) for output, constant in stored.items()), *nodes),
        constants=state.constants,
        types=state.types,
        dequantized=state.dequantized,
    )


def _expose_constants(outputs: Sequence[TensorSpec], state: Walk) -> dict[str, str]:
    """Outputs that turned out constant: each becomes the Identity of a constant of another name, which is returned."""
    stored = {}
    for spec in outputs:
        name = unused(f"{spec.name}/constant", state.taken)
        state.taken.add(name)
        state.constants[name] = state.constants.pop(spec.name)
        state.types[name] = replace(spec, name=name)
        stored[spec.name] = name
    return stored


def _identity(output: str, constant: str) -> Node:
    return Node(op="Identity", inputs=(constant,), outputs=(output,), layer=output, version=14)
