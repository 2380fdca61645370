"""A float32 model as a quantized one: a QuantizeLinear and a DequantizeLinear at every rounded tensor.

    conv = Conv(x, w, b)  -->  conv/float = Conv(x, DequantizeLinear(w/codes), DequantizeLinear(b/codes))
                               conv = DequantizeLinear(QuantizeLinear(conv/float))

So a tensor keeps its name for its rounded value; an input of the model, whose name is taken, becomes `x/rounded`.
One scale and zero point is for a group of tied tensors, from the union of their ranges. Words that a format does not
fill (q3.7 in int16) have a Clip to the format's ends before the QuantizeLinear, except where values are only moved.
Which scales: `schemes`. Which layers and tensors, and why not: `integer_layers` and `quantized_tensors`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lowprec.errors import UsageError
from lowprec.frontend.bias_correction import AXES
from lowprec.frontend.drafts import TO_STAY, RoundingDraft
from lowprec.frontend.graph import Array, Attribute, Graph, Node, TensorSpec
from lowprec.frontend.integer_layers import LAYERS, bias_of, integers_of, obstacle, saturated_share
from lowprec.frontend.naming import quote
from lowprec.frontend.pruning import prune
from lowprec.frontend.quantized_tensors import Rounded, clips_from_zero, rounded_tensors, upper_bound
from lowprec.frontend.randomness import NO_DRAWS, Draws
from lowprec.frontend.schemes import BYTES, FixedPoint, Scheme, Unit
from lowprec.ranges import Range
from lowprec.seen import Means
from lowprec.vocabulary import suggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationOptions:
    """`skip` are layers that stay in float: their weights, and what they give unless a layer of integers reads it. Of
    the others some round by `draws`, and `unscaled` ones have literal fixed point for their weights and what they give,
    with all that is tied to it."""

    scheme: Scheme = BYTES
    skip: frozenset[str] = frozenset()
    draws: Draws = NO_DRAWS
    unscaled: frozenset[str] = frozenset()

    def scheme_of(self, layer: str) -> Scheme:
        """That of a layer's weights."""
        return (
            replace(self.scheme, literal=True)
            if isinstance(self.scheme, FixedPoint) and layer in self.unscaled
            else self.scheme
        )


def quantize_graph(
    graph: Graph,
    ranges: Mapping[str, Range] | None,
    options: QuantizationOptions | None = None,
    *,
    means: Mapping[str, Means] | None = None,
) -> tuple[Graph, dict[str, str]]:
    """The quantized graph from ranges of `tensors_to_observe`, and why each layer that stays in float does; layers of
    `means`, which are of `inputs_to_average`, have their biases corrected."""
    options = options or QuantizationOptions()
    scheme, reasons = options.scheme, float_layers(graph, options)
    rounded = _rounded(graph, reasons, options)
    state = _Rewrite(
        graph=graph,
        options=options,
        means=means or {},
        made={name: node for node in graph.nodes for name in node.outputs},
        rounded=rounded,
        draws=options.draws,
        scales=_scales(graph, rounded, ranges or {}, options),
        version=max([scheme.opset, *(node.version for node in graph.nodes if not node.domain)]),
    )
    for spec in graph.inputs:
        state.copy_input(spec)
    for node in map(state.rectified, graph.nodes):
        inputs = state.read(node)
        if _is_of_integers(node, reasons):
            inputs = (inputs[0], *state.operands(node))
        state.copy(node, inputs, [name for name in node.outputs if name in rounded.groups])
    return prune(state.finished()), reasons


def tensors_to_observe(graph: Graph, options: QuantizationOptions | None = None) -> tuple[str, ...]:
    """The tensors whose ranges decide the scales."""
    options = options or QuantizationOptions()
    return () if options.scheme.literal else _rounded(graph, float_layers(graph, options), options).deciding


def inputs_to_average(graph: Graph, options: QuantizationOptions | None = None) -> dict[str, tuple[str, int]]:
    """Of layers of bytes that have a bias, or may have one, the input and the axis that sums go over."""
    options = options or QuantizationOptions()
    if isinstance(options.scheme, FixedPoint):
        return {}
    reasons = float_layers(graph, options)
    layers = [node for node in graph.nodes if node.op in AXES and _is_of_integers(node, reasons)]
    return {node.layer: (node.inputs[0], AXES[node.op]) for node in layers}


