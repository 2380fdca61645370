"""Checks for anyone's quantizer: is its rounding what it says, and is it unbiased?

    from lowprec.testing import check
    verdict = check(quantizer, lowprec.Fixed(2, 14), lowprec.Rounding.STOCHASTIC)
    print(verdict)              # what is wrong, in words, or that nothing is; verdict.passed, verdict.problems

`quantizer(x, bits)` takes float32 values and as many uint32 words, and returns values; one that needs no words ignores
them. `check` looks at every law with chances; `prove` counts every draw of a quantizer that obeys lowprec's equations;
the `assert_` functions are one law each, for a test suite; `strategies` are for Hypothesis.
"""

from lowprec.testing import strategies
from lowprec.testing.checking import (
    Verdict,
    assert_idempotent,
    assert_independent,
    assert_monotone,
    assert_reproducible,
    assert_rounds,
    assert_saturates,
    assert_support,
    assert_symmetric,
    assert_unbiased,
    check,
)
from lowprec.testing.proving import prove
from lowprec.testing.subject import Problem, Quantizer

__all__ = [
    "Problem",
    "Quantizer",
    "Verdict",
    "assert_idempotent",
    "assert_independent",
    "assert_monotone",
    "assert_reproducible",
    "assert_rounds",
    "assert_saturates",
    "assert_support",
    "assert_symmetric",
    "assert_unbiased",
    "check",
    "prove",
    "strategies",
]
