"""The laws of stochastic rounding: how often a value goes up, and whether one draw knows of another.

Every count has an exact binomial distribution for a right quantizer, so a p-value is exact too. A quantizer is accused
where a p-value is under ALARM divided by the number of tests: the chance that a right one is accused by one whole check
is at most ALARM (Bonferroni), whatever the tests have to do with each other.

A bias under TOLERANCE of a step is not looked for: a draw of 20 or more bits may have it. Shares down to 2^-14 are
looked at, which a quantizer that uses fewer than 14 bits of its draw cannot meet.
"""

from collections.abc import Callable, Iterator, Sequence
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

FINE = tuple(i / 64 for i in range(1, 64) if i / 64 not in COMMON)
"""Shares between, at which a mistake is large or nothing."""

QUARTERS = (0.25, 0.5, 0.75)
"""Shares at which each size of numbers is looked at on its own."""

RARE = (2.0**-8, 2.0**-12, 2.0**-14)
"""Shares so near to the lower number that few draws go up; as near to the upper one they are looked at too."""

DRAWS = 1 << 16
FEW_DRAWS = 1 << 12
MOST_REGIONS = 48
TOLD = 4
"""Examples of bias that a report has at most."""

SHARES = (*COMMON, *FINE, *RARE, *(1 - rare for rare in RARE))
RARE_DRAWS = {2.0**-8: 1 << 16, 2.0**-12: 1 << 18, 2.0**-14: 1 << 19}
SEQUENCE = 70_001
NEAR = 1000
"""Fewer pairs say nothing: so far from the whole length the greatest distance stays."""

WINDOWS = (64, 1024)
CALLS, CALL_SIZE = 64, 4096
ALIKE = 0.99
"""Roundings that agree so often are accused of it, whatever their bias."""

FAR = 4.0
"""Standard deviations that the true share may be further from a half than the share found."""

CALL = (1 << 18) - 3
"""Values a call at most: no multiple of a vector's length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Places that all go up with the same chance."""

    where: str
    share: float
    at: Places
    draws: int
    region: bool
    """Of one size of numbers, not of all on one side of zero."""


def unbiased(subject: Subject, rng: np.random.Generator) -> Iterator[Problem]:
    """A value goes up as often as it is far from its lower neighbour, on both sides of zero and at every size."""
    if subject.rounding is not Rounding.STOCHASTIC:
        return
    groups = _groups(subject.format, rng, SHARES)
    counts = _count(subject, groups, rng)
    found: dict[tuple[bool, str], list[tuple[float, float, Problem]]] = {}
    for group, ups in zip(groups, counts, strict=True):
        p_value = binomial(ups, group.draws, group.share)
        if p_value < ALARM / len(groups):
            clarity = (max(p_value, NOTHING), abs(group.share - 0.5))
            found.setdefault((group.region, group.where), []).append((*clarity, _biased(group, ups, p_value)))
    # One example for each part of the range: the clearest, and of those the one nearest to half a step. Regions are
    # told where nothing larger is wrong.
    regions_alone = all(region for region, _ in found)
    examples = [min(problems) for (region, _), problems in found.items() if region == regions_alone]
    yield from (problem for *_, problem in sorted(examples)[:TOLD])


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


def _groups(fmt: Format, rng: np.random.Generator, shares: Sequence[float]) -> list[Group]:
    grid = numbers(fmt, rng)
    lower, steps = grid[:-1], np.diff(grid)
    parts, regions = _parts(fmt, lower), _regions(fmt, lower, rng)
    groups = []
    for share in shares:
        with np.errstate(under="ignore", over="ignore"):
            found = places((lower + share * steps).astype(np.float32), fmt)
        exact = found.share == share
        draws = FEW_DRAWS if share in FINE else RARE_DRAWS.get(min(share, 1 - share), DRAWS)
        looked_at = [(where, part, draws, False) for where, part in parts.items()]
        if share in QUARTERS:
            looked_at += [(where, part, FEW_DRAWS, True) for where, part in regions.items()]
        for where, part, count, region in looked_at:
            if (chosen := part & exact).any():
                groups.append(Group(where=where, share=share, at=found[chosen], draws=count, region=region))
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


