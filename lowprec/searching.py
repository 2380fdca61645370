"""`precision="auto"`: a format for each layer, by measured time and measured error, to meet a bound.

1. The network is built in every format alone; each layer is timed in all of these builds, in turns.
2. Noise at the output: that of each build is measured, and shared out among its layers as they turn out to matter when
   each is alone in integers (evaluated in NumPy).
3. Of the mixes worth having (`tradeoff.front`) the first that should meet the bound is built and measured; while it
   does not, a more exact one is. A format for all layers that meets the bound and is faster is taken instead.

What is found is a recipe. Bounds are held on samples, the worst of which counts, with a margin for others.
"""

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lowprec.artifact import Artifact
from lowprec.comparison import compare
from lowprec.errors import BuildFailed, Unsupported
from lowprec.format_names import FLOAT, INT8, NARROW_FLOATS, takes_ranges
from lowprec.frontend.graph import Array, Graph
from lowprec.frontend.quantization import inputs_to_average
from lowprec.isolation import Notify
from lowprec.precision import Observe, Prepared, layer_formats, methods_for, prepare, scales_of
from lowprec.quantized_reference import evaluate
from lowprec.recipe import Recipe, Rule
from lowprec.seen import Question, Seen
from lowprec.tradeoff import Cost, Mix, Options, front, noise_of

CANDIDATES = (FLOAT, *NARROW_FLOATS, INT8)
DEFAULT_SQNR = 30.0
"""Decibels, where no bound is given."""
MARGIN = 0.5
"""Decibels more than are asked for, for inputs that no sample is like."""
SAMPLES = 8
ROUNDS, RUNS = 9, 3
"""Turns of each build, and runs of a turn."""
MOST_BUILDS = 6
"""Mixes that are built before the most exact one is taken."""
MOST_SLACK = 10.0
"""How many times the expected noise a second, faster mix may have, if the first has less than was expected."""
EVEN = 0.5
"""How much of a step towards the measured noise is taken at least: predictions are of noises that add up."""

Build = Callable[[Mapping[str, Any], Path], Artifact]
"""The artifact of a request's changes, in a directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A build that was measured, as a name ("int8", or "mix 3") and its recipe."""

    name: str
    formats: Mapping[str, str]
    artifact: Artifact
    sqnr_db: float
    ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What was found: the recipe, what its integers' scales come from, and how the choice was made."""

    recipe: Recipe
    seen: Seen | None
    record: Mapping[str, Any]


def search(
    graph: Graph,
    request: Mapping[str, Any],
    build: Build,
    observe: Observe,
    samples: Iterator[dict[str, Array]],
    notify: Notify,
) -> Search:
    """The recipe that meets the request's bounds; BuildFailed where none does."""
    inputs = list(islice(samples, SAMPLES))
    with tempfile.TemporaryDirectory(prefix="lowprec-auto-") as folder:
        work = _Work(graph=graph, request=request, build=build, inputs=inputs, folder=Path(folder), notify=notify)
        work.prepare(observe)
        work.build_alone()
        work.time()
        mixes = front(work.options(), rest_ms=work.rest_ms)
        return work.decide(mixes)


