"""An epilogue that makes one code of two, by two multiply-adds: a residual is added and the sum quantized again.

    q = code(min(max(quotient(p * 0.13 + product(float32(e), 0.07), 0.1), -3), 252))        p: whole, of 256 numbers
    -->  q = code(min(max(fma(p, 1.3, fma(float32(e), 0.7, 0)), -3), 252))                  e: a byte

Both are functions of two bytes. The second is tried on every pair of them, with factors near the quotients of scales,
until it gives what the first gives on all 65,536; if none of a few does, the first stays.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.schedules.bounding import ENDS, Holds, held_between
from lowprec.schedules.epilogue import FMA, NEAREST, Argument, Constant, Epilogue, Operand, Step, Value
from lowprec.schedules.simplifying import needed
from lowprec.schedules.views import FLOAT, INTEGERS
from lowprec.targets import X86, Target

Floats = NDArray[np.float32]
Numbers = NDArray[np.floating[Any]]

CODES = 256
"""Numbers that the code may have which is rounded in the kernel."""
TRIES, NEAR = 400, 4e-4
"""Factors that are tried; and how far from a half a sum is that some of them may round otherwise."""
GRAIN = 2.0**-40
"""What constants are multiples of, and factors' last digits are no smaller than: products and sums are exact in
float64, then, and a multiply-add is their one rounding to float32."""
LEAST, MOST, FARTHEST = 2.0**-16, 8.0, 4096.0
"""Of factors, and of the constant."""
HOLDS: dict[str, Callable[[Numbers, np.float32], Numbers]] = {"maximum": np.maximum, "minimum": np.minimum}


def by_pairs(epilogue: Epilogue, target: Target) -> Epilogue:
    """The epilogue with the same results, for a target."""
    if target.arch == X86 and not target.has("fma"):
        return epilogue
    found = _find(epilogue)
    if found is None:
        return epilogue
    factors = _fit(found)
    return epilogue if factors is None else replace(epilogue, steps=_written(epilogue.steps, found, factors))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """What value `tail` holds: a number made of a code of the kernel's own, the value `code` within `ends`, and of a
    byte that is `operand`. `holds` follow, and then the number is rounded to value `whole`."""

    tail: Value
    code: Value
    ends: tuple[float, float]
    operand: Operand
    bytes: tuple[float, float]
    holds: Holds
    whole: int
    steps: tuple[Step, ...]

    def grid(self) -> tuple[Floats, Floats]:
        """All codes, one a row, and all bytes, one a column."""
        rows, columns = (np.arange(low, high + 1, dtype=np.float32) for low, high in (self.ends, self.bytes))
        return rows[:, None], columns[None, :]

    def value(self, code: Numbers, byte: Numbers) -> Numbers:
        """As the steps have it, in the precision of what is given."""
        return _evaluated(self, self.tail, code, byte)

    def held(self, value: Numbers) -> Numbers:
        """What it is rounded to."""
        for op, number in self.holds:
            value = HOLDS[op](value, np.float32(number))
        return np.rint(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factors:
    """fma(code, of_code, fma(byte, of_byte, constant)), held between `ends`."""

    of_code: np.float32
    of_byte: np.float32
    constant: np.float32
    ends: tuple[float, float]

    def value(self, code: Floats, byte: Floats) -> Floats:
        return _fma(code, self.of_code, _fma(byte, self.of_byte, self.constant))

    def held(self, value: Floats) -> Floats:
        """What it is rounded to."""
        low, high = map(np.float32, self.ends)
        return np.rint(np.clip(value, low, high))


def _fma(x: Floats, y: np.float32, z: Floats | np.float32) -> Floats:
    exact = x.astype(np.float64) * np.float64(y) + np.asarray(z, np.float64)
    return exact.astype(np.float32)


def _find(epilogue: Epilogue) -> _Sum | None:
    """The last steps, if they are such a sum."""
    steps = epilogue.steps
    if not steps or steps[-1].op not in ("uint8", "int8"):
        return None
    place = len(steps) - 1
    if place and steps[place - 1].op == "add" and isinstance(steps[place - 1].arguments[1], Constant):
        place -= 1
    if not place or steps[place - 1].op != NEAREST:
        return None
    tail, holds = _unheld(steps, steps[place - 1].arguments[0])
    if not isinstance(tail, Value):
        return None
    leaves = set(_leaves(epilogue, tail))
    codes = [leaf for leaf in leaves if isinstance(leaf, Value)]
    operands = [leaf for leaf in leaves if isinstance(leaf, Operand)]
    if len(codes) != 1 or len(operands) != 1:
        return None
    ends, known = _code_ends(steps, codes[0]), ENDS.get(epilogue.operands[operands[0].index].dtype)
    if ends is None or known is None or known[1] - known[0] >= CODES:
        return None
    return _Sum(
        tail=tail,
        code=codes[0],
        ends=ends,
        operand=operands[0],
        bytes=known,
        holds=holds,
        whole=place,
        steps=steps,
    )


def _unheld(steps: tuple[Step, ...], value: Argument) -> tuple[Argument, Holds]:
    """What a value was before it was held by constants, and those, in order."""
    holds: list[tuple[str, float]] = []
    while isinstance(value, Value) and value.index:
        step = steps[value.index - 1]
        if step.op not in HOLDS or not isinstance(step.arguments[1], Constant):
            break
        holds.insert(0, (step.op, step.arguments[1].number))
        value = step.arguments[0]
    return value, tuple(holds)


def _code_ends(steps: tuple[Step, ...], value: Value) -> tuple[float, float] | None:
    """Between which whole numbers a value is, where it was rounded and held between few."""
    source, holds = _unheld(steps, value)
    if not isinstance(source, Value) or not source.index or steps[source.index - 1].op != "round":
        return None
    if {op for op, _ in holds} != set(HOLDS) or not all(number.is_integer() for _, number in holds):
        return None
    low, high = held_between(holds)
    return (low, high) if 0 < high - low < CODES else None


def _leaves(epilogue: Epilogue, value: Argument) -> Iterator[Argument | None]:
    """What a value is made of: codes, operands, and None for anything that is not understood."""
    if isinstance(value, Operand):
        yield value
    elif isinstance(value, Value):
        step = epilogue.steps[value.index - 1] if value.index else None
        if _code_ends(epilogue.steps, value) is not None:
            yield value
        elif step is None or step.op not in _MEANINGS:
            yield Value(0)
        else:
            for argument in step.arguments:
                yield from _leaves(epilogue, argument)


def _evaluated(found: _Sum, value: Argument, code: Numbers, byte: Numbers) -> Numbers:
    if value == found.code:
        return code
    if value == found.operand:
        return byte
    if isinstance(value, Constant):
        return np.asarray(np.float32(value.number), code.dtype)
    assert isinstance(value, Value)
    step = found.steps[value.index - 1]
    return _MEANINGS[step.op](*(_evaluated(found, argument, code, byte) for argument in step.arguments))


_MEANINGS: dict[str, Callable[..., Numbers]] = {
    FLOAT: lambda x: x,
    INTEGERS: lambda x: x,
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "product": lambda x, y: x * y,
    "near quotient": lambda x, y: x / y,
    "quotient": lambda x, y: x / y,
    "relu": lambda x: np.maximum(x, 0),
}
"""Steps between the code and the sum."""


def _fit(found: _Sum) -> _Factors | None:
    """Factors with the same results for all pairs."""
    code, byte = found.grid()
    wanted = found.held(found.value(code, byte))
    first = _guess(found, (float(wanted.min()), float(wanted.max())))
    if first is None:
        return None
    sums = first.value(code, byte)
    if np.array_equal(first.held(sums), wanted):
        return first
    unsure = np.abs(sums - np.floor(sums) - np.float32(0.5)) < NEAR
    rows, columns = (np.broadcast_to(numbers, wanted.shape)[unsure] for numbers in (code, byte))
    for tried in _around(first):
        if np.array_equal(tried.held(tried.value(rows, columns)), wanted[unsure]) and np.array_equal(
            tried.held(tried.value(code, byte)), wanted
        ):
            return tried
    return None


def _guess(found: _Sum, ends: tuple[float, float]) -> _Factors | None:
    """By the slopes of the sum: between two codes, and two bytes, where no relu holds it."""
    linear = replace(found, steps=tuple(replace(s, op=FLOAT) if s.op == "relu" else s for s in found.steps))
    code, byte = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    corner, of_code, of_byte = map(float, linear.value(code, byte))
    slopes = [np.float32(of_code - corner), np.float32(of_byte - corner)]
    if not all(LEAST <= abs(slope) <= MOST for slope in slopes) or not abs(corner) <= FARTHEST:
        return None
    return _Factors(of_code=slopes[0], of_byte=slopes[1], constant=_grained(corner), ends=ends)


def _around(first: _Factors) -> Iterator[_Factors]:
    """Others near it, farther and farther."""
    draws = np.random.default_rng(0)
    for number in range(TRIES):
        reach = 1 + number // 40
        last = [1 + int(draws.integers(-reach, reach + 1)) * 2.0**-23 for _ in range(2)]
        yield replace(
            first,
            of_code=np.float32(first.of_code * last[0]),
            of_byte=np.float32(first.of_byte * last[1]),
            constant=_grained(float(first.constant) + draws.normal() * reach * 2.0**-18),
        )


def _grained(number: float) -> np.float32:
    return np.float32(np.rint(number / GRAIN) * GRAIN)


def _written(steps: tuple[Step, ...], found: _Sum, factors: _Factors) -> tuple[Step, ...]:
    """All steps up to the code, the sum's, and those from the rounding on."""
    made = list(steps[: found.code.index])

    def emit(op: str, *arguments: Argument) -> Value:
        made.append(Step(op=op, arguments=arguments))
        return Value(len(made))

    byte = emit(FLOAT, emit(INTEGERS, found.operand))
    moved = emit(FMA, byte, Constant(float(factors.of_byte)), Constant(float(factors.constant)))
    value = emit(FMA, found.code, Constant(float(factors.of_code)), moved)
    for op, number in zip(("maximum", "minimum"), factors.ends, strict=True):
        value = emit(op, value, Constant(number))
    for step in steps[found.whole - 1 :]:
        value = emit(step.op, value, *step.arguments[1:])
    return needed(made, value)
