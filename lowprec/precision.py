"""A graph in the formats that were asked for: a precision's, and a recipe's for single layers.

Formats come one after the other: binary layers, then those of integers, then narrow floats; each rounds what its own
layers read and give, and leaves the others alone.

Ranges are those that the request carries, or else seen on calibration samples; whoever only plans needs none, since
what is rounded does not depend on them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lowprec.errors import Unsupported, UsageError
from lowprec.format_names import BINARY, BINARY_WEIGHTS, FLOAT, INT8, UNROUNDED, base_of, takes_ranges
from lowprec.formats import Fixed, Int, parse_format
from lowprec.frontend.binarization import LAYERS as BINARY_LAYERS
from lowprec.frontend.binarization import binarize, binarize_weights, is_nearly_binary
from lowprec.frontend.graph import Graph, Node
from lowprec.frontend.integer_layers import LAYERS as PRODUCTS
from lowprec.frontend.naming import quote
from lowprec.frontend.narrow_floats import FORMATS as NARROW_FLOATS
from lowprec.frontend.narrow_floats import NarrowFloat, narrow_floats
from lowprec.frontend.quantization import (
    QuantizationOptions,
    inputs_to_average,
    quantize_graph,
    saturated_weights,
    tensors_to_observe,
)
from lowprec.frontend.quantized_tensors import RECTIFIED
from lowprec.frontend.randomness import Draws
from lowprec.frontend.schemes import BYTES as EIGHT_BITS
from lowprec.frontend.schemes import FixedPoint, Scheme
from lowprec.frontend.uses import uses_of
from lowprec.ranges import Method
from lowprec.recipe import Recipe
from lowprec.seen import Question, Seen
from lowprec.vocabulary import LITERAL, NEAREST, STOCHASTIC

BYTES = Int(8, signed=False)
BYTE_SCALES = tuple(map(str, Method))
WORD_SCALES = (LITERAL, str(Method.MINMAX), str(Method.PERCENTILE))
"""Ways to find scales that fit bytes, and qI.F."""
DRAWN = "rounded stochastically"
"""What there is to say of a layer."""
Observe = Callable[[Graph, Question], Seen]
"""What samples show of a graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`graph` as it is compiled, by what was `seen`; `declined` says of layers that stay in float why they do, `notes`
    what else there is to say of layers, `warning` what of the whole. `formats` are those that products have got,
    `words` the types of weights, activations and sums of layers where the graph alone does not show them."""

    graph: Graph
    seen: Seen | None = None
    declined: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    warning: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)


def prepare(graph: Graph, request: Mapping[str, Any], observe: Observe) -> Prepared:
    """The graph, each of its products in the format that a request wishes for it."""
    wishes = layer_formats(graph, request)
    base = base_of(request["precision"])
    work = _Work(graph=graph, wishes=wishes, base=base, draws=draws_of(graph, request))
    wished = set(wishes.values())
    integer = sorted(filter(takes_ranges, wished))
    if len(integer) > 1:
        raise Unsupported(f"a recipe has layers in {' and '.join(integer)}: one network takes one format of integers")
    if BINARY_WEIGHTS in wished:
        work.binary_weights()
    if BINARY in wished:
        work.binary()
    for name in integer:
        work.integers(name, request, observe)
    for name in sorted(wished & NARROW_FLOATS.keys()):
        work.narrow(NARROW_FLOATS[name])
    return work.prepared()


def layer_formats(graph: Graph, request: Mapping[str, Any]) -> dict[str, str]:
    """The format that a request wishes for each product: its recipe's, or else the precision's."""
    recipe, base = Recipe.from_json(request.get("recipe") or []), base_of(request["precision"])
    layers = [node for node in graph.nodes if node.op in PRODUCTS and not node.domain]
    return {node.layer: _wish(node, recipe) or base for node in layers}


def draws_of(graph: Graph, request: Mapping[str, Any]) -> Draws:
    """What rounds stochastically: by its recipe, or else as the request says."""
    base = request.get("rounding", NEAREST)
    roundings = {layer: setting or base for layer, setting in _settings(graph, request, "rounding").items()}
    drawing = frozenset(layer for layer, rounding in roundings.items() if rounding == STOCHASTIC)
    return Draws(seed=int(request.get("seed", 0)), layers=drawing)


def scales_of(graph: Graph, request: Mapping[str, Any], name: str) -> dict[str, str]:
    """What a recipe says of how scales are found, by layer or input; refused where it is not for the format `name`."""
    found = {layer: scale for layer, scale in _settings(graph, request, "scale").items() if scale is not None}
    allowed = BYTE_SCALES if name == INT8 else WORD_SCALES
    for scale in found.values():
        if scale not in allowed:
            others = ", ".join(map(repr, allowed))
            raise UsageError(f"a recipe's scale is {scale!r}, and the format {name}, which takes {others}")
    return found


def methods_for(graph: Graph, tensors: Iterable[str], scales: Mapping[str, str], name: str) -> dict[str, Method]:
    """How the range of each tensor is found: as `scales` has it for its layer, or as is usual for the format `name`."""
    usual = Method.MSE if name == INT8 else Method.MINMAX
    layers = {result: node.layer for node in graph.nodes for result in node.outputs}
    wished = {tensor: scales.get(layers.get(tensor, tensor), LITERAL) for tensor in tensors}
    return {tensor: usual if wish == LITERAL else Method(wish) for tensor, wish in wished.items()}


def _settings(graph: Graph, request: Mapping[str, Any], name: str) -> dict[str, str | None]:
    """What a recipe says of each layer, and of inputs by their names; of a layer that rectifies a sum or a product,
    what it says of that: the result is rounded there."""
    recipe, uses = Recipe.from_json(request.get("recipe") or []), uses_of(graph)
    found = {spec.name: recipe.setting(name, spec.name, "") for spec in graph.inputs}
    for node in graph.nodes:
        found[node.layer] = found.get(node.layer) or recipe.setting(name, node.layer, node.op)
        reader = uses.only_reader(node.outputs[0])
        if node.op in RECTIFIED and reader is not None and reader.op in ("Relu", "Clip"):
            found[reader.layer] = found[node.layer]
    return found


def _wish(node: Node, recipe: Recipe) -> str | None:
    """What a recipe says of a layer: of weights, of activations, or the same of both."""
    weights, activations = (recipe.setting(name, node.layer, node.op) for name in ("weights", "activations"))
    if (weights, activations) == (BINARY, FLOAT):
        return BINARY_WEIGHTS
    if weights and activations and weights != activations:
        raise UsageError(
            f"layer {quote(node.layer)} has weights in {weights} and activations in {activations}: products are of one "
            f"format; only {BINARY} weights go with activations in {FLOAT}"
        )
    return weights or activations


@dataclass(slots=True, kw_only=True)
class _Work:
    """The graph under way, from the `wishes` of layers; other fields as in `Prepared`."""

    graph: Graph
    wishes: Mapping[str, str]
    base: str
    draws: Draws
    seen: Seen | None = None
    declined: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    warning: str = ""
    words: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def prepared(self) -> Prepared:
        return Prepared(
            graph=self.graph,
            seen=self.seen,
            declined=self.declined,
            notes=self.notes | {layer: "; ".join((*self._note(layer), DRAWN)) for layer in self._drawing()},
            warning=self.warning,
            formats={layer: FLOAT if layer in self.declined else wish for layer, wish in self.wishes.items()},
            words=self.words,
        )

    def _drawing(self) -> set[str]:
        """The products that round stochastically."""
        rounding = {layer for layer, wish in self.wishes.items() if wish not in UNROUNDED}
        return (rounding & self.draws.layers) - self.declined.keys()

    def _note(self, layer: str) -> tuple[str, ...]:
        return (self.notes[layer],) if layer in self.notes else ()

    def binary_weights(self) -> None:
        """Signs and factors by float32."""
        layers = self._wishing(BINARY_WEIGHTS)
        self.graph, declined = binarize_weights(self.graph, layers)
        self._decline(declined, BINARY_WEIGHTS)
        self.words |= dict.fromkeys(layers - declined.keys(), (BINARY, FLOAT, FLOAT))

    def binary(self) -> None:
        before, skip = self.graph, self._others(BINARY)
        self.graph, declined = binarize(before, skip, ends=self.base != BINARY)
        self.warning = _untrained(before, declined)
        self._decline(declined, BINARY)

    def integers(self, name: str, request: Mapping[str, Any], observe: Observe) -> None:
        given = Seen.from_json(request)
        literal = request.get("calibration") is None and not (given and given.ranges)
        scheme = scheme_of(name, literal=literal)
        scales = scales_of(self.graph, request, name)
        seeing = next((scale for scale in scales.values() if scale != LITERAL), None)
        if seeing is not None and scheme.literal:
            raise UsageError(f"a recipe's scale {seeing!r} is found on samples, and there are none: give calibration")
        unscaled = frozenset(layer for layer, scale in scales.items() if scale == LITERAL)
        options = QuantizationOptions(scheme=scheme, skip=self._others(name), draws=self.draws, unscaled=unscaled)
        if given is None:
            methods = methods_for(self.graph, tensors_to_observe(self.graph, options), scales, name)
            averages = inputs_to_average(self.graph, options)
            given = observe(self.graph, Question(methods=methods, averages=averages))
        self.seen = given
        self.notes |= _saturating(self.graph, options)
        self.graph, declined = quantize_graph(self.graph, given.ranges, options, means=given.means)
        self._decline(declined, name)

    def narrow(self, fmt: NarrowFloat) -> None:
        self.graph, declined = narrow_floats(self.graph, fmt, self._others(fmt.name), self.draws)
        self._decline(declined, fmt.name)
        layers = self._wishing(fmt.name) - declined.keys()
        self.words |= dict.fromkeys(layers, (fmt.name, fmt.name, FLOAT))

    def _wishing(self, fmt: str) -> set[str]:
        return {layer for layer, wish in self.wishes.items() if wish == fmt}

    def _others(self, fmt: str) -> frozenset[str]:
        return frozenset(layer for layer, wish in self.wishes.items() if wish != fmt)

    def _decline(self, reasons: Mapping[str, str], fmt: str) -> None:
        """Of reasons those count that keep a layer from what it should have been, or from what all others are."""
        for layer, reason in reasons.items():
            wish = self.wishes.get(layer, self.base)
            if wish == fmt or (wish == FLOAT and fmt == self.base):
                self.declined[layer] = reason


def _untrained(graph: Graph, declined: Mapping[str, str]) -> str:
    """Whether weights lose more than the last bits of their magnitude by becoming binary."""
    layers = [node for node in graph.nodes if node.op in BINARY_LAYERS and node.layer not in declined]
    changed = [node.layer for node in layers if not is_nearly_binary(graph.constants[node.inputs[1]], node)]
    if not changed:
        return ""
    count = f"{len(changed)} of {len(layers)} binary layers"
    return f"the weights of {count} are not -a and +a: the model was not trained so, and its answers will be others"


def scheme_of(precision: str, *, literal: bool) -> Scheme:
    """How a precision of integers makes words of numbers; fixed point without samples is literal."""
    fmt = parse_format(precision) if precision != "int8" else None
    return FixedPoint(format=fmt, literal=literal) if isinstance(fmt, Fixed) else EIGHT_BITS


def _saturating(graph: Graph, options: QuantizationOptions) -> dict[str, str]:
    """The share of each layer's weights that codes do not reach."""
    shares = saturated_weights(graph, options)
    return {layer: f"{share:.2g} of its weights saturate" for layer, share in shares.items() if share}


def sketch(graph: Graph, request: Mapping[str, Any]) -> Prepared:
    """As `prepare`, for whoever looks at layers and formats alone."""

    def observe(_graph: Graph, question: Question) -> Seen:
        return Seen(ranges=dict.fromkeys(question.methods, (-1.0, 1.0)))

    return prepare(graph, {**request, "ranges": None}, observe)
