"""What happens to an accumulator before it is stored: a straight-line program over vectors.

An `Epilogue` is data (hashable, part of a kernel's identity). Value 0 is the accumulator; step i makes value i + 1.
A step's arguments are earlier values, operands (tensors read at the same coordinates) or constants.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, assert_never

import numpy as np
from tvm import ir, tirx

from lowprec.schedules import bfloats, drawing, vector_math
from lowprec.schedules.views import FLOAT, Drawn, Index, View, load, register, splat, store

Expression: TypeAlias = ir.Expr
Place: TypeAlias = Callable[[View], Index]
"""Where the elements at hand lie in a tensor."""


@dataclass(frozen=True, slots=True)
class Value:
    """The result of an earlier step; 0 is the accumulator."""

    index: int


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor argument of the kernel, read at the coordinates of the element at hand."""

    index: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A number known when the kernel is built."""

    number: float


Argument = Value | Operand | Constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One elementwise operation; `op` is of one of the tables below, or the type that its argument becomes."""

    op: str
    arguments: tuple[Argument, ...]

    def apply(self, arguments: list[Expression]) -> Expression:
        """Its value."""
        return convert(arguments[0], self.op) if self.op in TYPES else _FUNCTIONS[self.op](*arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epilogue:
    """Steps, and the views of the operands they read; the last step's value is stored."""

    steps: tuple[Step, ...] = ()
    operands: tuple[View, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether it takes random words that the kernel makes."""
        return any(isinstance(view, Drawn) for view in self.operands)

    def apply(
        self, accumulator: Expression, buffers: list[tirx.Buffer], coordinates: tuple[Index, ...], lanes: int
    ) -> Expression:
        """The value to store for `lanes` consecutive channels at `coordinates`."""
        return self.apply_together([accumulator], buffers, [lambda view: view.address(coordinates)], lanes)[0]

    def apply_together(
        self,
        accumulators: Sequence[Expression],
        buffers: list[tirx.Buffer],
        places: Sequence[Place],
        lanes: int,
    ) -> list[Expression]:
        """The same for several at once, step by step: one step waits for the one before, and a CPU does not look far
        enough ahead to find the next vector's meanwhile. Each has its place in every operand."""
        chains = [[accumulator] for accumulator in accumulators]
        for step in self.steps:
            for values, place in zip(chains, places, strict=True):
                known = [self._evaluate(argument, values, buffers, place, lanes) for argument in step.arguments]
                kind = next((value.ty.dtype.with_lanes(1) for value in known if value is not None), FLOAT)
                numbers = (a.number if isinstance(a, Constant) else 0.0 for a in step.arguments)
                pairs = zip(known, numbers, strict=True)
                value = step.apply([splat(tirx.const(n, kind), lanes) if v is None else v for v, n in pairs])
                values.append(_kept(value, lanes))
        return [values[-1] for values in chains]

    def _evaluate(
        self,
        argument: Argument,
        values: list[Expression],
        buffers: list[tirx.Buffer],
        place: Place,
        lanes: int,
    ) -> Expression | None:
        """An argument's value; a constant has the type of those beside it."""
        match argument:
            case Value(index):
                return values[index]
            case Operand(index):
                return _read(self.operands[index], buffers[index], place, lanes)
            case Constant():
                return None
            case _:
                assert_never(argument)


def _kept(value: Expression, lanes: int) -> Expression:
    """The value through a buffer of its own, which LLVM keeps in a register: expressions are trees, and a later step
    may use this one twice."""
    buffer = register(lanes, str(value.ty.dtype.with_lanes(1)))
    store(buffer, 0, value, lanes)
    return load(buffer, 0, lanes)


def _read(view: View, buffer: tirx.Buffer, place: Place, lanes: int) -> Expression:
    position = place(view)
    if view.strides[-1] == 0:
        return splat(load(buffer, position, 1), lanes)
    return load(buffer, position, lanes)


def convert(value: Expression, dtype: str) -> Expression:
    """In another type; a float to be an integer is whole and in its range."""
    lanes = value.ty.dtype.lanes
    return tirx.Cast(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


def product(x: Expression, y: Expression) -> Expression:
    """A float32 product that no later operation may be fused with."""
    value = x * y
    lanes = value.ty.dtype.lanes
    return tirx.call_llvm_pure_intrin(
        value.ty, f"llvm.arithmetic.fence.{'f32' if lanes == 1 else f'v{lanes}f32'}", value
    )


def quotient(x: Expression, divisor: Expression) -> Expression:
    """x / divisor for a constant, to the last bit where rounding to an integer may see it."""
    return _divided(vector_math.quotient, x, divisor)


def near_quotient(x: Expression, divisor: Expression) -> Expression:
    """The same, of an x that is far from overflow."""
    return _divided(vector_math.near_quotient, x, divisor)


def _divided(how: Callable[..., Expression], x: Expression, divisor: Expression) -> Expression:
    number = np.float32(divisor.value if isinstance(divisor, tirx.FloatImm) else divisor.value.value)
    if not vector_math.is_simple_divisor(number):
        return x / divisor
    return how(x, number, lambda value: _kept(value, x.ty.dtype.lanes))


def nearest(x: Expression) -> Expression:
    """The nearest int32, which there is; of two the even one."""
    lanes = x.ty.dtype.lanes
    wide = f"v{lanes}" if lanes > 1 else ""
    dtype = "int32" if lanes == 1 else f"int32x{lanes}"
    return tirx.call_llvm_pure_intrin(dtype, f"llvm.lrint.{wide}i32.{wide}f32", x)


def _draw_digits(digits: int, x: Expression, word: Expression) -> Expression:
    return drawing.draw_digits(nearest(x), word, digits)


def _relu(x: Expression) -> Expression:
    return tirx.max(x, splat(tirx.const(0, x.ty.dtype.with_lanes(1)), x.ty.dtype.lanes))


def _leaky_relu(x: Expression, slope: Expression) -> Expression:
    return tirx.Select(x > vector_math.constant(0.0, x), x, x * slope)


def _clip(x: Expression, low: Expression, high: Expression) -> Expression:
    return tirx.min(tirx.max(x, low), high)


def _gelu(x: Expression) -> Expression:
    return (
        x
        * vector_math.constant(0.5, x)
        * (vector_math.constant(1.0, x) + vector_math.erf(x * vector_math.constant(0.5**0.5, x)))
    )


def _kept_in(function: Callable[..., Expression]) -> Callable[..., Expression]:
    """A function of x and others that names what it uses twice by a buffer."""

    def apply(x: Expression, *others: Expression) -> Expression:
        return function(x, *others, lambda value: _kept(value, x.ty.dtype.lanes))

    return apply


NEAREST = "nearest"
FMA = "fma"
"""Of codes, as `two_codes` makes it: its value is small."""

TYPES = ("float32", "int64", "int32", "int16", "uint8", "int8")
"""What values can be turned into."""

ELEMENTWISE: dict[str, Callable[..., Expression]] = {
    "abs": lambda x: tirx.max(x, -x),
    "add": lambda x, y: x + y,
    "clip": _clip,
    "divide": lambda x, y: x / y,
    "erf": vector_math.erf,
    "exp": vector_math.exp,
    "gelu": _gelu,
    "leakyrelu": _leaky_relu,
    "maximum": lambda x, y: tirx.max(x, y),
    "minimum": lambda x, y: tirx.min(x, y),
    "multiply": lambda x, y: x * y,
    "negative": lambda x: -x,
    "relu": _relu,
    "round": lambda x: tirx.nearbyint(x),
    "sigmoid": vector_math.sigmoid,
    "silu": lambda x: x * vector_math.sigmoid(x),
    "sqrt": lambda x: tirx.sqrt(x),
    "square": lambda x: x * x,
    "subtract": lambda x, y: x - y,
    "tanh": vector_math.tanh,
}

SPECIAL: dict[str, Callable[..., Expression]] = {
    NEAREST: nearest,
    FMA: vector_math.fma,
    "instructed bfloat16": bfloats.instructed_bfloat16,
    "near quotient": near_quotient,
    "product": product,
    "quotient": quotient,
    "to bfloat16": vector_math.to_bfloat16,
    "to float16": vector_math.to_float16,
}
"""What `simplifying`, `bounding`, `halving` and `two_codes` make of operators."""

DRAWN_DIGITS = range(1, 32)
"""Of whole numbers that stand for numbers with so many binary digits behind the point."""


def drawn_by(digits: int) -> str:
    """The step that draws such a number, held between -2^30 and 2^30, to an int32."""
    return f"draw {digits}"


DRAWS: dict[str, Callable[..., Expression]] = {
    "draw": _kept_in(drawing.draw),
    "draw bfloat16": _kept_in(drawing.draw_bfloat16),
    "draw float16": _kept_in(drawing.draw_float16),
    **{drawn_by(digits): partial(_draw_digits, digits) for digits in DRAWN_DIGITS},
}
"""Roundings by random words, which are their second argument."""

STORING: dict[str, Callable[..., Expression]] = {
    "instructed half": bfloats.instructed_half,
    "upper half": vector_math.upper_half,
    "from upper half": vector_math.from_upper_half,
    "sign": vector_math.sign,
}
"""Between numbers and how they lie in memory: of bfloat16, and signs."""

_FUNCTIONS = ELEMENTWISE | SPECIAL | DRAWS | STORING