def saturated_weights(graph: Graph, options: QuantizationOptions) -> dict[str, float]:
    """Of the weights of each layer of integers, the share that lies outside what codes stand for."""
    reasons = float_layers(graph, options)
    layers = [node for node in graph.nodes if _is_of_integers(node, reasons)]
    return {node.layer: saturated_share(node, graph, options.scheme_of(node.layer)) for node in layers}


def float_layers(graph: Graph, options: QuantizationOptions) -> dict[str, str]:
    """Of each Conv, ConvTranspose, Gemm and MatMul that stays in float, the reason."""
    known = {node.layer for node in graph.nodes}
    for name in sorted(options.skip - known):
        raise UsageError(f"no layer is named {quote(name)}{suggestion(name, known)}: only layers can be skipped")
    layers = [node for node in graph.nodes if node.op in LAYERS and not node.domain]
    reasons = {node.layer: _obstacle(node, graph, options) for node in layers}
    return {layer: reason for layer, reason in reasons.items() if reason}


def _obstacle(node: Node, graph: Graph, options: QuantizationOptions) -> str:
    if node.layer in options.skip:
        return TO_STAY
    return obstacle(node, graph, options.scheme_of(node.layer), seed=options.draws.seed_of(node.layer))


def _rounded(graph: Graph, reasons: Mapping[str, str], options: QuantizationOptions) -> Rounded:
    integers = {node.layer for node in graph.nodes if _is_of_integers(node, reasons)}
    return rounded_tensors(graph, integers, options.skip)


def _is_of_integers(node: Node, reasons: Mapping[str, str]) -> bool:
    return node.op in LAYERS and node.layer not in reasons


def _scales(
    graph: Graph, rounded: Rounded, ranges: Mapping[str, Range], options: QuantizationOptions
) -> dict[str, Unit]:
    """Scale and zero point of each group."""
    layers = {name: node.layer for node in graph.nodes for name in node.outputs}
    schemes: dict[str, Scheme] = {}
    unions: dict[str, Range] = {}
    for name in rounded.deciding:
        group = rounded.groups[name]
        scheme = options.scheme_of(layers.get(name, name))
        low, high = unions.get(group, (0.0, 0.0))
        own = (0.0, 0.0) if options.scheme.literal else _range(name, ranges)
        unions[group] = min(low, own[0]), max(high, own[1])
        if scheme.literal or group not in schemes:
            schemes[group] = scheme
    return {group: schemes[group].unit(union) for group, union in unions.items()}


def _range(name: str, ranges: Mapping[str, Range]) -> Range:
    if name not in ranges:
        raise UsageError(f"tensor {quote(name)} has no range: give those of tensors_to_observe")
    low, high = map(float, ranges[name])
    if not (np.isfinite((low, high)).all() and low <= high):
        raise UsageError(f"tensor {quote(name)} ranges from {low:g} to {high:g}: give finite numbers in order")
    return low, high


