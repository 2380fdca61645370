"""A graph in the precision that was asked for: the model's own, or quantized by the ranges of its tensors.

Ranges are those that the request carries, or else seen on calibration samples; whoever only plans needs none, since
what is rounded does not depend on them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lowprec.formats import Fixed, Int, parse_format
from lowprec.frontend.binarization import LAYERS as BINARY_LAYERS
from lowprec.frontend.binarization import binarize, is_nearly_binary
from lowprec.frontend.graph import Graph
from lowprec.frontend.integer_layers import LAYERS as QUANTIZED_LAYERS
from lowprec.frontend.quantization import QuantizationOptions, quantize_graph, saturated_weights, tensors_to_observe
from lowprec.frontend.schemes import BYTES as EIGHT_BITS
from lowprec.frontend.schemes import FixedPoint, Scheme
from lowprec.ranges import Method, Range
from lowprec.recipe import Recipe

FLOAT = "fp32"
BINARY = "binary"
BYTES = Int(8, signed=False)
Ranges = Mapping[str, Range]
Observe = Callable[[Graph, tuple[str, ...], Method], Ranges]
"""The ranges of some tensors of a graph, found by a method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`graph` as it is compiled, by `ranges`; `declined` says of layers that stay in float why they do, `notes` what
    else there is to say of layers, `warning` what of the whole."""

    graph: Graph
    ranges: Ranges | None = None
    declined: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    warning: str = ""


def prepare(graph: Graph, request: Mapping[str, Any], observe: Observe) -> Prepared:
    """The graph for a request's precision."""
    if request["precision"] == FLOAT:
        return Prepared(graph=graph)
    if request["precision"] == BINARY:
        binary, declined = binarize(graph, _skipped(graph, request))
        return Prepared(graph=binary, declined=declined, warning=_untrained(graph, declined))
    given = request.get("ranges")
    literal = not given and request.get("calibration") is None
    scheme = scheme_of(request["precision"], literal=literal)
    options = QuantizationOptions(scheme=scheme, skip=_skipped(graph, request))
    method = Method.MSE if options.scheme is EIGHT_BITS else Method.MINMAX
    ranges = observe(graph, tensors_to_observe(graph, options), method) if given is None else _pairs(given)
    rounded, declined = quantize_graph(graph, ranges, options)
    return Prepared(graph=rounded, ranges=ranges, declined=declined, notes=_saturating(graph, options))


def _skipped(graph: Graph, request: Mapping[str, Any]) -> frozenset[str]:
    """The layers whose weights or activations a recipe wants in float32."""
    recipe = Recipe.from_json(request.get("recipe") or [])
    layers = (node for node in graph.nodes if node.op in QUANTIZED_LAYERS and not node.domain)
    wishes = ((node, name) for node in layers for name in ("weights", "activations"))
    return frozenset(node.layer for node, name in wishes if recipe.setting(name, node.layer, node.op) == FLOAT)


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
    return prepare(graph, {**request, "ranges": None}, lambda _, names, __: dict.fromkeys(names, (-1.0, 1.0)))


def _pairs(given: Mapping[str, Any]) -> Ranges:
    return {name: (float(low), float(high)) for name, (low, high) in given.items()}
