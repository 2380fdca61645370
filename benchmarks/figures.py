"""What a benchmark's times come to: percentiles, spread, and a ratio that a slow minute of the machine leaves alone."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

Turns = Sequence[Sequence[float]]


class Seconds(NamedTuple):
    """What a round of layers took, all copies together."""

    layers: float
    whole: float
    """With the changes of layout before and after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One engine on one subject.

    `spread` is (p90 - p10) / p50; `ratio` is its time over ours: above 1, ours is faster.
    """

    engine: str
    p50_ms: float
    p90_ms: float
    spread: float
    ratio: float | None
    runs: int
    error: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarize(engine: str, turns: Turns, ours: Turns | None, *, error: float) -> Figure:
    """The ratio is the median over turns of two medians taken one right after the other, not of two global numbers."""
    milliseconds = 1e3 * np.array([second for turn in turns for second in turn])
    p10, p50, p90 = (float(value) for value in np.percentile(milliseconds, (10, 50, 90)))
    return Figure(
        engine=engine,
        p50_ms=p50,
        p90_ms=p90,
        spread=(p90 - p10) / p50,
        ratio=None if ours is None else _paired_ratio(turns, ours),
        runs=len(milliseconds),
        error=error,
    )


def _paired_ratio(turns: Turns, ours: Turns) -> float:
    pairs = zip(turns, ours, strict=False)
    return statistics.median(statistics.median(turn) / statistics.median(own) for turn, own in pairs)
