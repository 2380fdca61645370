"""Formats for layers, time against error: which mixes are worth having, by what each layer costs in each format.

Every layer takes one of its options, each with a time and a noise (its power at the model's output, as a share of the
signal's). Noises of different layers add up, as they would if they knew nothing of each other, and so do times. The
`front` begins with everything as fast as can be; each further mix moves one layer to an option that is slower and more
exact, the most noise for the least time first. No mix between two neighbours of the front is better than both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a layer takes in a format."""

    ms: float
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A format for each layer, and what all of them take together."""

    formats: Mapping[str, str]
    ms: float
    noise: float

    @property
    def sqnr_db(self) -> float:
        return decibels(self.noise)


Options = Mapping[str, Mapping[str, Cost]]
"""Layer -> format -> cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """A layer to another format: so much slower, so much less noise."""

    layer: str
    fmt: str
    ms: float
    noise: float

    @property
    def worth(self) -> float:
        """Noise saved for a millisecond."""
        return self.noise / self.ms if self.ms > 0 else math.inf


def decibels(noise: float) -> float:
    """The signal to noise ratio of a noise."""
    return -10 * math.log10(noise) if noise > 0 else math.inf


def noise_of(sqnr_db: float) -> float:
    return 0.0 if sqnr_db == math.inf else float(10 ** (-sqnr_db / 10))


def front(options: Options, *, rest_ms: float = 0.0) -> tuple[Mix, ...]:
    """The mixes worth having, the fastest first; `rest_ms` is what takes its time whatever the formats."""
    hulls = {layer: _hull(costs) for layer, costs in options.items()}
    formats = {layer: hull[0] for layer, hull in hulls.items()}
    moves = [move for layer, hull in hulls.items() for move in _moves(layer, hull, options[layer])]
    ms = rest_ms + sum(options[layer][fmt].ms for layer, fmt in formats.items())
    noise = math.fsum(options[layer][fmt].noise for layer, fmt in formats.items())
    found = [Mix(formats=dict(formats), ms=ms, noise=noise)]
    for move in sorted(moves, key=lambda move: -move.worth):
        formats[move.layer] = move.fmt
        ms += move.ms
        noise = math.fsum(options[layer][fmt].noise for layer, fmt in formats.items())
        found.append(Mix(formats=dict(formats), ms=ms, noise=noise))
    return tuple(found)


def _hull(costs: Mapping[str, Cost]) -> list[str]:
    """A layer's formats from the fastest to the most exact one, each further one worth less for its time."""
    kept: list[str] = []
    for fmt in sorted(costs, key=lambda fmt: (costs[fmt].ms, costs[fmt].noise)):
        if kept and costs[fmt].noise >= costs[kept[-1]].noise:
            continue
        while len(kept) > 1 and _worth(costs, kept[-2], kept[-1]) <= _worth(costs, kept[-1], fmt):
            kept.pop()
        kept.append(fmt)
    return kept


def _worth(costs: Mapping[str, Cost], one: str, other: str) -> float:
    slower = costs[other].ms - costs[one].ms
    return (costs[one].noise - costs[other].noise) / slower if slower > 0 else math.inf


def _moves(layer: str, hull: Sequence[str], costs: Mapping[str, Cost]) -> list[_Move]:
    return [
        _Move(layer=layer, fmt=other, ms=costs[other].ms - costs[one].ms, noise=costs[one].noise - costs[other].noise)
        for one, other in pairwise(hull)
    ]