@dataclass(slots=True, kw_only=True)
class _Work:
    """The search under way: `prepared` and `alone` are by format, `layer_ms` by format and layer."""

    graph: Graph
    request: Mapping[str, Any]
    build: Build
    inputs: Sequence[Mapping[str, Array]]
    folder: Path
    notify: Notify
    wishes: Mapping[str, str] = field(default_factory=dict)
    prepared: dict[str, Prepared] = field(default_factory=dict)
    alone: dict[str, Tried] = field(default_factory=dict)
    wanted: list[dict[str, Array]] = field(default_factory=list)
    layer_ms: dict[str, Mapping[str, float]] = field(default_factory=dict)
    rest_ms: float = 0.0
    seen: Seen = field(default_factory=Seen)

    def prepare(self, observe: Observe) -> None:
        """The graph in every format, and what samples show of all that any mix may round; what the request's own recipe
        says of a layer stays."""
        own = Recipe.from_json(self.request.get("recipe") or [])
        self.wishes = {layer: fmt for layer, fmt in _own_formats(self.graph, own).items()}
        for layer, fmt in self.wishes.items():
            if takes_ranges(fmt) and fmt != INT8:
                raise Unsupported(
                    f"precision 'auto' tries {INT8}, the recipe has {layer!r} in {fmt}, and one network takes one"
                    " format of integers: leave that rule out, or name a precision"
                )
        made = [name for node in self.graph.nodes for name in node.outputs if name]
        tensors = (*self.graph.inputs, *(self.graph.types[name] for name in made))
        floats = tuple(spec.name for spec in tensors if spec.dtype == "float32")
        methods = methods_for(self.graph, floats, scales_of(self.graph, self.request, INT8), INT8)
        self.seen = observe(self.graph, Question(methods=methods, averages=inputs_to_average(self.graph)))
        for fmt in CANDIDATES:
            self.prepared[fmt] = prepare(self.graph, self._asking(fmt), _never)

    def _asking(self, fmt: str, recipe: Recipe | None = None) -> dict[str, Any]:
        """The request for a build in one format, or by a recipe."""
        rules = self.request.get("recipe") or [] if recipe is None else recipe.to_json()
        return {**self.request, "precision": fmt, "recipe": rules, **self.seen.to_json()}

    def build_alone(self) -> None:
        """Each format for all layers; the first, float32, gives what others are compared with."""
        for fmt in CANDIDATES:
            self.notify(f"search: {fmt} for all layers")
            artifact = self.build(self._asking(fmt), self.folder / fmt)
            if fmt == FLOAT:
                self.wanted = [_outputs(artifact, sample) for sample in self.inputs]
            formats = self.prepared[fmt].formats
            self.alone[fmt] = Tried(name=fmt, formats=formats, artifact=artifact, sqnr_db=self._sqnr(artifact))

    def _sqnr(self, artifact: Artifact) -> float:
        """Of the worst output on the worst sample."""
        found = (_outputs(artifact, sample) for sample in self.inputs)
        return min(
            compare(want[name], have[name]).sqnr_db
            for want, have in zip(self.wanted, found, strict=True)
            for name in want
        )

    def time(self) -> None:
        """Every layer in every format, in turns."""
        self.notify("search: timing")
        seen: dict[str, dict[str, list[float]]] = {fmt: defaultdict(list) for fmt in CANDIDATES}
        rests = []
        for _ in range(ROUNDS):
            for fmt, tried in self.alone.items():
                by_layer = _layer_times(tried.artifact, self.inputs[0])
                for layer, ms in by_layer.items():
                    seen[fmt][layer].append(ms)
                if fmt == FLOAT:
                    rests.append(sum(ms for layer, ms in by_layer.items() if layer not in tried.formats))
        self.layer_ms = {fmt: {layer: _usual(ms) for layer, ms in by.items()} for fmt, by in seen.items()}
        self.rest_ms = _usual(rests)

    def options(self) -> Options:
        """Of each layer the formats that it can have, and their costs."""
        self.notify("search: how much each layer's integers matter")
        shares = self._shares()
        found: dict[str, dict[str, Cost]] = {}
        for layer in self.alone[FLOAT].formats:
            allowed = [fmt for fmt in CANDIDATES if self.prepared[fmt].formats[layer] == fmt]
            own = self.wishes.get(layer)
            costs = {fmt: self._cost(layer, fmt, shares[layer]) for fmt in allowed if own in (None, fmt)}
            found[layer] = costs or {FLOAT: self._cost(layer, FLOAT, 0.0)}
        return found

    def _cost(self, layer: str, fmt: str, share: float) -> Cost:
        noise = 0.0 if fmt == FLOAT else noise_of(self.alone[fmt].sqnr_db) * share
        return Cost(ms=self.layer_ms[fmt].get(layer, 0.0), noise=noise)

    def _shares(self) -> dict[str, float]:
        """How much of the noise comes from each layer."""
        noises = self._noises()
        total = sum(noises.values())
        even = 1 / max(1, len(noises))
        return {layer: noise / total if total else even for layer, noise in noises.items()}

    def _noises(self) -> dict[str, float]:
        """At the output, of each layer alone in integers; of those that cannot be, none is known, so the mean."""
        sample = dict(self.inputs[0])
        exact = evaluate(self.graph, sample)
        layers = self.prepared[INT8].formats
        found: dict[str, float] = {}
        for layer in (layer for layer, fmt in layers.items() if fmt == INT8):
            rules = [Rule(layer=other, weights=FLOAT) for other in map(escaped, layers.keys() - {layer})]
            request = self._asking(INT8, Recipe(rules=tuple(rules)))
            alone = evaluate(prepare(self.graph, request, _never).graph, sample)
            found[layer] = max(noise_of(compare(exact[name], alone[name]).sqnr_db) for name in alone)
        mean = statistics.fmean(found.values()) if found else 1.0
        return {layer: found.get(layer, mean) for layer in layers}

    def decide(self, mixes: Sequence[Mix]) -> Search:
        """The fastest build that meets the bounds."""
        least, most = self.request.get("min_sqnr"), self.request.get("max_ms")
        if most is not None and least is None:
            tried = self._timed(self._within(mixes, most))
            within = [entry for entry in tried if entry.ms <= most]
            best = max(within, key=lambda entry: entry.sqnr_db) if within else min(tried, key=_ms)
        else:
            goal = (DEFAULT_SQNR if least is None else least) + MARGIN
            tried = self._timed(self._meeting(mixes, goal))
            best = min((entry for entry in tried if entry.sqnr_db >= goal or not _narrow(entry)), key=_ms)
        if most is not None and best.ms > most:
            bound = "" if least is None else f" at {least:g} dB"
            raise BuildFailed(
                f"the fastest mix of formats{bound} takes {best.ms:.3g} ms and has {best.sqnr_db:.1f} dB: max_ms is "
                f"{most:g}, allow more time{'' if least is None else ' or a lower min_sqnr'}"
            )
        return self._found(best, tried, mixes)

    def _meeting(self, mixes: Sequence[Mix], goal: float) -> list[Tried]:
        """What was built on the way to the first mix with so many decibels, and the formats alone; a faster one too, if
        the very first has decibels to spare."""
        tried = list(self.alone.values())
        target = noise_of(goal)
        for number in range(1, MOST_BUILDS + 1):
            last = number == MOST_BUILDS
            mix = next((mix for mix in mixes if mix.noise <= target and not last), mixes[-1])
            tried.append(self._built(f"mix {number}", mix))
            met = tried[-1].sqnr_db >= goal
            if met or mix is mixes[-1]:
                break
            target = mix.noise * min(EVEN, noise_of(goal) / noise_of(tried[-1].sqnr_db))
        looser = mix.noise * noise_of(goal) / max(noise_of(tried[-1].sqnr_db), noise_of(goal) / MOST_SLACK)
        faster = next(other for other in mixes if other.noise <= looser)
        if met and len(tried) == len(self.alone) + 1 and faster.ms < mix.ms:
            tried.append(self._built("mix 2", faster))
        return tried

    def _within(self, mixes: Sequence[Mix], most: float) -> list[Tried]:
        """The most exact mixes that should take no longer, and the formats alone."""
        tried = list(self.alone.values())
        allowed = most
        for number in range(1, MOST_BUILDS + 1):
            mix = next((mix for mix in reversed(mixes) if mix.ms <= allowed), mixes[0])
            entry = self._timed([self._built(f"mix {number}", mix)])[0]
            tried.append(entry)
            if entry.ms <= most or mix is mixes[0]:
                break
            allowed = min(allowed, mix.ms) * most / entry.ms
        return tried

    def _built(self, name: str, mix: Mix) -> Tried:
        self.notify(f"search: {name}")
        recipe = self._recipe(mix.formats)
        artifact = self.build(self._asking(FLOAT, recipe), self.folder / name.replace(" ", "-"))
        return Tried(name=name, formats=mix.formats, artifact=artifact, sqnr_db=self._sqnr(artifact))

    def _timed(self, tried: Sequence[Tried]) -> list[Tried]:
        """With the time of a whole run, in turns."""
        seen: list[list[float]] = [[] for _ in tried]
        for _ in range(ROUNDS):
            for times, entry in zip(seen, tried, strict=True):
                times.append(sum(_layer_times(entry.artifact, self.inputs[0]).values()))
        return [
            Tried(name=t.name, formats=t.formats, artifact=t.artifact, sqnr_db=t.sqnr_db, ms=_usual(times))
            for t, times in zip(tried, seen, strict=True)
        ]

    def _recipe(self, formats: Mapping[str, str]) -> Recipe:
        """The request's rules, and one for each layer that is not of float32."""
        own = Recipe.from_json(self.request.get("recipe") or []).rules
        named = {layer: fmt for layer, fmt in formats.items() if layer not in self.wishes and fmt != FLOAT}
        rules = (Rule(layer=escaped(layer), weights=fmt, activations=fmt) for layer, fmt in named.items())
        return Recipe(rules=(*own, *rules))

    def _found(self, best: Tried, tried: Sequence[Tried], mixes: Sequence[Mix]) -> Search:
        formats = set(best.formats.values())
        rows = [{"name": t.name, "ms": t.ms, "sqnr_db": _finite(t.sqnr_db), "chosen": t is best} for t in tried]
        points = [{"ms": mix.ms, "sqnr_db": _finite(mix.sqnr_db)} for mix in mixes]
        return Search(
            recipe=self._recipe(best.formats),
            seen=self.seen if any(map(takes_ranges, formats)) else None,
            record={"measured": rows, "front": points},
        )


