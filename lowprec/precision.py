"""A graph in the precision that was asked for: the model's own, or quantized by the ranges of its tensors.

Ranges are those that the request carries, or else seen on calibration samples; whoever only plans needs none, since
what is rounded does not depend on them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lowprec.formats import Fixed, Int, parse_format
from lowprec.frontend.binarization import binarize
from lowprec.frontend.graph import Graph
from lowprec.frontend.quantization import QuantizationOptions, quantize_graph, saturated_weights, tensors_to_observe
from lowprec.frontend.schemes import BYTES as EIGHT_BITS
from lowprec.frontend.schemes import FixedPoint, Scheme
from lowprec.ranges import Method, Range

FLOAT = "fp32"
BINARY = "binary"
BYTES = Int(8, signed=False)
Ranges = Mapping[str, Range]
Observe = Callable[[Graph, tuple[str, ...], Method], Ranges]
"""The ranges of some tensors of a graph, found by a method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`graph` as it is compiled, by `ranges`; `declined` says of layers that stay in float why they do, `notes` what
    else there is to say of layers."""

    graph: Graph
    ranges: Ranges | None = None
    declined: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def prepare(graph: Graph, request: Mapping[str, Any], observe: Observe) -> Prepared:
    """The graph for a request's precision."""
    if request["precision"] == FLOAT:
        return Prepared(graph=graph)
    if request["precision"] == BINARY:
        binary, declined = binarize(graph)
        return Prepared(graph=binary, declined=declined)
    given = request.get("ranges")
    literal = not given and request.get("calibration") is None
    options = QuantizationOptions(scheme=scheme_of(request["precision"], literal=literal))
    method = Method.MSE if options.scheme is EIGHT_BITS else Method.MINMAX
    ranges = observe(graph, tensors_to_observe(graph, options), method) if given is None else _pairs(given)
    rounded, declined = quantize_graph(graph, ranges, options)
    return Prepared(graph=rounded, ranges=ranges, declined=declined, notes=_saturating(graph, options))


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
