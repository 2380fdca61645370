"""What a model is and what would be done with it, without compiling: the child's tasks `inspect` and `plan`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lowprec.frontend.graph import Graph
from lowprec.frontend.layering import layers_of
from lowprec.plan import Plan, make_plan
from lowprec.recipe import Recipe
from lowprec.targets import parse_target


def inspect_task(_request: Mapping[str, Any], graph: Graph) -> dict[str, Any]:
    """The model's inputs, outputs and layers with their costs."""
    return {
        "name": graph.name,
        "inputs": [asdict(spec) for spec in graph.inputs],
        "outputs": [asdict(spec) for spec in graph.outputs],
        "layers": [layer.to_json() for layer in layers_of(graph)],
    }


def plan_task(request: Mapping[str, Any], graph: Graph) -> dict[str, Any]:
    """The plan, as JSON."""
    return plan_for(graph, request).to_json()


def plan_for(graph: Graph, request: Mapping[str, Any]) -> Plan:
    """The plan of a graph under the request's options."""
    return make_plan(
        layers_of(graph),
        recipe=Recipe.from_json(request["recipe"]),
        algorithm=request["algorithm"],
        precision=request["precision"],
        target=parse_target(request["target"]),
    )