def escaped(layer: str) -> str:
    """A glob that is that name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in layer)


def _own_formats(graph: Graph, own: Recipe) -> dict[str, str]:
    """The layers whose formats a recipe has."""
    with_rules = layer_formats(graph, {"precision": FLOAT, "recipe": own.to_json()})
    without = layer_formats(graph, {"precision": INT8, "recipe": own.to_json()})
    return {layer: fmt for layer, fmt in with_rules.items() if without[layer] == fmt}


def _never(_graph: Graph, _question: Question) -> Seen:
    raise AssertionError("all has been seen by then")


def _outputs(artifact: Artifact, sample: Mapping[str, Array]) -> dict[str, Array]:
    found = artifact(dict(sample))
    assert isinstance(found, dict)
    return found


def _layer_times(artifact: Artifact, sample: Mapping[str, Array]) -> dict[str, float]:
    """Milliseconds of each layer, the mean of a few runs."""
    times: dict[str, float] = defaultdict(float)
    for call in artifact.profile(sample, RUNS):
        times[call.layer] += 1e3 * call.seconds / RUNS
    return times


def _usual(times: Sequence[float]) -> float:
    """The lower quartile: others on the machine only ever make times longer."""
    return sorted(times)[len(times) // 4]


def _narrow(entry: Tried) -> bool:
    return set(entry.formats.values()) != {FLOAT}


def _ms(entry: Tried) -> float:
    return entry.ms


def _finite(number: float) -> float | None:
    return number if number < float("inf") else None
