"""A checked graph -> a library and its weights: convert, rewrite, lower, build.

Graph -> Relax -> channels last -> units -> padding in producers -> kernels -> library
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvm import IRModule

from lowprec import storage
from lowprec.artifact import Artifact, load
from lowprec.building import build_library
from lowprec.choosing import DIRECT
from lowprec.convolution import Conv
from lowprec.format_names import AUTO, FLOAT
from lowprec.frontend.convert import to_relax
from lowprec.frontend.graph import Graph
from lowprec.frontend.guards import guards_of
from lowprec.frontend.integers import to_integers
from lowprec.frontend.layering import layers_of
from lowprec.frontend.randomness import draws
from lowprec.inspection import plan_for
from lowprec.isolation import Notify
from lowprec.layers import Cost, Layer
from lowprec.manifest import CallSpec, Manifest, ModelSource, ProbeSpec, TargetNeeds, current_versions
from lowprec.observing import observed, samples_of, silent
from lowprec.passes import PASSES
from lowprec.passes.alignment import ANYWHERE
from lowprec.passes.channels_last import leaving_planes
from lowprec.passes.editing import Array
from lowprec.passes.lowering import LoweredCall, lower_units
from lowprec.passes.narrowing import narrow_bfloats
from lowprec.passes.probes import Probe, add_probes
from lowprec.passes.templates import Wish
from lowprec.passes.tiled_signs import signs_in_bytes
from lowprec.plan import Plan
from lowprec.precision import Prepared, prepare
from lowprec.predicting_planes import may_lie_as_planes
from lowprec.searching import search
from lowprec.seen import Question, Seen
from lowprec.targets import Target, available_cores, parse_target, runnable

_FLOAT_BYTES = 4

PASSING = ("out", "probe", "command", "model", "calibration")
"""Of a request, what does not belong to the artifact's options: of samples, the ranges do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What compiling a graph gives, before it is an artifact; `plan` is the one that was carried out."""

    plan: Plan
    weights: tuple[Array, ...]
    calls: tuple[LoweredCall, ...]
    probes: tuple[Probe, ...]


def compile_graph(
    graph: Graph, target: Target, plan: Plan, *, threads: int, library: Path, probe: bool = False
) -> Built:
    """Build the graph's library at `library`; with `probe`, every unit's result is an output as well."""
    module = signs_in_bytes(to_relax(to_integers(graph)), target)
    module = rewrite(leaving_planes(module, _planes(graph, plan, target)))
    probes: tuple[Probe, ...] = ()
    if probe:
        module, probes = add_probes(module)
    wishes = {
        choice.layer: Wish(algorithm=choice.algorithm, sizes=choice.sizes, threads=threads) for choice in plan.choices
    }
    lowered = lower_units(narrow_bfloats(module, target, wishes), target, wishes)
    build_library(lowered.module, lowered.kernels, target, threads=threads, path=library)
    carried_out = plan.declining(lowered.declined).retreating(lowered.retreats)
    return Built(plan=carried_out, weights=lowered.weights, calls=lowered.calls, probes=probes)


def _planes(graph: Graph, plan: Plan, target: Target) -> list[str]:
    """The layers whose images stay as they lie."""
    direct = {choice.layer for choice in plan.choices if choice.algorithm == DIRECT}
    return [layer.name for layer in layers_of(graph) if layer.name in direct and may_lie_as_planes(layer, target)]


def rewrite(module: IRModule) -> IRModule:
    """Every pass, in order."""
    for rewrite_pass in PASSES:
        module = rewrite_pass(module)
    return module


