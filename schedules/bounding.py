"""An epilogue's steps, fewer for what is known of their values: whole numbers, and least and largest ones.

    a = min(max(round(x) + 3, 0), 255);  b = a - 3          -->  b = min(max(round(x), -3), 252)
    y = max(x, 0)                                           -->  x                               x: never below 0
    y = max(relu(x), 3)                                     -->  max(x, 3)
    q = quotient(x, 0.5)                                    -->  near quotient(x, 0.5)           x: not near overflow
    y = uint8(min(max(round(x) + 3, 0), 255))               -->  uint8(nearest(min(max(x, -3), 252)) + 3)

The last is one instruction that rounds and makes an integer, where there were two; numbers without a nearest integer
do not come there, for what is held between two numbers is one: the instructions for the larger and the smaller of two
take the second where the first is none.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, trunc

from lowprec.schedules.epilogue import NEAREST, Argument, Constant, Operand, Step, Value
from lowprec.schedules.simplifying import needed
from lowprec.schedules.vector_math import HELD
from lowprec.schedules.views import FLOAT, View

Interval = tuple[float, float]
Holds = tuple[tuple[str, float], ...]
"""`maximum` and `minimum` with constants, one after the other."""

ENDS: dict[str, Interval] = {"uint8": (0.0, 255.0), "int8": (-128.0, 127.0), "int16": (-32768.0, 32767.0)}
MONOTONE: dict[str, Callable[[float], float]] = {
    "float32": float,
    "int32": trunc,
    "round": round,
    "relu": lambda x: max(x, 0.0),
}
"""What takes ends to ends."""
SLACK = 2.0**-20
"""Of the numbers that are combined: more than all that float32 rounds."""
SMALL = float(1 << 16)
"""Constants up to here move a whole number by themselves, wherever that still matters."""


def bounded(steps: tuple[Step, ...], operands: Sequence[View]) -> tuple[Step, ...]:
    """Steps with the same last value, bit for bit."""
    work = _Work(operands=operands, uses=Counter(a for step in steps for a in step.arguments if isinstance(a, Value)))
    for number, step in enumerate(steps, 1):
        work.take(number, step)
    return needed(work.steps, work.new[Value(len(steps))])


def held_between(holds: Holds) -> Interval:
    """The ends of what is held so, whatever it was."""
    low, high = -inf, inf
    for op, number in holds:
        pick = max if op == "maximum" else min
        low, high = pick(low, number), pick(high, number)
    return low, high


@dataclass(slots=True)
class _Work:
    """`new` stands for each of the old values; the `ends` of some new ones are known, some are `whole`."""

    operands: Sequence[View]
    uses: Counter[Value]
    steps: list[Step] = field(default_factory=list)
    new: dict[Value, Argument] = field(default_factory=lambda: {Value(0): Value(0)})
    ends: dict[Argument, Interval] = field(default_factory=dict)
    whole: set[Argument] = field(default_factory=set)
    once: dict[Argument, bool] = field(default_factory=dict)

    def take(self, number: int, step: Step) -> None:
        """Step `number` of the old ones."""
        arguments = tuple(self.new[a] if isinstance(a, Value) else a for a in step.arguments)
        rules: tuple[Callable[[str, tuple[Argument, ...]], Argument | None], ...] = (
            self._needless,
            self._held_twice,
            self._moved_back,
            self._near,
            self._rounded,
        )
        found = next((value for rule in rules if (value := rule(step.op, arguments)) is not None), None)
        value = self._emit(step.op, arguments) if found is None else found
        self.new[Value(number)] = value
        self.once[value] = self.uses[Value(number)] <= 1 and self.once.get(value, True)

    def _emit(self, op: str, arguments: tuple[Argument, ...]) -> Value:
        self.steps.append(Step(op=op, arguments=arguments))
        value = Value(len(self.steps))
        ends = self._ends_of(op, arguments)
        if ends is not None and all(map(isfinite, ends)):
            self.ends[value] = ends
        moves = op in ("add", "subtract", "maximum", "minimum", "relu") and all(map(self._is_whole, arguments))
        if op == "round" or op == FLOAT or moves:
            self.whole.add(value)
        return value

    def _is_whole(self, argument: Argument) -> bool:
        return argument in self.whole or (isinstance(argument, Constant) and float(argument.number).is_integer())

    def _ends(self, argument: Argument) -> Interval | None:
        match argument:
            case Constant(number):
                return number, number
            case Operand(index):
                return ENDS.get(self.operands[index].dtype)
            case _:
                return self.ends.get(argument)

    def _ends_of(self, op: str, arguments: tuple[Argument, ...]) -> Interval | None:
        """Of a step's value; None where one may be none, or infinite."""
        known = [self._ends(argument) for argument in arguments]
        first = known[0]
        if op in ("maximum", "minimum") and isinstance(arguments[1], Constant):
            return self._held(op, arguments)
        if first is None or any(ends is None for ends in known):
            return None
        if op in MONOTONE:
            return float(MONOTONE[op](first[0])), float(MONOTONE[op](first[1]))
        other = known[-1] or first
        match op:
            case "add":
                return self._roundable(arguments, first[0] + other[0], first[1] + other[1], [*first, *other])
            case "subtract":
                return self._roundable(arguments, first[0] - other[1], first[1] - other[0], [*first, *other])
            case "product":
                corners = [x * y for x in first for y in other]
                return self._roundable(arguments, min(corners), max(corners), corners)
            case "near quotient" if other[0] == other[1] and other[0] > 0:
                low, high = first[0] / other[0], first[1] / other[0]
                return self._roundable(arguments, low, high, [low, high])
        return None

    def _roundable(self, arguments: tuple[Argument, ...], low: float, high: float, sizes: Sequence[float]) -> Interval:
        """Ends with room for what float32 rounds; zero is itself, and so are whole numbers."""
        if all(map(self._is_whole, arguments)):
            return low, high
        slack = SLACK * max(map(abs, sizes))
        return low - slack if low else 0.0, high + slack if high else 0.0

    def _held(self, op: str, arguments: tuple[Argument, ...]) -> Interval | None:
        """Behind two of them there is a number: what is none has become the first one's constant."""
        constant = arguments[1].number if isinstance(arguments[1], Constant) else 0.0
        known = self._ends(arguments[0])
        if known is not None:
            pick = max if op == "maximum" else min
            return pick(known[0], constant), pick(known[1], constant)
        inner = self._step(arguments[0])
        if inner is None or {inner.op, op} != {"maximum", "minimum"} or not isinstance(inner.arguments[1], Constant):
            return None
        low, high = sorted((inner.arguments[1].number, constant))
        return low, high

    def _step(self, value: Argument) -> Step | None:
        """The one whose value it is."""
        return self.steps[value.index - 1] if isinstance(value, Value) and value.index > 0 else None

    def _needless(self, op: str, arguments: tuple[Argument, ...]) -> Argument | None:
        known, other = self._ends(arguments[0]), self._ends(arguments[-1])
        if known is None or other is None:
            return None
        never = (op == "relu" and known[0] >= 0) or (op == "maximum" and known[0] >= other[1])
        return arguments[0] if never or (op == "minimum" and known[1] <= other[0]) else None

    def _held_twice(self, op: str, arguments: tuple[Argument, ...]) -> Argument | None:
        inner, other = self._step(arguments[0]), arguments[-1]
        if op != "maximum" or inner is None or inner.op != "relu":
            return None
        enough = isinstance(other, Constant) and other.number >= 0
        return self._emit(op, (inner.arguments[0], other)) if enough else None

    def _moved_back(self, op: str, arguments: tuple[Argument, ...]) -> Argument | None:
        if op != "subtract" or not isinstance(arguments[1], Constant):
            return None
        moved = arguments[1].number
        chain = self._chain(arguments[0])
        if chain is None or chain.moved != moved or not chain.holds or not self._is_whole(chain.source):
            return None
        return self._hold(chain.source, chain.holds, -moved)

    def _near(self, op: str, arguments: tuple[Argument, ...]) -> Argument | None:
        known, divisor = self._ends(arguments[0]), arguments[-1]
        if op != "quotient" or known is None or not isinstance(divisor, Constant) or divisor.number <= 0:
            return None
        near = max(map(abs, known)) / divisor.number < HELD / 2
        return self._emit("near quotient", arguments) if near else None

    def _rounded(self, op: str, arguments: tuple[Argument, ...]) -> Argument | None:
        if op not in ENDS:
            return None
        (low, high), found, chain = ENDS[op], self._ends(arguments[0]), self._chain(arguments[0])
        if chain is None or found is None or found[0] < low or found[1] > high:
            return None
        rounding = self._step(chain.source)
        if rounding is None or rounding.op != "round":
            return None
        held = self._hold(rounding.arguments[0], chain.holds, -chain.moved)
        whole = self._emit(NEAREST, (held,))
        if chain.moved:
            whole = self._emit("add", (whole, Constant(chain.moved)))
        return self._emit(op, (whole,))

    def _hold(self, value: Argument, holds: Holds, by: float) -> Argument:
        for op, number in holds:
            arguments = value, Constant(number + by)
            value = self._held_twice(op, arguments) or self._emit(op, arguments)
        return value

    def _chain(self, value: Argument) -> "_Chain | None":
        """What a value is made of, if it is a whole number that is moved by a constant at most, and held; nothing else
        uses what is between."""
        holds: list[tuple[str, float]] = []
        moved, step = 0.0, self._step(value)
        while step is not None and self.once.get(value, True):
            constant = step.arguments[1] if len(step.arguments) == 2 else None
            if not isinstance(constant, Constant) or not self._is_whole(constant) or abs(constant.number) > SMALL:
                break
            if step.op in ("maximum", "minimum"):
                holds.insert(0, (step.op, constant.number))
            elif step.op == "add":
                moved, value = constant.number, step.arguments[0]
                break
            else:
                break
            value, step = step.arguments[0], self._step(step.arguments[0])
        return _Chain(source=value, moved=moved, holds=tuple(holds)) if self._is_whole(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chain:
    """hold(source + moved)."""

    source: Argument
    moved: float
    holds: Holds
