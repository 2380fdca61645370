"""A graph in the precision that was asked for: the model's own, or quantized by the ranges of its tensors.

Ranges are those that the request carries, or else seen on calibration samples; whoever only plans needs none, since
what is rounded does not depend on them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lowprec.formats import Int
from lowprec.frontend.graph import Graph
from lowprec.frontend.quantization import QuantizationOptions, quantize_graph, tensors_to_observe
from lowprec.ranges import Method, Range

FLOAT = "fp32"
BYTES = Int(8, signed=False)
METHOD = Method.MSE

Ranges = Mapping[str, Range]
Observe = Callable[[Graph, tuple[str, ...]], Ranges]
"""The ranges of some tensors of a graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`graph` as it is compiled, by `ranges`; `declined` says of layers that stay in float why they do."""

    graph: Graph
    ranges: Ranges | None = None
    declined: Mapping[str, str] = field(default_factory=dict)


def prepare(graph: Graph, request: Mapping[str, Any], observe: Observe) -> Prepared:
    """The graph for a request's precision."""
    if request["precision"] == FLOAT:
        return Prepared(graph=graph)
    given = request.get("ranges")
    ranges = observe(graph, tensors_to_observe(graph)) if given is None else _pairs(given)
    rounded, declined = quantize_graph(graph, ranges, QuantizationOptions())
    return Prepared(graph=rounded, ranges=ranges, declined=declined)


def sketch(graph: Graph, request: Mapping[str, Any]) -> Prepared:
    """As `prepare`, for whoever looks at layers and formats alone."""
    return prepare(graph, {**request, "ranges": None}, lambda _, names: dict.fromkeys(names, (-1.0, 1.0)))


def _pairs(given: Mapping[str, Any]) -> Ranges:
    return {name: (float(low), float(high)) for name, (low, high) in given.items()}
