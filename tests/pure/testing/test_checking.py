"""The checks catch planted bugs, all of them, and accuse no right quantizer."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from lowprec.errors import UsageError
from lowprec.formats import FP32, Binary, Fixed, Int
from lowprec.rounding import Rounding, round_to
from lowprec.testing import Verdict, check
from tests.amounts import thinned
from tests.pure.testing.planted import BUGS, Q214, RIGHT, STOCHASTIC, Case, by_floor, uniform

SEEDS = range(20)


def verdict_of(case: Case, seed: int) -> Verdict:
    return check(case.quantizer, case.format, case.rounding, seed=seed)


def test_there_are_enough_of_either() -> None:
    assert len(BUGS) >= 20
    assert len({case.kind for case in BUGS}) >= 12
    assert len(RIGHT) >= 50
    assert len({case.kind for case in RIGHT}) >= 10


@pytest.mark.parametrize("case", thinned(BUGS), ids=str)
def test_bugs_are_caught(case: Case) -> None:
    verdict = verdict_of(case, 0)
    assert not verdict.passed
    assert case.law in {problem.law for problem in verdict.problems}, str(verdict)
    assert all("\n" not in problem.message for problem in verdict.problems)


@pytest.mark.slow
@pytest.mark.parametrize("case", BUGS, ids=str)
def test_bugs_are_caught_with_any_seed(case: Case) -> None:
    assert not any(verdict_of(case, seed).passed for seed in SEEDS)


@pytest.mark.parametrize("case", thinned(RIGHT), ids=str)
def test_right_quantizers_are_not_accused(case: Case) -> None:
    verdict = verdict_of(case, 0)
    assert verdict.passed, str(verdict)


@pytest.mark.slow
@pytest.mark.parametrize("case", RIGHT, ids=str)
def test_right_quantizers_are_not_accused_with_any_seed(case: Case) -> None:
    accused = [str(verdict) for seed in SEEDS if not (verdict := verdict_of(case, seed)).passed]
    assert not accused


def test_the_report_says_what_is_wrong() -> None:
    verdict = check(lambda x, bits: by_floor(x, np.sqrt(uniform(bits))), Q214, STOCHASTIC)
    first, *problems = str(verdict).splitlines()
    assert first.startswith("stochastic to q2.14: ")
    assert "chance of 2e-09 at most" in first
    assert any(
        "rounds down 7" in line and "at 0.5 of a step, above zero, where 50 % is right, p < 1e-" in line
        for line in problems
    )
    assert str(check(lambda x, bits: np.rint(x).clip(-8, 7), Int(4), Rounding.NEAREST_EVEN)).endswith(
        "nothing wrong found"
    )


def test_a_verdict_is_json_and_depends_on_the_seed_alone() -> None:
    case = BUGS[0]
    assert verdict_of(case, 7) == verdict_of(case, 7)
    document = json.loads(json.dumps(verdict_of(case, 7).to_json()))
    assert (document["passed"], document["format"], document["seed"]) == (False, "q2.14", 7)
    assert {"law", "message", "p_value"} == set(document["problems"][0])


def test_the_quantizer_cannot_change_what_it_is_given() -> None:
    def spoiling(x: NDArray[np.float32], bits: NDArray[np.uint32]) -> NDArray[np.floating]:
        result = round_to(x, Q214, STOCHASTIC, bits=bits)
        x[:], bits[:] = 0, 0
        return result

    assert check(spoiling, Q214, STOCHASTIC).passed


def test_float32_itself_has_nothing_to_draw() -> None:
    assert check(lambda x, bits: x, FP32, STOCHASTIC).passed


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((None, Q214, STOCHASTIC), "give a function"),
        ((abs, "q2.14", STOCHASTIC), "the format is 'q2.14'"),
        ((abs, Q214, "nearest"), "give a lowprec.Rounding"),
        ((abs, Binary(), Rounding.TOWARD_ZERO), "nothing between -1 and 1"),
    ],
)
def test_refusals(arguments: tuple[object, ...], part: str) -> None:
    with pytest.raises(UsageError, match=part) as caught:
        check(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_words_longer_than_float32_are_judged_by_what_float32_holds() -> None:
    fmt = Fixed(8, 24)
    assert check(lambda x, bits: round_to(x, fmt, STOCHASTIC, bits=bits), fmt, STOCHASTIC).passed
