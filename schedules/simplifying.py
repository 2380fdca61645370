"""An epilogue's steps, fewer: numbers that are quantized and dequantized again inside a kernel stay floats.

    a = uint8(x);  b = int32(a);  c = b - 3;  d = float32(c);  y = d * 0.02     x: whole, within 0..255
    -->  d = x - 3.0;  y = product(d, 0.02)

    y = round(x / 0.02)  -->  y = round(quotient(x, 0.02))

    h = float16(x);  y = float32(h)  -->  y = to float16(x)

A `product` is rounded before anything is added to it, as ONNX has it, where LLVM would fuse the two: so is every one
behind integers. A `quotient` is a division's, to the last bit, by multiplications alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lowprec.schedules.epilogue import Argument, Constant, Step, Value
from lowprec.schedules.views import FLOAT, INTEGERS

HALVES = ("float16", "bfloat16")
NARROW = ("int16", "uint8", "int8")
WIDE = (INTEGERS, "int64")


def simplified(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Steps with the same last value, bit for bit."""
    work = _Work()
    for number, step in enumerate(steps, 1):
        following = steps[number] if number < len(steps) else None
        work.take(number, step, following)
    return needed(work.steps, work.new[len(steps)])


def needed(steps: Sequence[Step], last: Argument) -> tuple[Step, ...]:
    """The steps that value `last` is made by, renumbered."""
    wanted = {last}
    for number in range(len(steps), 0, -1):
        if Value(number) in wanted:
            wanted.update(a for a in steps[number - 1].arguments if isinstance(a, Value))
    places: dict[Argument, Argument] = {Value(0): Value(0)}
    kept: list[Step] = []
    for number, step in enumerate(steps, 1):
        if Value(number) in wanted:
            kept.append(replace(step, arguments=tuple(places.get(a, a) for a in step.arguments)))
            places[Value(number)] = Value(len(kept))
    return tuple(kept)


@dataclass(slots=True)
class _Work:
    """`new` stands for each of the old values; `carried` is the float equal to it, where one is at hand. Of the floats,
    some are `converted` from integers, some known to be `whole`. What is `rounded` to a half as wide is known with the
    float it was."""

    steps: list[Step] = field(default_factory=list)
    new: dict[int, Argument] = field(default_factory=lambda: {0: Value(0)})
    carried: dict[Argument, Argument] = field(default_factory=dict)
    converted: set[Argument] = field(default_factory=set)
    whole: set[Argument] = field(default_factory=set)
    rounded: dict[Argument, tuple[str, Argument]] = field(default_factory=dict)

    def take(self, number: int, step: Step, following: Step | None) -> None:
        """Step `number` of the old ones."""
        arguments = tuple(self.new[a.index] if isinstance(a, Value) else a for a in step.arguments)
        first = arguments[0]
        if step.op == FLOAT and first in self.rounded:
            half, source = self.rounded[first]
            self.new[number] = self._emit(f"to {half}", (source,))
            return
        if step.op == FLOAT and first in self.carried:
            self.new[number] = self.carried[first]
        else:
            op = self._op(step, arguments, following, number)
            self.new[number] = self._emit(op, arguments)
        value = self.new[number]
        if step.op in HALVES:
            self.rounded[value] = step.op, first
        if self._is_whole(step.op, arguments):
            self.whole.add(value)
        if step.op == FLOAT:
            self.converted.add(value)
        elif step.op in NARROW and first in self.whole:
            self.carried[value] = first
        elif step.op in WIDE and first in self.carried:
            self.carried[value] = self.carried[first]
        elif step.op == "subtract" and first in self.carried and isinstance(arguments[1], Constant):
            self.carried[value] = self._emit("subtract", (self.carried[first], arguments[1]))

    def _is_whole(self, op: str, arguments: tuple[Argument, ...]) -> bool:
        """Whether a step's float is a whole number: what is rounded, or made of an integer, held or moved by others."""
        kept = op in ("add", "subtract", "maximum", "minimum", "clip", "relu")
        return op in ("round", "draw", FLOAT) or (kept and all(map(self._is_known_whole, arguments)))

    def _is_known_whole(self, argument: Argument) -> bool:
        return argument in self.whole or (isinstance(argument, Constant) and float(argument.number).is_integer())

    def _op(self, step: Step, arguments: tuple[Argument, ...], following: Step | None, number: int) -> str:
        if step.op == "multiply" and self.converted:
            return "product"
        rounds = following is not None and following.op == "round" and following.arguments == (Value(number),)
        constant = len(arguments) > 1 and isinstance(arguments[1], Constant)
        return "quotient" if step.op == "divide" and constant and rounds else step.op

    def _emit(self, op: str, arguments: tuple[Argument, ...]) -> Value:
        self.steps.append(Step(op=op, arguments=arguments))
        return Value(len(self.steps))