def compile_task(request: Mapping[str, Any], graph: Graph, notify: Notify = silent) -> dict[str, Any]:
    """The child's task `compile`: an artifact at request["out"]."""
    target = parse_target(request["target"])
    if request["precision"] == AUTO and "search" not in request:
        request = _searched(request, graph, notify)
    prepared = prepared_for(request, graph, notify)
    graph = prepared.graph
    if prepared.seen is not None:
        request = {**request, **prepared.seen.to_json()}
    plan = plan_for(prepared, request)
    threads = request.get("threads")
    with tempfile.TemporaryDirectory(prefix="lowprec-build-") as folder:
        library = Path(folder) / "model.so"
        built = compile_graph(
            graph,
            target,
            plan,
            threads=threads or available_cores(),
            library=library,
            probe=bool(request.get("probe")),
        )
        storage.write(request["out"], library, built.weights, _manifest(request, graph, target, built))
    counts = {"kernels": len({call.symbol for call in built.calls}), "calls": len(built.calls)}
    return {**counts, "warning": prepared.warning}


def _searched(request: Mapping[str, Any], graph: Graph, notify: Notify) -> Mapping[str, Any]:
    """The request with the recipe that a search found for it."""
    runnable(parse_target(request["target"]))

    def build(changes: Mapping[str, Any], directory: Path) -> Artifact:
        compile_task({**changes, "out": str(directory), "probe": False, "command": ""}, graph)
        return load(directory, request.get("threads"))

    def observe(watched: Graph, question: Question) -> Seen:
        return _observe(watched, question, request, notify)

    found = search(graph, request, build, observe, samples_of(request, graph.inputs), notify)
    seen = {"ranges": None} if found.seen is None else found.seen.to_json()
    return {**request, "recipe": found.recipe.to_json(), **seen, "search": found.record}


def prepared_for(request: Mapping[str, Any], graph: Graph, notify: Notify = silent) -> Prepared:
    """The graph in the request's precision, by what it carries or what its samples show."""
    return prepare(graph, request, lambda watched, question: _observe(watched, question, request, notify))


def _observe(graph: Graph, question: Question, request: Mapping[str, Any], notify: Notify = silent) -> Seen:
    """What is seen in a float32 build for this machine."""
    own = {**request, "precision": FLOAT, "target": "native", "algorithm": "auto", "recipe": [], "records": None}

    def build(watched: Graph, directory: Path) -> None:
        compile_task({**own, "out": str(directory), "probe": False, "command": ""}, watched)

    return observed(graph, question, samples_of(request, graph.inputs), build, notify)


def _manifest(request: Mapping[str, Any], graph: Graph, target: Target, built: Built) -> Manifest:
    return Manifest(
        inputs=graph.inputs,
        outputs=graph.outputs,
        plan=built.plan,
        options={key: value for key, value in request.items() if key not in PASSING},
        target=TargetNeeds(name=target.name, arch=target.arch, features=target.required_features),
        versions=current_versions(),
        calls=_call_specs(graph, built.calls),
        model=ModelSource(path=request["model"], sha256=storage.sha256(Path(request["model"]))),
        command=request["command"],
        seed=request["seed"],
        threads=request.get("threads"),
        stochastic=draws(graph),
        input_alignment=ANYWHERE,
        probes=tuple(map(_probe_spec, built.probes)),
        guards=guards_of(graph),
    )


def _call_specs(graph: Graph, calls: Sequence[LoweredCall]) -> tuple[CallSpec, ...]:
    layers = {layer.name: layer for layer in layers_of(graph)}
    return tuple(
        CallSpec(
            symbol=call.symbol,
            layer=call.layer,
            op="+".join(call.operators),
            output=call.output,
            family=call.family,
            cost=_modelled(call.cost, layers.get(call.layer)),
        )
        for call in calls
    )


def _modelled(cost: Cost, layer: Layer | None) -> Cost:
    """A transposed convolution runs as a plain one whose weights are partly zero: its cost is the model's."""
    match layer:
        case Layer(geometry=Conv(transposed=True, macs=macs), parameters=parameters):
            weight_bytes = min(cost.weight_bytes, _FLOAT_BYTES * parameters)
            return replace(cost, macs=min(cost.macs, macs), weight_bytes=weight_bytes)
    return cost


def _probe_spec(probe: Probe) -> ProbeSpec:
    return ProbeSpec(tensor=probe.tensor, layer=probe.layer, axes=probe.axes, crop=probe.crop)
