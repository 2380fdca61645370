"""What a model is and what would be done with it, without compiling: the child's tasks `inspect` and `plan`."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lowprec.convolution import Conv
from lowprec.frontend.graph import Graph
from lowprec.frontend.layering import layers_of
from lowprec.isolation import Notify
from lowprec.plan import Plan, make_plan
from lowprec.precision import Prepared, sketch
from lowprec.recipe import Recipe
from lowprec.records import Records, environment_of, times_in
from lowprec.targets import available_cores, parse_target


def inspect_task(_request: Mapping[str, Any], graph: Graph, _notify: Notify) -> dict[str, Any]:
    """The model's inputs, outputs and layers with their costs."""
    return {
        "name": graph.name,
        "inputs": [asdict(spec) for spec in graph.inputs],
        "outputs": [asdict(spec) for spec in graph.outputs],
        "layers": [layer.to_json() for layer in layers_of(graph)],
    }


def plan_task(request: Mapping[str, Any], graph: Graph, _notify: Notify) -> dict[str, Any]:
    """The plan, as JSON."""
    return plan_for(sketch(graph, request), request).to_json()


def plan_for(prepared: Prepared, request: Mapping[str, Any]) -> Plan:
    """The plan of a graph in its precision, under the request's options."""
    target = parse_target(request["target"])
    layers = [replace(layer, words=prepared.words.get(layer.name, layer.words)) for layer in layers_of(prepared.graph)]
    measured = None
    if request.get("records"):
        convs = {layer.geometry for layer in layers if isinstance(layer.geometry, Conv)}
        with Records(Path(request["records"]), must_exist=True) as store:
            measured = times_in(store, convs, environment_of(target, request.get("threads") or available_cores()))
    plan = make_plan(
        layers,
        recipe=Recipe.from_json(request["recipe"]),
        algorithm=request["algorithm"],
        precision=request["precision"],
        target=target,
        measured=measured,
    )
    return plan.staying(request["precision"], prepared.declined).noting(prepared.notes)
