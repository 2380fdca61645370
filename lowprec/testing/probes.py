"""Values at which a quantizer to a format shows what it is: its numbers, what is halfway, what is next to both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowprec.encoding import decode
from lowprec.formats import Binary, Float, Format, limits
from lowprec.rounding import Rounding, round_to
from lowprec.testing.subject import Doubles, Values

ALL_CODES = 12
"""Formats of so many bits are looked at whole."""

SAMPLED = 1500
EACH = 3
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Values with their neighbours in the format, as float64, and how far up from the lower one they are."""

    x: Values
    down: Doubles
    up: Doubles

    @property
    def share(self) -> Doubles:
        """0 for values of the format, else between 0 and 1; exact, for both differences are."""
        step = self.up - self.down
        distance = self.x.astype(np.float64) - self.down
        return np.divide(distance, step, out=np.zeros_like(step), where=step > 0)

    def __getitem__(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> "Places":
        return Places(x=self.x[index], down=self.down[index], up=self.up[index])


def numbers(fmt: Format, rng: np.random.Generator) -> Doubles:
    """Finite values of the format that float32 holds, ascending: all, or a sample with its ends and the smallest."""
    low, high = _ordinals(fmt)
    if high - low < 1 << ALL_CODES:
        ordinals = np.arange(low, high + 1)
    else:
        near = np.arange(-40, 41)
        ends = np.concatenate([low + np.arange(40), high - np.arange(40), near[(near >= low) & (near <= high)]])
        drawn = rng.integers(low, high, SAMPLED, endpoint=True)
        # As many of each size, not only the large ones of which there are most.
        sizes = np.sign(drawn) * np.minimum(np.abs(drawn), 2.0 ** rng.uniform(0, np.log2(max(high, -low)), SAMPLED))
        middle = np.concatenate([drawn, sizes.astype(np.int64), _of_each_exponent(fmt, rng)])
        ordinals = np.unique(np.concatenate([ends, middle, middle + 1]))
        ordinals = ordinals[(ordinals >= low) & (ordinals <= high)]
    values = _at(ordinals, fmt)
    with np.errstate(over="ignore"):
        held = values == values.astype(np.float32)
    return np.unique(values[held] + 0.0)  # zero is one number here


def _of_each_exponent(fmt: Format, rng: np.random.Generator) -> NDArray[np.int64]:
    """A few numbers of every size and sign: what is wrong in one of two hundred is seen with certainty."""
    if not isinstance(fmt, Float):
        return np.zeros(0, np.int64)
    codes = np.arange(0, fmt.highest_code, 1 << fmt.mantissa)
    below = rng.integers(0, 1 << fmt.mantissa, (2 * EACH, codes.size))
    found: NDArray[np.int64] = (codes + below).reshape(2, -1) * np.array([[1], [-1]])
    return found.ravel()


def _ordinals(fmt: Format) -> tuple[int, int]:
    """Numbers of the format in order are counted from the first of these to the last; 0 is at 0."""
    match fmt:
        case Float():
            return -fmt.highest_code, fmt.highest_code
        case Binary():
            return 0, 1
        case _:
            low, high = fmt.codes
            return max(low, -(1 << 62)), min(high, 1 << 62)


def _at(ordinals: NDArray[np.int64], fmt: Format) -> Doubles:
    if isinstance(fmt, Float):
        return np.copysign(decode(np.abs(ordinals), fmt), ordinals)
    return decode(ordinals, fmt)


def places(x: Values, fmt: Format) -> Places:
    """Where values are. What is outside the format is between a bound and itself: it has one neighbour."""
    low, high = limits(fmt)
    inside = np.clip(x.astype(np.float64), low, high)
    down, up = (round_to(inside, fmt, way) for way in (Rounding.DOWN, Rounding.UP))
    return Places(x=x, down=down.astype(np.float64), up=up.astype(np.float64))


def probes(fmt: Format, rng: np.random.Generator, more: Sequence[float] = ()) -> Values:
    """Finite values inside the format's range, sorted: numbers, ties, both of their float32 neighbours, and others,
    among them `more` shares of every step."""
    grid = numbers(fmt, rng)
    steps = np.diff(np.clip(grid, -LARGEST, LARGEST))
    shares = [0.5, 0.25, 0.75, 2**-6, 1 - 2**-6, *more]
    between = [grid[:-1] + share * steps for share in shares] + [grid[:-1] + rng.random(steps.size) * steps]
    with np.errstate(over="ignore", under="ignore"):
        marked = np.concatenate([grid, between[0]]).astype(np.float32)
        beside = [np.nextafter(marked, np.float32(way)) for way in (-np.inf, np.inf)]
        found = np.unique(np.concatenate([marked, *beside, *(part.astype(np.float32) for part in between[1:])]))
    low, high = limits(fmt)
    inside: Values = found[np.isfinite(found) & (found >= low) & (found <= high)]
    return inside + np.float32(0)


def outside(fmt: Format) -> Values:
    """Finite values beyond the format's range, near and far: where words of any length would wrap around."""
    low, high = limits(fmt)
    reach = max(high, -low)
    with np.errstate(over="ignore"):
        offsets = np.concatenate([2.0 ** np.arange(-8, 40), [1.5, 3.0, 5.0, 100.0, 1000.0]]) * reach
        values = np.concatenate([high + offsets, low - offsets, [1e30, -1e30, LARGEST, -LARGEST]])
    values = values[np.abs(values) <= LARGEST]
    next_to_it = [np.nextafter(np.float32(end), np.float32(2 * end)) for end in (low, high) if abs(end) < LARGEST / 4]
    found: Values = np.unique(np.concatenate([values.astype(np.float32), next_to_it]).astype(np.float32))
    return found[(found > high) | (found < low)]
