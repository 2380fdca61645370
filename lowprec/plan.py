"""What will be done, layer by layer, and why: decided from plain data before anything is compiled.

Declining is not failing: a wish that does not fit a layer leaves one sentence in `Choice.declined`, and the layer takes
the best that does.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import hypot
from typing import Any

from lowprec.choosing import DIRECT, IM2COL, Candidate, best_of, candidate_of, candidates, candidates_of_planes
from lowprec.convolution import Conv
from lowprec.layers import Gemm, Layer
from lowprec.predicting import FLOAT_BYTES, GIGAHERTZ
from lowprec.predicting_planes import may_lie_as_planes, turning_cycles
from lowprec.recipe import Recipe
from lowprec.targets import Target
from lowprec.tiles import LEFT_OUT, TIMES_FASTER, Rows, multiplies_halves, multiplies_integers, rows_of
from lowprec.vocabulary import ALGORITHMS, PRECISIONS

Times = Mapping[tuple[str, tuple[int, ...]], float]  # algorithm and sizes -> seconds
Measured = Mapping[Conv, Times]

GENERIC = "generic"
GENERIC_REASON = "no product, so no choice: one vectorized rule, fused into its producer where it can be"
ON_TILES = {
    ("bf16", "bf16", "fp32"): "products of bfloat16 on tiles",
    ("fp16", "fp16", "fp32"): "products of float16 on tiles, as three of bfloat16",
}
"""What floats a layer may be of that AMX multiplies, and the words for it."""
DIRECT_REASON = "direct kernel with its epilogue fused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """The formats of one layer: its operands and what its sums are kept in."""

    weights: str = "fp32"
    activations: str = "fp32"
    sums: str = "fp32"

    @property
    def integers(self) -> bool:
        """Whether the sums are of integers."""
        return self.sums in ("int32", "int64")

    def __str__(self) -> str:
        if self.weights == self.activations == self.sums:
            return self.weights
        return f"{self.weights} x {self.activations} in {self.sums}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The decision for one layer; `declined` holds a sentence for each wish that did not fit.

    `error` is the predicted relative error, `milliseconds` the predicted time on one core, where there is a choice.
    `sizes` are the points of a Fourier transform along each axis; `transformed` are the bytes of the layer's weights,
    and of these between transforms, where these are what is stored.
    """

    layer: str
    op: str
    algorithm: str
    formats: Formats
    reason: str
    declined: tuple[str, ...] = ()
    error: float | None = None
    milliseconds: float | None = None
    sizes: tuple[int, ...] = ()
    transformed: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every layer's choice, in the model's order; printed, operators that offer no choice are one row a kind."""

    choices: tuple[Choice, ...]

    def choice(self, layer: str) -> Choice:
        return next(choice for choice in self.choices if choice.layer == layer)

    def staying(self, precision: str, reasons: Mapping[str, str]) -> "Plan":
        """The plan with a sentence for each layer that is not in the precision asked for."""
        return Plan(
            choices=tuple(
                replace(choice, declined=(*choice.declined, f"{precision}: {reasons[choice.layer]}"))
                if choice.layer in reasons
                else choice
                for choice in self.choices
            )
        )

    def noting(self, notes: Mapping[str, str]) -> "Plan":
        """The plan with something more to say of some layers."""
        return Plan(
            choices=tuple(
                replace(choice, reason=f"{choice.reason}; {notes[choice.layer]}") if choice.layer in notes else choice
                for choice in self.choices
            )
        )

    def declining(self, obstacles: Mapping[str, str]) -> "Plan":
        """The plan with those layers left to the generic rule, each for its reason."""
        return Plan(choices=tuple(_instead(choice, GENERIC, obstacles.get(choice.layer)) for choice in self.choices))

    def retreating(self, obstacles: Mapping[str, str]) -> "Plan":
        """The plan with those layers computed directly, each for its reason."""
        return Plan(choices=tuple(_instead(choice, DIRECT, obstacles.get(choice.layer)) for choice in self.choices))

    @property
    def transformed(self) -> str:
        """What transforms make of weights, in a sentence; nothing where there are none."""
        found = [choice.transformed for choice in self.choices if choice.transformed]
        if not found:
            return ""
        before, after = (sum(sizes) / 1e6 for sizes in zip(*found, strict=True))
        layers = f"{len(found)} layer{'s' * (len(found) > 1)}"
        return f"transformed weights of {layers}: {after:.1f} MB, {before:.1f} MB in the model"

    def to_json(self) -> dict[str, Any]:
        return {"choices": [_entry(choice) for choice in self.choices]}

    @classmethod
    def from_json(cls, plan: Mapping[str, Any]) -> "Plan":
        return cls(choices=tuple(map(_choice, plan["choices"])))

    def __str__(self) -> str:
        header = ("layer", "op", "algorithm", "formats", "error", "ms", "reason")
        products = [choice for choice in self.choices if choice.algorithm != GENERIC or choice.declined]
        plain = [choice for choice in self.choices if choice.algorithm == GENERIC and not choice.declined]
        rest = [
            (f"({count} layer{'s' * (count > 1)})", op, GENERIC, formats, "", "", GENERIC_REASON)
            for (op, formats), count in Counter((choice.op, str(choice.formats)) for choice in plain).items()
        ]
        rows = table([header, *(row for choice in products for row in _rows(choice)), *rest])
        return f"{rows}\n{self.transformed}".rstrip("\n")


def make_plan(
    layers: Sequence[Layer],
    *,
    recipe: Recipe,
    algorithm: str = "auto",
    precision: str = "fp32",
    target: Target,
    measured: Measured | None = None,
) -> Plan:
    """One choice a layer; a rule of the recipe wins over `algorithm`, which wins over our own judgement. `measured` has
    what tuning found for a convolution."""
    PRECISIONS.check(precision)
    ALGORITHMS.check(algorithm)
    wishes = [recipe.setting("algorithm", layer.name, layer.op) or algorithm for layer in layers]
    times = measured or {}
    return Plan(choices=tuple(_choose(layer, wish, target, times) for layer, wish in zip(layers, wishes, strict=True)))


def _choose(layer: Layer, wish: str, target: Target, measured: Measured) -> Choice:
    if isinstance(layer.geometry, Conv) and not layer.obstacle and not layer.integers:
        return _convolution(layer, layer.geometry, wish, target, _times(layer, layer.geometry, target, measured))
    algorithm, reason = _only_way(layer, target)
    declined: tuple[str, ...] = ()
    if layer.obstacle:
        declined = (f"{algorithm}: {layer.obstacle}",)
        algorithm, reason = GENERIC, GENERIC_REASON
    elif wish not in ("auto", algorithm) and layer.geometry is not None:
        declined = (f"{wish}: this layer is a matrix product, and {wish} needs a convolution",)
    elif layer.integers and wish not in ("auto", algorithm):
        declined = (f"{wish}: sums of integers are exact, and {wish} is built for fp32",)
    return Choice(
        layer=layer.name,
        op=layer.op,
        algorithm=algorithm,
        formats=_formats(layer),
        reason=reason,
        declined=declined,
    )


def _formats(layer: Layer) -> Formats:
    if layer.words is None:
        return Formats()
    weights, activations, sums = layer.words
    return Formats(weights=weights, activations=activations, sums=sums)


def _convolution(layer: Layer, conv: Conv, wish: str, target: Target, times: Times) -> Choice:
    """The wish if it fits, else what is measured, or predicted, to be fastest within the error budget."""
    offered = (candidates_of_planes if may_lie_as_planes(layer, target) else candidates)(conv, target)
    wished = [candidate for candidate in offered if candidate.is_a(wish) and not candidate.obstacle]
    chosen = best_of(wished or [candidate for candidate in offered if candidate.within_budget])
    times_faster = _times_faster(layer, target)
    if times_faster and (wish == DIRECT or (wish == "auto" and chosen.cycles >= offered[0].cycles / times_faster)):
        return _on_tiles(layer, conv, offered[0], times_faster)
    best, seconds = _fastest_measured(conv, wish, target, times) or (chosen, None)
    return Choice(
        layer=layer.name,
        op=layer.op,
        algorithm=best.algorithm,
        formats=_formats(layer),
        reason=f"{describe(conv)}: {_reason(best, offered[0], _direct_way(layer, conv, target), times)}",
        declined=_declined(offered, wish, fits=bool(wished)),
        error=best.error,
        milliseconds=best.milliseconds if seconds is None else 1e3 * seconds,
        sizes=best.sizes,
        transformed=_transformed(best, conv),
    )


def _times_faster(layer: Layer, target: Target) -> float:
    """Than in fp32, as predicted, for a layer of floats that is computed on AMX; 0 for any other."""
    found = _rows_of(layer)
    if layer.words not in ON_TILES or found is None:
        return 0.0
    name = layer.words[0]
    return TIMES_FASTER[name] if multiplies_halves(*found, name, target) else 0.0


def _on_tiles(layer: Layer, conv: Conv, direct: Candidate, times_faster: float) -> Choice:
    """Directly, in products of narrow floats."""
    assert layer.words is not None
    assert direct.prediction is not None
    return Choice(
        layer=layer.name,
        op=layer.op,
        algorithm=DIRECT,
        formats=_formats(layer),
        reason=f"{describe(conv)}: {_direct_reason(conv)}, {ON_TILES[layer.words]}",
        error=hypot(direct.prediction.error, LEFT_OUT[layer.words[0]]),
        milliseconds=direct.prediction.milliseconds / times_faster,
    )


def _times(layer: Layer, conv: Conv, target: Target, measured: Measured) -> Times:
    """What tuning found: of kernels that want channels side by side, which is no more than the direct one takes that
    leaves images as they lie. The others have to turn them."""
    times = measured.get(conv, {})
    if not may_lie_as_planes(layer, target):
        return times
    turning = turning_cycles(conv) / (1e9 * GIGAHERTZ)
    return {way: seconds + (turning if way[0] != DIRECT else 0.0) for way, seconds in times.items()}


def _transformed(best: Candidate, conv: Conv) -> tuple[int, int] | None:
    if best.prediction is None or best.algorithm in (DIRECT, IM2COL):
        return None
    return FLOAT_BYTES * conv.parameters, best.prediction.weight_bytes


def _fastest_measured(conv: Conv, wish: str, target: Target, times: Times) -> tuple[Candidate, float] | None:
    """Of what tuning measured the fastest that is wished for, or is exact enough."""
    found = [(candidate_of(conv, name, sizes, target), seconds) for (name, sizes), seconds in times.items()]
    fitting = [(candidate, seconds) for candidate, seconds in found if candidate is not None]
    wished = [entry for entry in fitting if entry[0].is_a(wish)]
    within = [entry for entry in fitting if entry[0].within_budget] if wish == "auto" else []
    return min(wished or within, key=lambda entry: entry[1], default=None)


def _declined(offered: Sequence[Candidate], wish: str, *, fits: bool) -> tuple[str, ...]:
    """Why a wish is not met; without one, which faster algorithms the error budget rules out."""
    if wish == "auto":
        return tuple(f"{c.algorithm}: {c.too_inexact}" for c in offered if not c.obstacle and not c.within_budget)
    if fits:
        return ()
    sentences = dict.fromkeys(candidate.obstacle for candidate in offered if candidate.is_a(wish))
    return tuple(f"{wish}: {sentence}" for sentence in sentences)


def _reason(best: Candidate, direct: Candidate, directly: str, times: Times) -> str:
    if best.algorithm == DIRECT:
        return directly + (", measured" if (DIRECT, ()) in times else "")
    ours, theirs = times.get((best.algorithm, best.sizes)), times.get((DIRECT, ()))
    if ours:
        return f"{best.detail}, measured" + (f" {theirs / ours:.1f} times as fast as direct" if theirs else "")
    return f"{best.detail}, predicted {direct.cycles / best.cycles:.1f} times as fast as direct"


def _instead(choice: Choice, algorithm: str, obstacle: str | None) -> Choice:
    """What is done where there is an obstacle to the choice."""
    if obstacle is None or choice.algorithm == algorithm:
        return choice
    declined = (*choice.declined, f"{choice.algorithm}: {obstacle}")
    shape = choice.reason.partition(": ")[0]
    reason = GENERIC_REASON if algorithm == GENERIC else f"{shape}: {DIRECT_REASON}"
    return Choice(
        layer=choice.layer,
        op=choice.op,
        algorithm=algorithm,
        formats=choice.formats,
        reason=reason,
        declined=declined,
    )


def _only_way(layer: Layer, target: Target) -> tuple[str, str]:
    """The algorithm and reason of a layer that offers no choice."""
    match layer.geometry:
        case Conv() as conv:
            return DIRECT, f"{describe(conv)}: {_direct_reason(conv)}, {_lanes(layer, target)}"
        case Gemm() as gemm:
            times = f"{gemm.batch} times " if gemm.batch > 1 else ""
            size = f"{times}{gemm.rows} x {gemm.depth} by {gemm.depth} x {gemm.cols}"
            return "gemm", f"{size}: blocked product, {_lanes(layer, target)}"
        case None:
            return GENERIC, GENERIC_REASON


def _lanes(layer: Layer, target: Target) -> str:
    if layer.words in ON_TILES and _times_faster(layer, target):
        return ON_TILES[layer.words]
    if not layer.integers:
        return f"{target.lanes} fp32 lanes"
    if layer.words is not None and layer.words[0] == "binary":
        if _fills_tiles(replace(layer, words=("int8", "int8", *layer.words[2:])), target):
            return "signs as bytes, exact sums on tiles"
        return f"signs, 32 of them counted at once in each of {target.lanes} lanes"
    return "exact sums on tiles" if _fills_tiles(layer, target) else f"exact sums in {target.lanes} lanes of int32"


def _fills_tiles(layer: Layer, target: Target) -> bool:
    """Whether a layer of integers is computed on AMX."""
    found = _rows_of(layer)
    return layer.words is not None and found is not None and multiplies_integers(*found, layer.words[:2], target)


def _rows_of(layer: Layer) -> tuple[Rows, int] | None:
    """What tiles would be filled with, and the products of a sum: constant weights, and windows of pixels."""
    match layer.geometry:
        case Conv(depthwise=False, transposed=False) as conv:
            return rows_of(conv), conv.parameters // conv.out_channels
        case Gemm() as gemm if layer.parameters:
            pixels = gemm.batch * gemm.rows
            return Rows(groups=1, channels=(gemm.depth, gemm.cols), taps=1, pixels=pixels), gemm.depth
    return None


def _direct_way(layer: Layer, conv: Conv, target: Target) -> str:
    if may_lie_as_planes(layer, target):
        return f"depthwise, on images as they lie, {target.lanes} fp32 lanes"
    return f"{_direct_reason(conv)}, {target.lanes} fp32 lanes"


def _direct_reason(conv: Conv) -> str:
    if conv.depthwise:
        return "depthwise, so channels fill the lanes and no product repeats"
    if conv.transposed:
        return "transposed, one direct kernel for all phases"
    if conv.groups > 1:
        return f"{conv.groups} groups, each a direct kernel"
    if conv.pointwise:
        return "pointwise, a matrix product over pixels"
    return DIRECT_REASON


def describe(conv: Conv) -> str:
    """A convolution in a few words: `3x3 stride 2, 64 -> 128 at 56x56`."""
    text = "x".join(map(str, conv.kernel))
    for name, values in (("stride", conv.stride), ("dilation", conv.dilation)):
        if set(values) != {1}:
            text += f" {name} {values[0] if len(set(values)) == 1 else 'x'.join(map(str, values))}"
    return f"{text}, {conv.in_channels} -> {conv.out_channels} at {'x'.join(map(str, conv.size))}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns, a rule under the first; the last column is left ragged."""
    rows = [[cell.replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _rows(choice: Choice) -> list[tuple[str, ...]]:
    error = "" if choice.error is None else f"{choice.error:.1e}"
    milliseconds = "" if choice.milliseconds is None else f"{choice.milliseconds:.3g}"
    first = (choice.layer, choice.op, choice.algorithm, str(choice.formats), error, milliseconds, choice.reason)
    return [first, *(("", "", "", "", "", "", f"declined {sentence}") for sentence in choice.declined)]


def _entry(choice: Choice) -> dict[str, Any]:
    """A choice as JSON has it."""
    lists = {name: list(getattr(choice, name)) for name in ("declined", "sizes")}
    return {**asdict(choice), **lists, "transformed": choice.transformed and list(choice.transformed)}


def _choice(entry: Mapping[str, Any]) -> Choice:
    changed = {
        "formats": Formats(**entry["formats"]),
        "declined": tuple(entry["declined"]),
        "sizes": tuple(entry["sizes"]),
        "transformed": entry["transformed"] and tuple(entry["transformed"]),
    }
    return Choice(**{**entry, **changed})
