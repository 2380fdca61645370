"""The laws of stochastic rounding: how often a value goes up, and whether one draw knows of another.

Every count has an exact binomial distribution for a right quantizer, so a p-value is exact too. A quantizer is accused
where a p-value is under ALARM divided by the number of tests: the chance that a right one is accused by one whole check
is at most ALARM (Bonferroni), whatever the tests have to do with each other.

A bias under TOLERANCE of a step is not looked for: a draw of 20 or more bits may have it. Shares down to 2^-14 are
looked at, which a quantizer that uses fewer than 14 bits of its draw cannot meet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lowprec.formats import Float, Format
from lowprec.rounding import Rounding
from lowprec.testing.probes import Places, numbers, places
from lowprec.testing.subject import Doubles, Problem, Subject, Values, random_words

ALARM = 1e-9
TOLERANCE = 2.0**-20

NOTHING = 1e-300
"""A chance that is as good as none."""

COMMON = tuple(i / 16 for i in (1, 2, 4, 6, 8, 10, 12, 14, 15))
"""Shares of a step at which few draws say much."""

RARE = (2.0**-8, 2.0**-12, 2.0**-14)
"""Shares so near to the lower number that few draws go up; as near to the upper one they are looked at too."""

DRAWS = 1 << 16
RARE_DRAWS = {2.0**-8: 1 << 16, 2.0**-12: 1 << 18, 2.0**-14: 1 << 19}
SEQUENCE = 1 << 16
BIASED, ALIKE = 1e-6, 0.99
CALL = 1 << 18
"""Values a call at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Places that all go up with the same chance."""

    where: str
    share: float
    at: Places
    draws: int


def unbiased(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """A value goes up as often as it is far from its lower neighbour, on both sides of zero and at every size."""
    if subject.rounding is not Rounding.STOCHASTIC:
        return
    groups = _groups(subject.format, rng)
    counts = _count(subject, groups, rng)
    found: dict[str, list[tuple[float, float, Problem]]] = {}
    for group, ups in zip(groups, counts, strict=True):
        p_value = binomial(ups, group.draws, group.share)
        if p_value < ALARM / len(groups):
            clarity = (max(p_value, NOTHING), abs(group.share - 0.5))
            found.setdefault(group.where, []).append((*clarity, _biased(group, ups, p_value)))
    # One example for each part of the range: the clearest, and of those the one nearest to half a step.
    yield from (min(problems, key=lambda entry: entry[:2])[2] for problems in found.values())


def _biased(group: Group, ups: int, p_value: float) -> Problem:
    found, right = ups / group.draws, group.share
    word = "up" if found > right else "down"
    found, right = (found, right) if word == "up" else (1 - found, 1 - right)
    place = f"{group.share:g} of a step, {group.where}"
    message = f"rounds {word} {_percent(found)} of the time at {place}, where {_percent(right)} is right"
    return Problem(law="bias", message=message, p_value=p_value)


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def binomial(ups: int, draws: int, share: float) -> float:
    """How likely it is, two-sided, to be as far from `share` or further, were the true share within TOLERANCE of it."""
    fewer = stats.binom.cdf(ups, draws, max(share - TOLERANCE, 0.0))
    more = stats.binom.sf(ups - 1, draws, min(share + TOLERANCE, 1.0))
    return float(min(1.0, 2 * min(fewer, more)))


def _groups(fmt: Format, rng: np.random.Generator) -> list[Group]:
    grid = numbers(fmt, rng)
    lower, steps = grid[:-1], np.diff(grid)
    parts = _parts(fmt, lower)
    groups = []
    for share in (*COMMON, *RARE, *(1 - rare for rare in RARE)):
        with np.errstate(under="ignore", over="ignore"):
            found = places((lower + share * steps).astype(np.float32), fmt)
        exact = found.share == share
        draws = RARE_DRAWS.get(min(share, 1 - share), DRAWS)
        for where, part in parts.items():
            if (chosen := part & exact).any():
                groups.append(Group(where=where, share=share, at=found[chosen], draws=draws))
    return groups


def _parts(fmt: Format, lower: Doubles) -> dict[str, NDArray[np.bool_]]:
    """Intervals by where their lower number is: each part may go wrong on its own."""
    small = 2.0**fmt.lowest_exponent if isinstance(fmt, Float) else 0.0
    parts = {
        "above zero": lower >= small,
        "below zero": lower < -small,
        "among positive subnormals": (lower >= 0) & (lower < small),
        "among negative subnormals": (lower < 0) & (lower >= -small),
    }
    return {where: part for where, part in parts.items() if part.any()}


def _count(subject: Subject, groups: Sequence[Group], rng: np.random.Generator) -> list[int]:
    """How many draws of each group go up. Groups are mixed, so that no call is of one kind of value."""
    index = np.repeat(np.arange(len(groups)), [group.draws for group in groups])
    rng.shuffle(index)
    ups = np.zeros(len(groups), np.int64)
    for begin in range(0, index.size, CALL):
        part = index[begin : begin + CALL]
        x, up = _drawn(groups, part, rng)
        went = subject(x, random_words(rng, x.size)) == up
        ups += np.bincount(part[went], minlength=len(groups))
    return ups.tolist()


def _drawn(groups: Sequence[Group], index: NDArray[np.integer], rng: np.random.Generator) -> tuple[Values, Doubles]:
    """For each index a place of that group."""
    sizes = np.array([group.at.x.size for group in groups])
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    at = first[index] + (rng.random(index.size) * sizes[index]).astype(np.int64)
    return np.concatenate([group.at.x for group in groups])[at], np.concatenate([group.at.up for group in groups])[at]


def independent(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """Whether one value goes up says nothing of another value, near or far, nor of the next call.

    At half a step, where two draws agree half of the time: the agreements at one distance are as many coins.
    """
    if subject.rounding is not Rounding.STOCHASTIC:
        return
    halves = [group.at for group in _groups(subject.format, rng) if group.share == 0.5]
    if not halves:  # float32 itself, of which every value is in the format
        return
    x = np.concatenate([at.x for at in halves])
    up = np.concatenate([at.up for at in halves])
    chosen = rng.integers(0, x.size, SEQUENCE)
    x, up = x[chosen], up[chosen]
    bits, others = random_words(rng, SEQUENCE), random_words(rng, SEQUENCE)
    first, second = (np.where(subject(x, words) == up, 1.0, -1.0) for words in (bits, others))
    # Draws that are not even agree more often than not: that is bias, unless they are all but the same.
    even = binomial(int(np.count_nonzero(first > 0)), SEQUENCE, 0.5) > BIASED
    agreeing = int(np.count_nonzero(first == second))
    if (p_value := binomial(agreeing, SEQUENCE, 0.5)) < ALARM / 2 and (even or agreeing > ALIKE * SEQUENCE):
        message = "other words give the same roundings" if agreeing == SEQUENCE else _agreement(agreeing, SEQUENCE)
        yield Problem(law="independence", message=f"{message} in two calls with different words", p_value=p_value)
        return
    distances = np.arange(1, SEQUENCE // 2)
    agreements = _agreements(first)[distances]
    pairs = SEQUENCE - distances
    with np.errstate(under="ignore"):
        chances = 2 * np.minimum(stats.binom.cdf(agreements, pairs, 0.5), stats.binom.sf(agreements - 1, pairs, 0.5))
    at = int(np.argmin(chances))
    if chances[at] < ALARM / 2 / distances.size and (even or agreements[at] > ALIKE * pairs[at]):
        message = f"{_agreement(agreements[at], pairs[at])} for values {distances[at]} apart"
        yield Problem(law="independence", message=message, p_value=float(chances[at]))


def _agreement(agreeing: int, pairs: int) -> str:
    return f"roundings agree {_percent(agreeing / pairs)} of the time, where 50 % is right,"


def _agreements(signs: Doubles) -> NDArray[np.int64]:
    """For each distance, how many pairs so far apart are equal: from the autocorrelation, by FFT."""
    padded = np.fft.rfft(signs, 2 * signs.size)
    correlation = np.rint(np.fft.irfft(np.abs(padded) ** 2)[: signs.size]).astype(np.int64)
    return (np.arange(signs.size, 0, -1) + correlation) // 2
