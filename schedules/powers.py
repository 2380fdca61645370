"""An epilogue's steps, fewer where scales are powers of two: whole numbers stay whole, and small ones integers.

    a = product(x, 2^-14);  b = product(float32(e), 2^-14)       x: whole, held between -32768 and 32767;  e: int32
    z = int16(nearest(min(near quotient(relu(a + b), 2^-14), 32767)))
    -->  z = int16(min(relu(x + e), 32767))                      in integers

    d = min(max(draw(product(x, 2^-14), words), -32768), 32767)
    -->  d = draw 14(min(max(x, -2^29), 2^29 - 2^14), words)     x: whole

A power of two moves through sums and comparisons without a trace: what they round, they round at the same digit. And a
number of so many binary digits behind the point is drawn to a whole one by adding as many digits of the random word.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import frexp, ldexp

from lowprec.schedules.bounding import ENDS, Holds, held_between
from lowprec.schedules.epilogue import (
    DRAWN_DIGITS,
    NEAREST,
    Argument,
    Constant,
    Epilogue,
    Operand,
    Step,
    Value,
    drawn_by,
)
from lowprec.schedules.simplifying import needed
from lowprec.schedules.views import FLOAT, INTEGERS

FARTHEST = 32
"""Digits that a whole number is moved: far from where float32 has no more of them."""
DRAWN = float(1 << 30)
"""What is drawn is held between, and has room above for a step."""
SMALL = float(1 << 24)
"""Up to here every whole number is a float32, and a sum of integers that of floats."""
QUOTIENTS = ("divide", "quotient", "near quotient")
HOLDS = ("maximum", "minimum")


def unscaled(epilogue: Epilogue) -> Epilogue:
    """The epilogue with the same results, bit for bit."""
    work = _Work(epilogue)
    for number in range(1, len(epilogue.steps) + 1):
        if number not in work.passed:
            work.take(number)
    steps = needed(work.steps, work.as_it_was(Value(len(epilogue.steps)))) if epilogue.steps else ()
    return replace(epilogue, steps=steps) if len(steps) < len(epilogue.steps) else epilogue


@dataclass(frozen=True, slots=True)
class _Moved:
    """A new value times a power of two; it is whole where the power is another than 1."""

    value: Argument
    power: int = 0


@dataclass(slots=True)
class _Work:
    """Each of the old values is `moved`. Those that were integers are such still; of floats, some are integers now:
    all new ones of these have a known size. Some new floats are known to be `whole`, and some old steps were `passed`
    with one before them."""

    epilogue: Epilogue
    uses: Counter[Value] = field(init=False)
    steps: list[Step] = field(default_factory=list)
    moved: dict[Value, _Moved] = field(default_factory=lambda: {Value(0): _Moved(Value(0))})
    integers: set[Value] = field(default_factory=set)
    sizes: dict[Argument, float] = field(default_factory=dict)
    whole: set[Argument] = field(default_factory=set)
    floats: dict[Argument, Value] = field(default_factory=dict)
    passed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.uses = Counter(a for step in self.epilogue.steps for a in step.arguments if isinstance(a, Value))

    def take(self, number: int) -> None:
        """Step `number` of the old ones, and perhaps some that follow."""
        step, value = self.epilogue.steps[number - 1], Value(number)
        kept = step.op != FLOAT and any(argument in self.integers for argument in step.arguments)
        if kept or step.op in (INTEGERS, NEAREST, *ENDS):
            self.integers.add(value)
        rules = (self._converted, self._scaled, self._combined, self._rounded, self._drawn)
        if not any(rule(step, value) for rule in rules):
            new = self._emit(step.op, tuple(map(self.as_it_was, step.arguments)))
            self.moved[value] = _Moved(new)
            if step.op == FLOAT:
                self.whole.add(new)

    def as_it_was(self, argument: Argument) -> Argument:
        """A value of the old ones' type and power, or an argument that is none of them."""
        if not isinstance(argument, Value) or argument in self.integers:
            return self.moved[argument].value if isinstance(argument, Value) else argument
        found = self.moved[argument]
        value = self._float(found.value)
        if found.power:
            value = self._emit("product", (value, Constant(2.0**found.power)))
        self.moved[argument] = _Moved(value)
        return value

    def _float(self, value: Argument) -> Argument:
        """A new value as a float."""
        if value not in self.sizes:
            return value
        if value not in self.floats:
            self.floats[value] = self._emit(FLOAT, (value,))
            self.whole.add(self.floats[value])
        return self.floats[value]

    def _emit(self, op: str, arguments: tuple[Argument, ...]) -> Value:
        self.steps.append(Step(op=op, arguments=arguments))
        return Value(len(self.steps))

    def _is_whole(self, value: Argument) -> bool:
        return value in self.whole or value in self.sizes

    def _converted(self, step: Step, value: Value) -> bool:
        """Integers: of an operand that has small ones, or floats that are some already; and floats of integers."""
        (first, *_) = step.arguments
        if step.op == INTEGERS and isinstance(first, Operand):
            ends = ENDS.get(self.epilogue.operands[first.index].dtype)
            new = self._emit(step.op, step.arguments)
            if ends is not None:
                self.sizes[new] = max(map(abs, ends))
            self.moved[value] = _Moved(new)
            return True
        found = self.moved[first] if isinstance(first, Value) else None
        if found is None or found.value not in self.sizes or found.power:
            return False
        if step.op in (FLOAT, INTEGERS, NEAREST, "round"):
            self.moved[value] = found
            return True
        if step.op in ENDS:
            self.moved[value] = _Moved(self._emit(step.op, (found.value,)))
        return step.op in ENDS

    def _scaled(self, step: Step, value: Value) -> bool:
        """A whole number times a power of two, or by one."""
        if step.op != "product" and step.op not in QUOTIENTS:
            return False
        first, other = step.arguments
        exponent = _exponent(other)
        if exponent is None or not isinstance(first, Value):
            return False
        found = self.moved[first]
        power = found.power + (exponent if step.op == "product" else -exponent)
        if not self._is_whole(found.value) or abs(power) > FARTHEST:
            return False
        self.moved[value] = _Moved(found.value, power)
        return True

    def _combined(self, step: Step, value: Value) -> bool:
        """What is made of whole numbers that are moved alike."""
        found = [self.moved[a] for a in step.arguments if isinstance(a, Value)]
        powers = {moved.power for moved in found}
        if step.op not in ("add", "subtract", "relu", *HOLDS) or len(powers) != 1:
            return False
        (power,) = powers
        values = iter(found)
        arguments: list[Argument] = []
        for argument in step.arguments:
            if isinstance(argument, Value):
                arguments.append(next(values).value)
            elif isinstance(argument, Constant):
                arguments.append(Constant(ldexp(argument.number, -power)))
            else:
                return False
        sizes = [abs(a.number) if isinstance(a, Constant) else self.sizes.get(a, SMALL) for a in arguments]
        if not all(a.number.is_integer() if isinstance(a, Constant) else self._is_whole(a) for a in arguments):
            return False
        size = sum(sizes) if step.op in ("add", "subtract") else max(sizes)
        if size < SMALL:
            new = self._emit(step.op, tuple(arguments))
            self.sizes[new] = size
        else:
            new = self._emit(step.op, tuple(map(self._float, arguments)))
            self.whole.add(new)
        self.moved[value] = _Moved(new, power)
        return True

    def _rounded(self, step: Step, value: Value) -> bool:
        """What is rounded and held between small whole numbers."""
        holds = tuple(self._holds(value))
        low, high = held_between(holds)
        if step.op != "round" or not -SMALL < low <= high < SMALL:
            return False
        held = self._between(self.as_it_was(step.arguments[0]), holds, 0)
        self._drop(value, len(holds), self._emit(NEAREST, (held,)), max(abs(low), abs(high)))
        return True

    def _drawn(self, step: Step, value: Value) -> bool:
        """A draw of a number with so many digits behind the point, held between whole numbers."""
        first, holds = step.arguments[0], tuple(self._holds(value))
        if step.op != "draw" or not isinstance(first, Value):
            return False
        found, (low, high) = self.moved[first], held_between(holds)
        digits = -found.power
        if digits not in DRAWN_DIGITS or not -DRAWN <= ldexp(low, digits) <= ldexp(high, digits) <= DRAWN:
            return False
        held = self._between(self._float(found.value), holds, digits)
        self._drop(value, len(holds), self._emit(drawn_by(digits), (held, step.arguments[1])), max(abs(low), abs(high)))
        return True

    def _drop(self, first: Value, count: int, new: Value, size: float) -> None:
        """An integer in the place of what the last of `count` steps makes of a value; of those nothing else is read."""
        self.sizes[new] = size
        self.moved[Value(first.index + count)] = _Moved(new)
        self.passed.update(range(first.index + 1, first.index + count + 1))

    def _between(self, value: Argument, holds: Holds, digits: int) -> Argument:
        """The value times 2^digits, held in the same order: what is no number becomes the first one's."""
        inner = self.steps[value.index - 1] if isinstance(value, Value) and value.index else None
        least = float("-inf")
        if inner is not None and inner.op == "relu" and holds[0][0] == "maximum":
            least, value = 0.0, inner.arguments[0]
        for op, number in holds:
            value = self._emit(op, (value, Constant(max(least, ldexp(number, digits)))))
            least = float("-inf")
        return value

    def _holds(self, value: Value) -> Iterator[tuple[str, float]]:
        """By what each of the steps that follow holds the one before, which nothing else reads."""
        for step in self.epilogue.steps[value.index :]:
            other = step.arguments[-1]
            if self.uses[value] != 1 or step.arguments[0] != value:
                return
            if step.op == "relu":
                yield "maximum", 0.0
            elif step.op in HOLDS and isinstance(other, Constant) and float(other.number).is_integer():
                yield step.op, float(other.number)
            else:
                return
            value = Value(value.index + 1)


def _exponent(argument: Argument) -> int | None:
    """Of a constant that is a power of two."""
    if not isinstance(argument, Constant) or not argument.number > 0:
        return None
    share, exponent = frexp(argument.number)
    return exponent - 1 if share == 0.5 else None
