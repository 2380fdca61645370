"""All laws together, and each on its own."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from lowprec.errors import UsageError, shown
from lowprec.formats import Format
from lowprec.rounding import Rounding, require_rounding
from lowprec.testing import chances, laws
from lowprec.testing.subject import Failed, Problem, Quantizer, Subject, generator

Law = Callable[[Subject, np.random.Generator], Iterator[Problem]]

CERTAIN: tuple[Law, ...] = (
    laws.reproducible,
    laws.supported,
    laws.rounds,
    laws.saturates,
    laws.keeps_nan,
)
SMALL: tuple[Law, ...] = (laws.takes_any_size,)
FAILURE = "failure"

LIKELY: tuple[Law, ...] = (chances.unbiased, chances.independent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check found. `alarm` is the chance that a right quantizer is accused so; 0 where problems are certain."""

    format: str
    rounding: str
    seed: int
    problems: tuple[Problem, ...]
    alarm: float

    @property
    def passed(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        subject = f"{self.rounding} to {self.format}"
        if self.passed:
            return f"{subject}: nothing wrong found"
        chance = f", a right quantizer is accused with a chance of {self.alarm:g} at most" if self.alarm else ""
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        return "\n".join([f"{subject}: {count}{chance}", *(f"  {problem}" for problem in self.problems)])

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"passed": self.passed}


def check(quantizer: Quantizer, fmt: Format, rounding: Rounding, *, seed: int = 0) -> Verdict:
    """Every law of `rounding` to `fmt`, for a `quantizer(x, bits)` that returns values.

    Values are float32, words uint32. Words are random for `seed`; the same seed gives the same verdict. Chances are
    looked at where nothing is certain to be wrong: what is moves them, and says more.
    """
    subject = subject_of(quantizer, fmt, rounding)
    problems: list[Problem] = []
    for number, group in enumerate((CERTAIN, SMALL, LIKELY)):
        for place, law in enumerate(group):
            problems += _found(law, subject, generator(seed, number, place))
            if problems and problems[-1].law == FAILURE:
                break
        if problems:
            break
    alarm = len(LIKELY) * chances.ALARM if any(problem.p_value is not None for problem in problems) else 0.0
    return Verdict(
        format=str(fmt), rounding=rounding.value, seed=int(seed), problems=tuple(dict.fromkeys(problems)), alarm=alarm
    )


def subject_of(quantizer: Quantizer, fmt: Format, rounding: Rounding) -> Subject:
    require_rounding(fmt, rounding)
    if not callable(quantizer):
        raise UsageError(f"the quantizer is {shown(quantizer)}: give a function of values and words")
    return Subject(quantizer=quantizer, format=fmt, rounding=rounding)


def _found(law: Law, subject: Subject, rng: np.random.Generator) -> list[Problem]:
    try:
        return list(law(subject, rng))
    except Failed as failure:
        return [Problem(law=FAILURE, message=str(failure))]


def _assert(law: Law, quantizer: Quantizer, fmt: Format, rounding: Rounding, seed: int) -> None:
    problems = _found(law, subject_of(quantizer, fmt, rounding), generator(seed))
    if problems:
        raise AssertionError("\n".join(map(str, problems)))


def assert_rounds(quantizer: Quantizer, fmt: Format, rounding: Rounding, *, seed: int = 0) -> None:
    """A rounding without draws gives the one right neighbour, ties included."""
    _assert(laws.rounds, quantizer, fmt, rounding, seed)


def assert_support(quantizer: Quantizer, fmt: Format, rounding: Rounding, *, seed: int = 0) -> None:
    """The result is a neighbour of the value in the format."""
    _assert(laws.supported, quantizer, fmt, rounding, seed)


def assert_idempotent(quantizer: Quantizer, fmt: Format, rounding: Rounding, *, seed: int = 0) -> None:
    """Values of the format do not move."""
    _assert(laws.idempotent, quantizer, fmt, rounding, seed)


def assert_monotone(quantizer: Quantizer, fmt: Format, rounding: Rounding, *, seed: int = 0) -> None:
    """A larger value never gives a smaller result with the same word. Not a law of stochastic rounding as such: for
    quantizers that use the word of each value for that value."""
    _assert(laws.monotone, quantizer, fmt, rounding, seed)


def assert_symmetric(quantizer: Quantizer, fmt: Format, rounding: Rounding, *, seed: int = 0) -> None:
    """Nearest and toward zero give -x the opposite of what they give x."""
    _assert(laws.symmetric, quantizer, fmt, rounding, seed)


def assert_saturates(quantizer: Quantizer, fmt: Format, rounding: Rounding, *, seed: int = 0) -> None:
    """What is beyond the format's ends stays there."""
    _assert(laws.saturates, quantizer, fmt, rounding, seed)


def assert_reproducible(quantizer: Quantizer, fmt: Format, rounding: Rounding, *, seed: int = 0) -> None:
    """The same values and words give the same result."""
    _assert(laws.reproducible, quantizer, fmt, rounding, seed)


def assert_unbiased(quantizer: Quantizer, fmt: Format, *, seed: int = 0) -> None:
    """Stochastic rounding goes up as often as it must."""
    _assert(chances.unbiased, quantizer, fmt, Rounding.STOCHASTIC, seed)


def assert_independent(quantizer: Quantizer, fmt: Format, *, seed: int = 0) -> None:
    """Stochastic rounding of one value says nothing of another's."""
    _assert(chances.independent, quantizer, fmt, Rounding.STOCHASTIC, seed)
