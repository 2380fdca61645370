"""Rounding inside compiled kernels, bit for bit what `lowprec.round_to` gives: each format, rounding and draw length.

Values stand where rounding can go wrong, and stochastic rounding gets the draws where it turns. Quick tests take some
formats of every kind; slow ones every grid of up to 24 bits and every float that kernels round to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.errors import Unsupported
from lowprec.formats import BF16, FP16, FP32, TF32, Binary, DynamicFixed, Fixed, Float, Format, Int, Specials
from lowprec.rounding import DRAWN, Rounding, round_to
from lowprec.schedules.rounding import Rounder, why_not
from lowprec.schedules.views import load, named, store
from lowprec.targets import Target, detect_features, machine_arch, parse_target
from tests.scalar_rounding import ladder

Values = NDArray[np.float32]
Draws = NDArray[np.uint32]

LISTED: tuple[Format, ...] = (
    *(Fixed(1, 0), Fixed(1, 1), Fixed(2, 14), Fixed(8, 8), Fixed(1, 15), Fixed(1, 16)),
    *(Fixed(7, 15), Fixed(8, 15), Fixed(1, 23), Fixed(12, 12), Fixed(24, 0)),
    *(Int(bits, signed) for bits in (1, 8, 22, 23, 24) for signed in (True, False)),
    *(DynamicFixed(10, exponent) for exponent in (-100, -20, -1, 1, 5, 100)),
    *(DynamicFixed(1, -7), DynamicFixed(1, 7), DynamicFixed(24, -100), DynamicFixed(24, -9), DynamicFixed(24, 100)),
    Binary(),
    *(FP16, BF16, TF32, Float(5, 2), Float(7, 12), Float(8, 1), Float(8, 22), Float(7, 22), Float(2, 22), Float(2, 1)),
    *(Float(4, 3, specials) for specials in Specials),
    *(Float(2, 1, Specials.NONE), Float(3, 2, Specials.NONE), Float(2, 3, Specials.NONE)),
    *(Float(5, 2, Specials.NEGATIVE_ZERO), Float(7, 1, Specials.NAN), Float(7, 22, Specials.NONE)),
)

EVERY: tuple[Format, ...] = (
    *(Fixed(bits - fraction, fraction) for bits in range(1, 25) for fraction in range(bits)),
    *(Int(bits, signed) for bits in range(1, 25) for signed in (True, False)),
    *(DynamicFixed(bits, exponent) for bits in range(1, 25) for exponent in (-100, -64, -16, -15, -3, 1, 9, 64, 100)),
    *(Float(e, m, specials) for e in range(2, 8) for m in range(1, 23) for specials in Specials),
    *(Float(8, m) for m in range(1, 23)),
)


@dataclass(frozen=True, slots=True)
class Rule:
    rounding: Rounding
    bits_used: int = DRAWN

    def __str__(self) -> str:
        drawn = self.rounding is Rounding.STOCHASTIC
        return self.rounding.value + (f"-{self.bits_used}" if drawn else "")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a kernel is compiled for; `lanes` are those of its vectors."""

    name: str
    lanes: int

    def __str__(self) -> str:
        return f"{self.name}-{self.lanes}"

    @property
    def target(self) -> Target:
        return parse_target(self.name)


@dataclass(frozen=True, slots=True)
class Probe:
    """Values in one format, with a draw for each, and what they become."""

    format: Format
    x: Values
    draws: Draws
    expected: Values


PLAIN = [Rule(rounding) for rounding in Rounding if rounding is not Rounding.STOCHASTIC]
RULES = [*PLAIN, *(Rule(Rounding.STOCHASTIC, bits_used) for bits_used in (32, 24, 16, 8, 2, 1))]
BATCH = 32
OTHER_LENGTHS = [Rule(Rounding.STOCHASTIC, k) for k in range(1, DRAWN + 1) if k not in (32, 24, 16, 8, 2, 1)]

USUAL = [Machine("x86-64-v4", 16), Machine("x86-64", 4), Machine("x86-64-v3", 8), Machine("native", 1)]
COVERING = list(zip(USUAL, (slice(None), slice(0, None, 2), slice(1, None, 2), slice(0, None, 2)), strict=True))
"""With the formats that each has in a quick test: the first has instructions of its own, the others share one way."""