def _regions(fmt: Format, lower: Doubles, rng: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
    """Intervals by size, and those at both ends and beside zero: a mistake in one of them is lost among all."""
    regions = {"at the upper end": lower == lower[-1], "at the lower end": lower == lower[0]}
    middle = int(np.searchsorted(lower, 0.0))
    beside = np.zeros(lower.shape, bool)
    beside[max(0, middle - 8) : middle + 8] = True
    regions["next to zero"] = beside
    with np.errstate(divide="ignore"):
        sizes = np.floor(np.log2(np.abs(lower)))
    found = sorted(
        {(float(size), bool(sign)) for size, sign in zip(sizes, lower < 0, strict=True) if np.isfinite(size)}
    )
    if len(found) > MOST_REGIONS:  # those around one, and some of the others
        found.sort(key=lambda entry: abs(entry[0]))
        others = rng.permutation(len(found) - MOST_REGIONS // 2)[: MOST_REGIONS // 2] + MOST_REGIONS // 2
        found = found[: MOST_REGIONS // 2] + [found[i] for i in others]
    for size, below in found:
        sign = "-" if below else ""
        name = f"from {sign}{2.0**size:g} to {sign}{2.0 ** (size + 1):g}"
        regions[name] = (sizes == size) & ((lower < 0) == below)
    return regions


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
    """Whether one value goes up says nothing of another value, near or far, nor of another call.

    At half a step, where two draws agree half of the time: the agreements at one distance are as many coins. Draws that
    are not even agree more often, which is bias and not told here.
    """
    if subject.rounding is not Rounding.STOCHASTIC:
        return
    halves = [group.at for group in _groups(subject.format, rng, (0.5,))]
    if not halves:  # float32 itself, of which every value is in the format
        return
    x = np.concatenate([at.x for at in halves])
    up = np.concatenate([at.up for at in halves])
    chosen = rng.integers(0, x.size, SEQUENCE)
    went = _went(subject, x[chosen], up[chosen], rng)
    chosen = chosen[:CALL_SIZE]
    calls = np.array([_went(subject, x[chosen], up[chosen], rng) for _ in range(CALLS)])
    skew = abs(float(np.mean(went > 0)) - 0.5) + FAR * 0.5 / SEQUENCE**0.5
    agreeing = (0.5, min(1.0, 0.5 + 2 * skew**2))
    kinds = (
        _in_two_calls(calls, agreeing),
        _at_distances(went, agreeing),
        _mirrored(went, agreeing),
        _in_windows(went, (max(0.0, 0.5 - skew), min(1.0, 0.5 + skew))),
    )
    tests = sum(kind.pairs.size for kind in kinds)
    problem = min((kind.worst for kind in kinds), key=lambda worst: max(worst.p_value, NOTHING))
    if problem.p_value < ALARM / tests:
        yield Problem(law="independence", message=problem.message, p_value=problem.p_value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The least likely of one kind of agreements."""

    p_value: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreements:
    """How often roundings agree, in many ways of one kind: so many of so many pairs each."""

    agreeing: NDArray[np.int64]
    pairs: NDArray[np.int64]
    right: tuple[float, float]
    """Between these is the share of a quantizer that is at most biased."""
    where: Callable[[int], str]
    all_agree: str = ""
    """What to say where all of them do."""

    @property
    def worst(self) -> Worst:
        chances = self._chances()
        at = int(np.argmin(chances))
        share = self.agreeing[at] / self.pairs[at]
        message = f"roundings agree {_percent(share)} of the time, where 50 % is right, {self.where(at)}"
        if self.all_agree and share == 1:
            message = self.all_agree
        return Worst(p_value=float(chances[at]), message=message)

    def _chances(self) -> Doubles:
        """Two-sided: of being as far outside of what is right, or further."""
        low, high = self.right
        alike = self.agreeing > ALIKE * self.pairs
        with np.errstate(under="ignore"):
            fewer = stats.binom.cdf(self.agreeing, self.pairs, low)
            more = stats.binom.sf(self.agreeing - 1, self.pairs, np.where(alike, 0.5, high))
        return np.asarray(np.minimum(1.0, 2 * np.minimum(fewer, more)))


def _went(subject: Subject, x: Values, up: Doubles, rng: np.random.Generator) -> Doubles:
    """1 where a value goes up, else -1."""
    return np.where(subject(x, random_words(rng, x.size)) == up, 1.0, -1.0)


def _in_two_calls(calls: Doubles, right: tuple[float, float]) -> Agreements:
    """Every two calls, each with words of its own."""
    count, size = calls.shape
    agreeing = (size + (calls @ calls.T).astype(np.int64)) // 2
    return Agreements(
        agreeing=agreeing[np.triu_indices(count, 1)],
        pairs=np.full(count * (count - 1) // 2, size),
        right=right,
        where=lambda _: "in two calls with different words",
        all_agree="other words give the same roundings in two calls with different words",
    )


def _at_distances(went: Doubles, right: tuple[float, float]) -> Agreements:
    """Values so far apart, for every distance that leaves enough pairs: from the autocorrelation, by FFT."""
    padded = np.fft.rfft(went, 2 * went.size)
    correlation = np.rint(np.fft.irfft(np.abs(padded) ** 2, 2 * went.size)[: went.size]).astype(np.int64)
    distances = np.arange(1, went.size - NEAR)
    pairs = went.size - distances
    return Agreements(
        agreeing=(pairs + correlation[distances]) // 2,
        pairs=pairs,
        right=right,
        where=lambda at: f"for values {distances[at]} apart",
    )


def _mirrored(went: Doubles, right: tuple[float, float]) -> Agreements:
    """The first with the last, the second with the last but one ..."""
    half = went.size // 2
    return Agreements(
        agreeing=np.array([np.count_nonzero(went[:half] == went[::-1][:half])]),
        pairs=np.array([half]),
        right=right,
        where=lambda _: "for values as far from the beginning as from the end",
    )


def _in_windows(went: Doubles, right: tuple[float, float]) -> Agreements:
    """How many of neighbouring values go up."""
    windows = [(size, begin) for size in WINDOWS for begin in range(0, went.size - size + 1, size)]
    sums = np.concatenate([[0], np.cumsum(went > 0)])
    size, begin = np.array(windows).T
    return Agreements(
        agreeing=sums[begin + size] - sums[begin],
        pairs=size,
        right=right,
        where=lambda at: f"with going up, among values {begin[at]} to {begin[at] + size[at] - 1}",
    )
