"""Epilogues drawn by Hypothesis: every step, on every kind of argument, with numbers that stay finite.

A program remembers how large each of its values may be, and clips before a step that would make one too large; it makes
a root's argument positive and a divisor larger than zero.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from lowprec.schedules.epilogue import ELEMENTWISE, Argument, Constant, Operand, Step, Value
from lowprec.schedules.windows import Window, whole
from tests.tvm.sweep.layer import Extra, Shape

LONGEST = 3  # steps asked for; what makes a step possible comes on top
LARGEST = 1e4
ACCUMULATOR, EXTRA = 8.0, 1.5  # how large they are, about
BESIDE = (0, 1, 16, 33)  # channels of other parts of a concatenation
CONSTANTS = (1.0, -0.5, 3.0)
SLOPES = (0.25, 0.0, 0.01, 1.0)
CLIPS = ((0.0, 6.0), (-1.0, 1.0), (0.25, 0.25))
BINARY = ("add", "divide", "maximum", "minimum", "multiply", "subtract")
GROWTH: dict[str, Callable[..., float]] = {
    "add": lambda x, y: x + y,
    "clip": lambda x, low, high: max(abs(low), abs(high)),
    "divide": lambda x, y: 2 * x,  # no divisor is less than 1/2
    "exp": lambda x: math.exp(min(x, 100.0)),
    "multiply": lambda x, y: x * y,
    "sigmoid": lambda x: 1.0,
    "square": lambda x: x * x,
    "subtract": lambda x, y: x + y,
    "tanh": lambda x: 1.0,
}
"""How large a step's result is; any other gives no more than its largest argument."""


@dataclass(slots=True)
class _Program:
    """Steps so far, and how large each value may be."""

    steps: list[Step] = field(default_factory=list)
    extras: list[Extra] = field(default_factory=list)
    sizes: list[float] = field(default_factory=lambda: [ACCUMULATOR])

    @property
    def latest(self) -> Value:
        return Value(len(self.steps))

    def size(self, argument: Argument) -> float:
        match argument:
            case Value(index):
                return self.sizes[index]
            case Operand():
                return EXTRA
            case Constant(number):
                return abs(number)

    def append(self, op: str, *arguments: Argument) -> None:
        sizes = map(self.size, arguments)
        self.sizes.append(GROWTH[op](*sizes) if op in GROWTH else max(sizes))
        self.steps.append(Step(op=op, arguments=arguments))

    def limit(self, most: float) -> None:
        """Clip the latest value where it may be larger."""
        if self.sizes[-1] > most:
            self.append("clip", self.latest, Constant(-2.0), Constant(2.0))


@st.composite
def programs(draw: st.DrawFn, shape: Shape) -> tuple[tuple[Step, ...], tuple[Extra, ...]]:
    """Steps after an operator whose result has that shape, and the tensors they read."""
    program = _Program()
    for op in draw(st.lists(st.sampled_from((*sorted(ELEMENTWISE), *BINARY)), max_size=LONGEST)):
        program.limit(math.log(LARGEST) if op == "exp" else LARGEST**0.5)
        if op in BINARY:
            _binary(draw, program, op, shape)
        else:
            _unary(draw, program, op)
    return tuple(program.steps), tuple(program.extras)


def _unary(draw: st.DrawFn, program: _Program, op: str) -> None:
    numbers: tuple[float, ...] = ()
    if op == "leakyrelu":
        numbers = (draw(st.sampled_from(SLOPES)),)
    elif op == "clip":
        numbers = draw(st.sampled_from(CLIPS))
    elif op == "sqrt":
        program.append(draw(st.sampled_from(("abs", "relu", "square", "sigmoid"))), program.latest)
    program.append(op, program.latest, *map(Constant, numbers))


def _binary(draw: st.DrawFn, program: _Program, op: str, shape: Shape) -> None:
    kind = draw(st.sampled_from(("tensor", "tensor", "constant", "value")))
    swapped = draw(st.booleans())
    other: Argument
    match kind:
        case "tensor":
            program.extras.append(draw(extras(shape)))
            other = Operand(len(program.extras) - 1)
        case "constant":
            other = Constant(draw(st.sampled_from(CONSTANTS)))
        case _:
            other = Value(draw(st.integers(0, len(program.steps))))
    if op == "divide" and (swapped or isinstance(other, Value)):
        program.append("abs", program.latest)
        program.append("add", program.latest, Constant(1.0))
        swapped = True
    _multiply_safely(program, op, other)
    program.append(op, *((other, program.latest) if swapped else (program.latest, other)))


def _multiply_safely(program: _Program, op: str, other: Argument) -> None:
    if op == "multiply" and program.size(other) > LARGEST**0.5:
        program.limit(1.0)


@st.composite
def extras(draw: st.DrawFn, shape: Shape) -> Extra:
    """A tensor of the result's shape, or one that is broadcast along some axes, or lacks the first ones.

    The frontend makes a tensor of rank 0 one of rank 1.
    """
    masked = tuple(extent if draw(st.booleans()) else 1 for extent in shape)
    lacking = masked[draw(st.integers(1, len(shape) - 1)) :]
    kept = draw(st.sampled_from((shape, shape[-1:], (*shape[:-1], 1), masked, lacking)))
    if draw(st.booleans()):
        return Extra(window=whole(kept), constant=True)
    # Only a tensor of the result's rank can have been written with a border.
    return Extra(window=draw(bordered(kept)) if len(kept) == len(shape) else whole(kept), constant=False)


@st.composite
def bordered(draw: st.DrawFn, extents: Shape) -> Window:
    """The tensor, or it with a border along its spatial axes."""
    if len(extents) < 3 or not draw(st.booleans()):
        return whole(extents)
    before = (0, *(draw(st.integers(0, 2)) for _ in extents[1:-1]), 0)
    after = (0, *(draw(st.integers(0, 2)) for _ in extents[1:-1]), 0)
    shape = tuple(b + n + a for b, n, a in zip(before, extents, after, strict=True))
    return Window(shape=shape, begin=before, extents=extents)


@st.composite
def places(draw: st.DrawFn, extents: Shape) -> Window:
    """Where a result may go: a tensor of its own, with or without a border, or its channels in a wider one."""
    window = draw(bordered(extents))
    if draw(st.integers(0, 2)):
        return window
    before, after = draw(st.sampled_from(BESIDE)), draw(st.sampled_from(BESIDE))
    return Window(
        shape=(*window.shape[:-1], before + extents[-1] + after),
        begin=(*window.begin[:-1], before),
        extents=extents,
        bordered=draw(st.booleans()),
    )