MACHINES = [
    *(*USUAL, Machine("x86-64", 1), Machine("x86-64-v3", 1), Machine("x86-64-v4", 1), Machine("x86-64-v4", 8)),
    Machine("native", parse_target("native").lanes),
]

SHARES = (
    *(0.0, 0.25, 0.375, 0.5, 0.625, 0.75, 1 - 2.0**-9, 1 - 2.0**-24),
    *(odd * 2.0**-exponent for exponent in (3, 9, 17, 25, 33) for odd in (1, 3)),
)
"""Places in a step: ties of every rounding, to nearest and of shares to 2^-k, and what is almost none or all of it."""

SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 0.5, -0.5, 1, -1, 1.5, -1.5, 2.5, -2.5]
    + [sign * number for sign in (1, -1) for number in (1e-45, 4e-45, 1e-40, 1.17549435e-38, 1e-30, 1e30, 2.0**127)]
    + [sign * float(np.finfo(np.float32).max) for sign in (1, -1)],
    np.float32,
)


def lacking(machine: Machine) -> list[str]:
    """What this CPU would need to run code for the machine."""
    target = machine.target
    return sorted(target.features - detect_features()) if target.arch == machine_arch() else [target.arch]


def numbers(fmt: Format, some: int) -> list[int]:
    """Where to look among the numbers of a format's values: both ends, about zero, about powers of two, and `some`."""
    steps = ladder(str(fmt))
    first, last = steps.ends
    field = 1 << fmt.mantissa if isinstance(fmt, Float) else 1
    powers = [field * i for i in (1, 2, 3, last // field - 1, last // field)] + [
        1 << i for i in range(last.bit_length())
    ]
    near = [0, last, *powers, *np.random.default_rng(some).integers(first, last + 1, some).tolist()]
    wanted = {sign * number + i for number in near for sign in (1, -1) for i in (-1, 0, 1)} | {first, first + 1}
    return sorted(number for number in wanted if first <= number < last)


@lru_cache(maxsize=len(LISTED))
def places(fmt: Format, some: int) -> Values:
    """Where to round: in some steps of the format and out of it, and any float32 at all."""
    steps = ladder(str(fmt))
    chosen = numbers(fmt, some)
    low, high = (np.array([float(steps.value(number + i)) for number in chosen]) for i in (0, 1))
    width = (high - low)[:, None]
    inside = low[:, None] + width * np.array(SHARES)
    beyond = np.array([low.min(), high.max()])[:, None] + width.max() * np.array([-2, -1, -0.75, -0.5, 0.5, 0.75, 1, 2])
    bits = np.random.default_rng(some + 1).integers(0, 1 << 32, 4 * some, np.uint32)
    with np.errstate(over="ignore"):
        exact = np.concatenate([inside.ravel(), beyond.ravel(), high]).astype(np.float32)
        about = [np.nextafter(exact, np.float32(end)) for end in (-np.inf, np.inf)]
    return np.unique(np.concatenate([exact, *about, SPECIAL, bits.view(np.float32)]).view(np.uint32)).view(np.float32)


def rounded(x: Values, fmt: Format, rule: Rule, draws: Draws) -> Values:
    """The oracle's answer; NaN for NaN, which it refuses where the format has none."""
    nan = np.isnan(x)
    known = round_to(np.where(nan, np.float32(0), x), fmt, rule.rounding, bits=draws, bits_used=rule.bits_used)
    return np.where(nan, np.float32(np.nan), known)


def turning(x: Values, fmt: Format, rule: Rule) -> Draws:
    """The least of the highest `bits_used` bits with which each value goes up, found by bisection; 0 where none is."""
    surplus = np.uint32(DRAWN - rule.bits_used)
    lowest, last = np.zeros(x.size, np.int64), np.full(x.size, (1 << rule.bits_used) - 1)
    below = rounded(x, fmt, rule, np.zeros(x.size, np.uint32))
    for _ in range(rule.bits_used):
        middle = (lowest + last) // 2
        up = rounded(x, fmt, rule, middle.astype(np.uint32) << surplus) != below
        lowest, last = np.where(up, lowest, np.minimum(middle + 1, last)), np.where(up, middle, last)
    moves = rounded(x, fmt, rule, last.astype(np.uint32) << surplus) != below
    return np.where(moves, last, 0).astype(np.uint32)


def all_draws(x: Values, fmt: Format, rule: Rule) -> Draws:
    """A row of draws for each kind: least, greatest, any, and both sides of where the value turns."""
    rng = np.random.default_rng(rule.bits_used)
    turn = turning(x, fmt, rule)
    tops = np.stack([np.zeros_like(turn), ~np.zeros_like(turn), turn, turn - 1])
    unused = rng.integers(0, 1 << (DRAWN - rule.bits_used), tops.shape, np.uint32)
    surplus = np.uint32(DRAWN - rule.bits_used)
    return np.concatenate([tops << surplus | unused, rng.integers(0, 1 << DRAWN, (1, x.size), np.uint32)])


def probe(fmt: Format, rule: Rule, some: int) -> Probe:
    x = places(fmt, some)
    if rule.rounding is not Rounding.STOCHASTIC:
        draws = np.zeros(x.size, np.uint32)
        return Probe(fmt, x, draws, rounded(x, fmt, rule, draws))
    draws = all_draws(x, fmt, rule)
    wide = np.tile(x, len(draws))
    return Probe(fmt, wide, draws.reshape(-1), rounded(wide, fmt, rule, draws.reshape(-1)))


@lru_cache(maxsize=2)
def probes(rule: Rule, some: int) -> list[Probe]:
    return [probe(fmt, rule, some) for fmt in LISTED if not why_not(fmt, rule.rounding)]


def build(rounders: Sequence[Rounder], sizes: Sequence[int], lanes: int) -> tirx.PrimFunc:
    """Each rounder's part of X, of whole vectors, rounded with its part of D."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x, draws, y = (
            T.arg(name, T.buffer((sum(sizes),), kind))
            for name, kind in (("X", "float32"), ("D", "uint32"), ("Y", "float32"))
        )
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        for i, (rounder, size) in enumerate(zip(rounders, sizes, strict=True)):
            with T.serial(0, size // lanes) as vector:
                place = vector * lanes + sum(sizes[:i])
                value, drawn = named(load(x, place, lanes)), named(~load(draws, place, lanes))
                store(y, place, rounder.round(value, drawn), lanes)
    return builder.get()


def run(found: Sequence[Probe], rule: Rule, machine: Machine) -> list[Values]:
    """What one kernel makes of all probes."""
    target, lanes = machine.target, machine.lanes
    sizes = [probe.x.size + -probe.x.size % lanes for probe in found]
    x, draws = np.zeros(sum(sizes), np.float32), np.zeros(sum(sizes), np.uint32)
    ends = np.cumsum([0, *sizes])
    parts = [slice(start, start + probe.x.size) for start, probe in zip(ends, found, strict=False)]
    for part, each in zip(parts, found, strict=True):
        x[part], draws[part] = each.x, each.draws
    rounders = [
        Rounder(format=each.format, rounding=rule.rounding, bits_used=rule.bits_used, target=target) for each in found
    ]
    module = tvm.IRModule({"main": build(rounders, sizes, lanes)})
    function = tvm.compile(module, target=tvm.target.Target(target.tvm_target(1)))["main"]
    tensors = [tvm.runtime.tensor(array) for array in (x, draws, np.full(x.size, 77, np.float32))]
    function(*tensors)
    result = tensors[-1].numpy()
    return [np.array(result[part]) for part in parts]


def differences(probe: Probe, found: Values) -> list[str]:
    """A line for each of the first few elements with other bits."""
    nan = np.isnan(probe.expected) & np.isnan(found)
    (wrong,) = np.nonzero((found.view(np.uint32) != probe.expected.view(np.uint32)) & ~nan)
    return [
        f"{probe.format}: {probe.x[i]!r} with draw {probe.draws[i]:#x} became {found[i]!r}, not {probe.expected[i]!r}"
        f" ({wrong.size} of {found.size} differ)"
        for i in wrong[:4]
    ]


def check(found: Sequence[Probe], rule: Rule, machine: Machine) -> None:
    results = run(found, rule, machine)
    wrong = [line for each, result in zip(found, results, strict=True) for line in differences(each, result)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("machine", "part"), COVERING, ids=lambda value: "" if isinstance(value, slice) else str(value)
)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_kernels_round_as_the_oracle(rule: Rule, machine: Machine, part: slice) -> None:
    if lacking(machine):
        pytest.skip(f"this CPU has no {', '.join(lacking(machine))}")
    found = probes(rule, 20)
    turned = found if RULES.index(rule) % 2 else [*found[1:], found[0]]  # so that no format is always left out
    check(turned[part], rule, machine)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, len(EVERY), BATCH))
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_format_rounds_as_the_oracle(rule: Rule, start: int) -> None:
    """Every format that kernels round to, a few at a time."""
    check_all(EVERY[start : start + BATCH], rule, USUAL)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [*RULES, *OTHER_LENGTHS], ids=str)
def test_every_length_of_a_draw(rule: Rule) -> None:
    check_all(LISTED, rule, MACHINES)


def check_all(formats: Sequence[Format], rule: Rule, machines: Sequence[Machine]) -> None:
    found = [probe(fmt, rule, 8) for fmt in formats if not why_not(fmt, rule.rounding)]
    for machine in machines:
        if not lacking(machine):
            check(found, rule, machine)


@pytest.mark.parametrize(
    ("fmt", "rounding", "part"),
    [
        (Fixed(1, 24), Rounding.UP, "q1.24 has 25 bits: kernels round to words of at most 24"),
        (Fixed(25, 0), Rounding.STOCHASTIC, "q25.0 has 25 bits"),
        (Fixed(32, 32), Rounding.STOCHASTIC, "q32.32 has 64 bits"),
        (Int(25), Rounding.NEAREST_EVEN, "int25 has 25 bits"),
        (Int(64, signed=False), Rounding.DOWN, "uint64 has 64 bits"),
        (DynamicFixed(25, 0), Rounding.TOWARD_ZERO, "has 25 bits"),
        (DynamicFixed(8, 101), Rounding.NEAREST_EVEN, "a step of 2^101: kernels round to steps from 2^-100 to 2^100"),
        (DynamicFixed(8, -101), Rounding.STOCHASTIC, "a step of 2^-101"),
        (DynamicFixed(1, 256), Rounding.STOCHASTIC, "a step of 2^256"),
        (FP32, Rounding.STOCHASTIC, "fp32 is not within float32: kernels round to at most 22 mantissa bits"),
        (Float(5, 23), Rounding.NEAREST_EVEN, "e5m23 is not"),
        (Float(2, 52), Rounding.NEAREST_EVEN, "e2m52 is not"),
        (Float(9, 1), Rounding.NEAREST_EVEN, "e9m1 is not"),
        (Float(11, 52), Rounding.NEAREST_EVEN, "fp64 is not"),
        *(
            (Float(8, m, specials), Rounding.STOCHASTIC, f"e8m{m}{specials.value} is not")
            for specials in Specials
            if specials is not Specials.IEEE
            for m in (1, 7, 22)
        ),
        (Binary(), Rounding.TOWARD_ZERO, "binary has nothing between -1 and 1 to round toward"),
    ],
    ids=str,
)
def test_refusals(fmt: Format, rounding: Rounding, part: str) -> None:
    with pytest.raises(Unsupported) as caught:
        Rounder(format=fmt, rounding=rounding)
    message = str(caught.value)
    assert message == why_not(fmt, rounding)
    assert part in message
    assert "\n" not in message


def test_what_is_tested_is_not_refused() -> None:
    for fmt in (*LISTED, *EVERY):
        for rounding in Rounding:
            assert (why_not(fmt, rounding) is None) == ((fmt, rounding) != (Binary(), Rounding.TOWARD_ZERO))