@dataclass(slots=True, kw_only=True)
class _Rewrite(RoundingDraft):
    """The graph under way, and the names of constants that have been made for a group of tensors."""

    options: QuantizationOptions
    means: Mapping[str, Means]
    made: Mapping[str, Node]
    scales: Mapping[str, Unit]
    version: int
    units: dict[str, tuple[str, str]] = field(default_factory=dict)
    bounds: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def scheme(self) -> Scheme:
        return self.options.scheme

    def round(self, tensor: str, source: str, result: str, *, layer: str) -> None:
        """source -> Clip, if it takes one -> QuantizeLinear -> DequantizeLinear -> result, as the tensor's group is."""
        group, shape = self.rounded.groups[tensor], self.graph.types[tensor].shape
        bounds = self._bounds(group) if tensor in self.rounded.deciding else ()
        if bounds:
            clipped = self.typed(f"{tensor}/clipped", self.graph.types[tensor])
            self._emit("Clip", (source, *bounds), clipped, layer)
            source = clipped
        units = self._units(group)
        words = self.words(tensor, layer)
        codes = self.typed(f"{tensor}/codes", TensorSpec(name="", dtype=self.scheme.word, shape=shape))
        self._emit("QuantizeLinear", (source, *units, words) if words else (source, *units), codes, layer)
        self._emit("DequantizeLinear", (codes, *units), result, layer)

    def words(self, tensor: str, layer: str) -> str:
        """None where there is nothing to round either."""
        sums = isinstance(self.scheme, FixedPoint) and self._lies_on(
            self.scales[self.rounded.groups[tensor]][0], tensor
        )
        return "" if sums else super(_Rewrite, self).words(tensor, layer)

    def _lies_on(self, scale: np.float32, name: str, *, inner: bool = False) -> bool:
        """Whether values are whole steps of a scale before they are rounded: sums of such numbers are, rectified or
        not, and what float32 makes of large ones. All scales are powers of two."""
        if inner and name in self.rounded.groups:
            return bool(self.scales[self.rounded.groups[name]][0] >= scale)
        node = self.made.get(name)
        if node is None or node.domain:
            return False
        if self.rectified(node).op == "Relu":
            return self._lies_on(scale, node.inputs[0], inner=True)
        sums = node.op in ("Add", "Sum")
        return sums and all(self._lies_on(scale, operand, inner=True) for operand in node.inputs)

    def rectified(self, node: Node) -> Node:
        """A Clip from zero to where the codes of its result end is a Relu: what is more has the last code anyway."""
        group = self.rounded.groups.get(node.outputs[0]) if node.outputs else None
        if group is None or node.op != "Clip" or node.domain or not clips_from_zero(node, self.graph):
            return node
        high = upper_bound(node, self.graph)
        scale, zero = self.scales[group]
        with np.errstate(over="ignore"):
            reaches = high is not None and np.rint(np.float32(high) / scale) + zero >= self.scheme.highest
        return node if not reaches else replace(node, op="Relu", inputs=node.inputs[:1], attributes={})

    def _units(self, group: str) -> tuple[str, str]:
        """The names of a group's scale and zero point."""
        if group not in self.units:
            scale, zero = self.scales[group]
            point = np.array(zero, self.scheme.word)
            self.units[group] = self.constant(f"{group}/scale", scale), self.constant(f"{group}/zero_point", point)
        return self.units[group]

    def _bounds(self, group: str) -> tuple[str, ...]:
        """The names of the least and the greatest number that a group's codes stand for, if the word has others."""
        if group not in self.bounds:
            ends = zip(("low", "high"), self.scheme.ends(self.scales[group][0]) or (), strict=False)
            self.bounds[group] = tuple(self.constant(f"{group}/{name}", np.float32(end)) for name, end in ends)
        return self.bounds[group]

    def operands(self, node: Node) -> tuple[str, ...]:
        """Weights and bias as they are dequantized; a bias in float as it was."""
        input_scale, _ = self.scales[self.rounded.groups[node.inputs[0]]]
        scheme = self.options.scheme_of(node.layer)
        seed, mean = self.draws.seed_of(node.layer), self._mean(node)
        found = integers_of(node, self.graph, scheme, input_scale, seed=seed, mean=mean)
        weights = self._dequantized(node.inputs[1], found.codes, found.scale, found.axis, node.layer)
        if found.bias is None:
            return (weights,)
        if found.bias.dtype == np.float32:
            return weights, self._float_bias(bias_of(node), found.bias)
        name = bias_of(node) or f"{node.inputs[1]}/correction"
        return weights, self._dequantized(name, found.bias, input_scale * found.scale, 0, node.layer)

    def _mean(self, node: Node) -> Means | None:
        """Of a layer's input, by channel."""
        mean = self.means.get(node.layer)
        if mean is None or node.op not in AXES:
            return None
        channels = self.graph.types[node.inputs[0]].shape[AXES[node.op]]
        if len(mean) != channels or not np.isfinite(mean).all():
            found = "a NaN or an infinity" if len(mean) == channels else f"{len(mean)} numbers"
            raise UsageError(
                f"layer {quote(node.layer)}: the mean of its input is {found}: give {channels} finite numbers"
            )
        return mean

    def _float_bias(self, name: str, values: Array) -> str:
        """One number for each output channel."""
        kept = name and np.array_equal(self.graph.constants[name], values)
        return name if kept else self.constant(f"{name}/bias", values)

    def _dequantized(self, name: str, codes: Array, scale: Array, axis: int, layer: str) -> str:
        """A constant's codes -> DequantizeLinear."""
        operands = (
            self.constant(f"{name}/codes", codes),
            self.constant(f"{name}/scale", scale),
            self.constant(f"{name}/zero_point", np.zeros(scale.shape, codes.dtype)),
        )
        result = self.typed(f"{name}/rounded", TensorSpec(name="", dtype="float32", shape=codes.shape))
        axes = {"axis": axis} if scale.ndim else {}
        self._emit("DequantizeLinear", operands, result, layer, **axes)
        return result

    def _emit(self, op: str, inputs: tuple[str, ...], output: str, layer: str, **attributes: Attribute) -> None:
        node = Node(op=op, inputs=inputs, outputs=(output,), layer=layer, version=self.version, attributes=attributes)
        self.nodes.append(node)
