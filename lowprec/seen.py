"""What a model's calibration samples are asked for, and what they showed.

A layer's mean inputs are of bfloat16: they weigh errors of weights, and an artifact keeps them as text, two bytes each.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import UsageError
from lowprec.formats import BF16, limits
from lowprec.ranges import Method, Range
from lowprec.rounding import round_to

Means = NDArray[np.float32]
LARGEST = limits(BF16)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`methods` are of the tensors whose ranges are wanted; of each layer of `averages`, the mean over all but one axis
    of a tensor."""

    methods: Mapping[str, Method] = field(default_factory=dict)
    averages: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[str, ...]:
        """All that have to be seen."""
        return tuple(dict.fromkeys((*self.methods, *(name for name, _ in self.averages.values()))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The range of each tensor, and what each layer reads on average, by channel."""

    ranges: Mapping[str, Range] = field(default_factory=dict)
    means: Mapping[str, Means] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a request carries it, and an artifact's options do."""
        return {"ranges": dict(self.ranges), "means": {layer: _text(means) for layer, means in self.means.items()}}

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> "Seen | None":
        """What options carry; None where they have no ranges."""
        ranges = options.get("ranges")
        if ranges is None:
            return None
        pairs = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}
        return cls(
            ranges=pairs, means={layer: _means(layer, text) for layer, text in (options.get("means") or {}).items()}
        )


def rounded_means(means: NDArray[np.float64]) -> Means:
    """The nearest finite numbers of bfloat16."""
    return np.asarray(round_to(np.clip(means, -LARGEST, LARGEST).astype(np.float32), BF16), np.float32)


def _text(means: Means) -> str:
    return base64.b64encode((means.view(np.uint32) >> 16).astype("<u2").tobytes()).decode()


def _means(layer: str, text: object) -> Means:
    try:
        words = np.frombuffer(base64.b64decode(str(text), validate=True), "<u2").astype(np.uint32)
    except ValueError:
        raise UsageError(f"the means of {layer!r} are no text of bfloat16: compile the artifact again") from None
    return (words << 16).view(np.float32)
