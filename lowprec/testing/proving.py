"""Proof by counting: every draw of k bits, at places in every interval of a small format.

For quantizers that obey lowprec's equations 5 and 6: the draw is the highest k bits of the word, and exactly
f = nearest-even(share * 2^k) of the 2^k draws go up. No chance is involved, and no tolerance.
"""

import numpy as np

from lowprec.errors import UsageError, shown
from lowprec.formats import Format
from lowprec.rounding import DRAWN, Rounding
from lowprec.testing.checking import Verdict, subject_of
from lowprec.testing.probes import ALL_CODES, Places, places, probes
from lowprec.testing.subject import Failed, Problem, Quantizer, Subject, generator

MOST_BITS = 16
CALL = 1 << 20


def prove(quantizer: Quantizer, fmt: Format, *, bits_used: int, seed: int = 0) -> Verdict:
    """Whether all draws of `bits_used` bits, at most 16, go where the equations say, for a format of up to 12 bits."""
    subject = subject_of(quantizer, fmt, Rounding.STOCHASTIC)
    if type(bits_used) is not int or not 1 <= bits_used <= MOST_BITS:
        raise UsageError(f"bits_used is {shown(bits_used)}: give an integer from 1 to {MOST_BITS} to count all draws")
    if fmt.bits > ALL_CODES:
        raise UsageError(f"{fmt} has {fmt.bits} bits: at most {ALL_CODES} can be looked at whole")
    # One draw and all but one, and what is halfway between counts.
    least = [i * 2.0 ** -(bits_used + 1) for i in (1, 2, 3)]
    found = places(probes(fmt, generator(seed), [*least, *(1 - share for share in least)]), fmt)
    try:
        problem = _refuted(subject, found, bits_used)
    except Failed as failure:
        problem = Problem(law="failure", message=str(failure))
    problems = () if problem is None else (problem,)
    return Verdict(format=str(fmt), rounding=Rounding.STOCHASTIC.value, seed=seed, problems=problems, alarm=0.0)


def _refuted(subject: Subject, found: Places, bits_used: int) -> Problem | None:
    draws = np.arange(1 << bits_used, dtype=np.uint32) << np.uint32(DRAWN - bits_used)
    # From the neighbour that is nearer to zero, where the distance is exact: equation 5 is the same mirrored.
    below, step = np.signbit(found.x), np.where(found.up > found.down, found.up - found.down, 1.0)
    inner = np.where(below, found.up - found.x, found.x - found.down) / step
    shares = np.rint(inner * 2.0**bits_used)
    right = np.where(found.share == 0, 0, np.where(below, 2.0**bits_used - shares, shares)).astype(np.int64)
    each = max(1, CALL >> bits_used)
    for begin in range(0, found.x.size, each):
        part = found[np.arange(begin, min(begin + each, found.x.size))]
        count = part.x.size
        result = subject(np.repeat(part.x, draws.size), np.tile(draws, count)).reshape(count, -1)
        goes_up = result == part.up[:, None]
        strangers = ~goes_up & (result != part.down[:, None])
        if strangers.any():
            at = np.argwhere(strangers)[0]
            message = f"{part.x[at[0]]:.9g} becomes {result[tuple(at)]:.9g}, which is no neighbour"
            return Problem(law="support", message=message)
        ups = np.where(part.share > 0, goes_up.sum(axis=1), 0)
        wrong = np.flatnonzero(ups != right[begin : begin + count])
        if wrong.size:
            at = wrong[0]
            message = f"{ups[at]} of {draws.size} draws take {part.x[at]:.9g} up, where {right[begin + at]} must"
            return Problem(law="bias", message=message)
        if (np.diff(result, axis=1) < 0).any():
            return Problem(law="monotonicity", message="a larger draw gives a smaller result")
    return None
