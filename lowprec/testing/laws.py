"""The laws that hold or do not: what is found here is certain."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lowprec.formats import Binary, Float, limits
from lowprec.rounding import Rounding, round_to
from lowprec.testing.probes import Places, outside, places, probes
from lowprec.testing.subject import Doubles, Problem, Subject, Values, Words, random_words

MIRRORED = {Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO}


def reproducible(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """The result depends on values and words alone, and without a draw on values alone."""
    x = probes(subject.format, rng)
    bits, others = random_words(rng, x.size), random_words(rng, x.size)
    first, again = subject(x, bits), subject(x, bits)
    if (differs := ~_same(first, again)).any():
        yield _problem("reproducibility", "two calls with the same values and words differ", x, first, differs)
    elif subject.rounding is not Rounding.STOCHASTIC and (differs := ~_same(first, subject(x, others))).any():
        yield _problem("reproducibility", f"{subject.rounding.value} depends on the words drawn", x, first, differs)


def supported(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """A value becomes one of its neighbours in the format, and a value of the format itself."""
    found = places(probes(subject.format, rng), subject.format)
    for bits in _few_words(rng, found.x.size):
        result = subject(found.x, bits)
        problems = list(_support(subject, found, result))
        yield from problems
        if problems:
            return


def _support(subject: Subject, found: Places, result: Doubles) -> Iterator[Problem]:
    neighbour = (result == found.down) | (result == found.up)
    exact = found.down == found.up
    flushed = ~neighbour & (result == 0)
    if isinstance(subject.format, Float) and flushed.any() and (flushed == ~neighbour).all():
        yield _problem("subnormals", "small values become zero", found.x, result, flushed)
    elif (moved := exact & ~neighbour).any():
        yield _problem("idempotence", f"values of {subject.format} move", found.x, result, moved)
    elif not neighbour.all():
        strangers = ~neighbour & ~np.isin(result, np.concatenate([found.down, found.up]))
        what = "a value that is no neighbour" if not strangers.any() else f"what is no value of {subject.format} nearby"
        yield _problem("support", f"the result is {what}", found.x, result, ~neighbour)


def idempotent(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """Values of the format do not move, whatever is drawn."""
    found = places(probes(subject.format, rng), subject.format)
    x = found.x[found.down == found.up]
    for bits in _few_words(rng, x.size):
        result = subject(x, bits)
        if (moved := result != x).any():
            yield _problem("idempotence", f"values of {subject.format} move", x, result, moved)
            return


def rounds(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """A rounding without draws gives the one right neighbour."""
    if subject.rounding is Rounding.STOCHASTIC:
        return
    found = places(probes(subject.format, rng), subject.format)
    result = subject(found.x, random_words(rng, found.x.size))
    right = round_to(found.x, subject.format, subject.rounding).astype(np.float64)
    wrong = ((result == found.down) | (result == found.up)) & (result != right)
    ties = wrong & (found.share == 0.5)
    nearest = subject.rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
    if nearest and ties.any():
        way = _way(found[ties], result[ties])
        yield _problem("ties", f"ties go {way}, not {subject.rounding.value}", found.x, result, ties, right)
    others = wrong & ~ties if nearest else wrong
    if others.any():
        way = _way(found[others], result[others])
        yield _problem("rounding", f"values go {way}, not {subject.rounding.value}", found.x, result, others, right)


def _way(found: Places, result: Doubles) -> str:
    """Where all of the values go."""
    ups = result == found.up
    away = ups == (found.x > 0)
    words = {"up": ups.all(), "down": (~ups).all(), "away from zero": away.all(), "toward zero": (~away).all()}
    return next((word for word, holds in words.items() if holds), "the wrong way")


def monotone(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """A larger value never gives a smaller result, with the same word for both."""
    x = probes(subject.format, rng)
    for word in random_words(rng, 4):
        result = subject(x, np.full(x.size, word))
        falls = np.flatnonzero(np.diff(result) < 0)
        if falls.size:
            smaller, larger = ((_show(x[at]), _show(result[at])) for at in (falls[0], falls[0] + 1))
            message = f"{larger[0]} gives {larger[1]}, the smaller {smaller[0]} {smaller[1]}"
            yield Problem(law="monotonicity", message=message)
            return


def symmetric(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """Roundings that do not look at the sign give -x the opposite of what they give x."""
    if subject.rounding not in MIRRORED or isinstance(subject.format, Binary):
        return
    low, high = limits(subject.format)
    x = probes(subject.format, rng)
    x = x[np.abs(x) <= min(high, -low)]
    bits = random_words(rng, x.size)
    result, mirrored = subject(x, bits), subject(-x, bits)
    if (wrong := result != -mirrored).any():
        at = np.flatnonzero(wrong)[0]
        message = f"{_show(x[at])} gives {_show(result[at])}, {_show(-x[at])} gives {_show(mirrored[at])}"
        yield Problem(law="symmetry", message=message)


def saturates(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """What is beyond the ends stays at the ends; a Float may overflow instead, but then everywhere as it should.

    Overflow is IEEE 754's, 7.4, and NaN where a format has no infinity. Stochastically the first step beyond the
    highest number may go either way.
    """
    low, high = limits(subject.format)
    x = np.concatenate([outside(subject.format), np.array([np.inf, -np.inf], np.float32)])
    result = subject(x, random_words(rng, x.size))
    at_ends = result == np.where(x > 0, high, low)
    if isinstance(subject.format, Float):
        at_ends |= (result == x) & np.isinf(x) & subject.format.has_infinity  # infinity itself may stay in any case
        overflown = _overflown(subject.format, subject.rounding, x)
        right = [at_ends, _same(result, overflown.astype(np.float64)) | (at_ends & _first_step(subject, x))]
    else:  # the end of a long word may be no float32
        inner, outer = limits(subject.format, np.float32), np.array([low, high], np.float32)
        right = [at_ends | (result == np.where(x > 0, end[1], end[0])) for end in (inner, outer)]
    if not any(policy.all() for policy in right):
        what = f"{subject.format} ends at {_show(low)} and {_show(high)}"
        yield _problem("saturation", what, x, result, ~max(right, key=np.count_nonzero))


def _overflown(fmt: Float, rounding: Rounding, x: Values) -> NDArray[np.floating]:
    """What becomes of values beyond the highest number where they do not stay there."""
    if fmt.has_infinity and rounding is not Rounding.STOCHASTIC:
        return round_to(x, fmt, rounding)
    highest = np.copysign(fmt.highest, x)
    over = np.copysign(np.inf, x) if fmt.has_infinity else np.full(x.shape, np.nan) if fmt.has_nan else highest
    if rounding is Rounding.STOCHASTIC:
        return over
    # With one exponent bit more, as if there were no highest number.
    rounded = round_to(x, Float(fmt.exponent + 1, fmt.mantissa), rounding)
    return np.where(np.abs(rounded) > fmt.highest, over, highest)


def _first_step(subject: Subject, x: Values) -> NDArray[np.bool_]:
    """Values that stochastic rounding may leave at the highest number."""
    if subject.rounding is not Rounding.STOCHASTIC or not isinstance(subject.format, Float):
        return np.zeros(x.shape, bool)
    step = 2.0 ** (np.floor(np.log2(subject.format.highest)) - subject.format.mantissa)
    return np.asarray(np.abs(x.astype(np.float64)) < subject.format.highest + step)


NANS = (0x7FC00000, 0xFFC00000, 0x7FE00000, 0xFFE00000)
"""Quiet NaN of both signs."""


def keeps_nan(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """Quiet NaN of either sign stays NaN where the format can say it."""
    if not (isinstance(subject.format, Float) and subject.format.has_nan):
        return
    x = np.repeat(np.array(NANS, np.uint32), 16).view(np.float32)
    result = subject(x, random_words(rng, x.size))
    if not np.isnan(result).all():
        yield _problem("NaN", "NaN becomes a number", x, result, ~np.isnan(result))


def takes_any_size(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """One value, or a few, are rounded as many are."""
    x = probes(subject.format, rng)
    for size in (1, 2, 7, 33):
        found = places(rng.choice(x, size), subject.format)
        result = subject(found.x, random_words(rng, size))
        wrong = (result != found.down) & (result != found.up)
        if wrong.any():
            yield _problem("support", f"of {size} values one is no neighbour", found.x, result, wrong)
            return


def _few_words(rng: np.random.Generator, count: int) -> Iterator[Words]:
    """The ends of what can be drawn, and two draws."""
    yield np.zeros(count, np.uint32)
    yield np.full(count, (1 << 32) - 1, np.uint32)
    yield random_words(rng, count)
    yield random_words(rng, count)


def _same(a: Doubles, b: Doubles) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (a == b) | (np.isnan(a) & np.isnan(b))
    return same


def _problem(
    law: str, what: str, x: Values, result: Doubles, wrong: NDArray[np.bool_], right: Doubles | None = None
) -> Problem:
    """With the simplest value as an example: the shortest to write, and of those the smallest."""
    where = np.flatnonzero(wrong)
    some = where[:: max(1, where.size // 500)].tolist()
    at = min(some, key=lambda i: (len(_show(float(x[i]))), abs(float(x[i]))))
    instead = "" if right is None else f" and not {_show(float(right[at]))}"
    example = f"{_show(float(x[at]))} becomes {_show(float(result[at]))}{instead}"
    return Problem(law=law, message=f"{what}: {example} ({where.size} of {x.size} values)")


def _show(value: float) -> str:
    return f"{value:.9g}"
