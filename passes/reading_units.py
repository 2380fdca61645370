"""What a unit asks of a kernel: where its tensors lie, and what follows its operator.

A unit that a template of ours computes has this form, each part but the operator optional:

    windows:    x' = strided_slice(x)      for any parameter
    halves:     x' = from_upper_half(x')   for any parameter or window of one
    integers:   x' = astype(x', int32);  x' = subtract(x', zero point)      for the operator's bytes
    operator:   y = conv2d(x', constant)   or matmul(x', constant or r')
    epilogue:   elementwise steps on y, parameters, windows of them and constants
    border:     pad(.)
"""

from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from tvm import relax

from lowprec.passes.editing import (
    Array,
    Constant,
    array_of,
    bindings,
    dtype_of,
    is_constant,
    op_name,
    result_of,
    shape_of,
)
from lowprec.passes.elementwise import CONVERSION, EPILOGUE_OPS
from lowprec.passes.halves import WHOLE
from lowprec.passes.signs import multiplies_signs
from lowprec.passes.units import lies_as_planes
from lowprec.passes.widening import source_of
from lowprec.schedules.bounding import bounded
from lowprec.schedules.epilogue import Argument, Epilogue, Operand, Step, Value
from lowprec.schedules.epilogue import Constant as Number
from lowprec.schedules.simplifying import simplified
from lowprec.schedules.views import INTEGERS, UPPER_HALVES, View
from lowprec.schedules.windows import Window, whole

Source: TypeAlias = relax.Var | Constant  # what a kernel is called with: a parameter of the unit, or a constant

Windows: TypeAlias = dict[relax.Var, tuple[relax.Var, Window]]  # a parameter, or a slice of one, and its place


WORDS = ("int8", "uint8", "int16")
"""Integers that kernels multiply."""


class Declined(Exception):
    """The unit is not of the form a template computes; the generic rule takes it."""


@dataclass(slots=True, kw_only=True)
class UnitReading:
    """A unit, read: its operator, where its operands and result lie, and its epilogue."""

    operator: relax.Call
    windows: Windows
    zero_point: int
    signs: bool
    result: Window
    bias: Array | None
    epilogue: Epilogue
    sources: list[Source | Array]

    def place(self, value: relax.Expr) -> tuple[relax.Var, Window]:
        """The parameter that the operator reads, and the part of it."""
        if value not in self.windows:
            raise Declined(f"{op_name(self.operator)} reads what is neither a parameter nor a window of one")
        return self.windows[value]


def read_unit(function: relax.Function) -> UnitReading:
    """The reading of a unit, or Declined."""
    windows, lines = read_windows(function)
    _read_halves(windows, lines)
    zero_point = _read_integers(windows, lines)
    signs = _read_signs(windows, lines)
    # Windows of epilogue operands may follow the operator.
    anchor, operator = lines.pop(0)
    reads = sum(argument.same_as(anchor) for _, value in lines for argument in getattr(value, "args", ()))
    may_start = _packs(operator) and not signs and reads == 1  # who reads it again wants it without a bias
    reader = _Reader(windows=windows, shape=shape_of(anchor), values={anchor: 0}, may_start=may_start)
    result = whole(shape_of(anchor), dtype_of(result_of(function)))
    last = anchor
    for var, value in lines:
        name = op_name(value)
        if name == "relax.strided_slice":
            windows[var] = read_window(value, windows)
        elif name == WHOLE:
            windows[var] = _read_half(value, windows)
        elif name == "relax.nn.pad" and value.args[0].same_as(last):
            result = read_border(value, result)
            last = var
        else:
            reader.step(var, value)
            last = var
    if not last.same_as(result_of(function)):
        raise Declined("the unit's last value is not its result")
    operands = tuple(reader.operands)
    return UnitReading(
        operator=operator,
        windows=windows,
        zero_point=zero_point,
        signs=signs,
        result=result,
        bias=reader.bias,
        epilogue=Epilogue(steps=bounded(simplified(tuple(reader.steps)), operands), operands=operands),
        sources=reader.sources,
    )


def read_windows(function: relax.Function) -> tuple[Windows, list[tuple[relax.Var, relax.Expr]]]:
    """Where a unit's parameters, and the windows of them that it begins with, lie; and the lines that follow."""
    windows: Windows = {param: (param, whole(shape_of(param), dtype_of(param))) for param in function.params}
    lines = list(bindings(function))
    while lines and op_name(lines[0][1]) == "relax.strided_slice":
        var, value = lines.pop(0)
        windows[var] = read_window(value, windows)
    return windows, lines


def _read_halves(windows: Windows, lines: list[tuple[relax.Var, relax.Expr]]) -> None:
    """What the operator reads of numbers stored as halves: windows of the halves; they are taken from `lines`."""
    while lines and op_name(lines[0][1]) == WHOLE:
        var, value = lines.pop(0)
        windows[var] = _read_half(value, windows)


def _read_half(value: relax.Call, windows: Windows) -> tuple[relax.Var, Window]:
    if value.args[0] not in windows:
        raise Declined("halves of something computed")
    return windows[value.args[0]]


def _read_integers(windows: Windows, lines: list[tuple[relax.Var, relax.Expr]]) -> int:
    """The zero point of integers that the operator reads; what centres them, if anything, is taken from `lines`."""
    zero_point = 0
    while lines and (source := source_of(lines[0][1])) is not None and source in windows:
        var, value = lines.pop(0)
        windows[var] = windows[source]
        if op_name(value) == "relax.subtract" and source.same_as(value.args[0]) and is_constant(value.args[1]):
            zero_point += int(array_of(value.args[1]).reshape(()))
        elif op_name(value) != CONVERSION or dtype_of(value) not in (INTEGERS, "int64"):
            raise Declined("integers that are more than centred before they are multiplied")
    return zero_point


def _read_signs(windows: Windows, lines: list[tuple[relax.Var, relax.Expr]]) -> bool:
    """Whether the operator reads the signs of a window; what makes them is taken from `lines`."""
    values = dict(lines)
    if len(lines) < 3 or not multiplies_signs(lines[2][1], values):
        return False
    (_, condition), (signs, _) = lines.pop(0), lines.pop(0)
    if condition.args[0] not in windows:
        raise Declined("signs of what is computed inside")
    windows[signs] = windows[condition.args[0]]
    return True


def _packs(operator: relax.Call) -> bool:
    """Whether the kernel packs constant weights, and with them takes a bias."""
    weights = operator.args[1]
    if op_name(operator) == "relax.nn.conv2d" and lies_as_planes(operator):
        return False
    return is_constant(weights) and (op_name(operator) != "relax.matmul" or len(shape_of(weights)) == 2)


def read_window(value: relax.Call, windows: Windows) -> tuple[relax.Var, Window]:
    """The parameter that a slice is a window of, and the window."""
    if value.args[0] not in windows:
        raise Declined("a slice of something computed")
    param, outer = windows[value.args[0]]
    axes, begin, _, *steps = ([int(item) for item in argument.fields] for argument in value.args[1:])
    if not outer.is_whole or (steps and set(steps[0]) != {1}):
        raise Declined("a slice that is no window")
    first = dict(zip(axes, begin, strict=True))  # in any order
    places = tuple(first.get(axis, 0) for axis in range(len(outer.shape)))
    return param, replace(outer, begin=places, extents=shape_of(value))


def read_border(value: relax.Call, result: Window) -> Window:
    """Where `result` lies once a pad has put its border around it."""
    widths = [int(width) for width in value.attrs.pad_width]
    border = float(value.attrs.pad_value)
    zeros = border == 0 or (result.dtype in WORDS and border.is_integer())
    if str(value.attrs.pad_mode) != "constant" or not zeros or min(widths) < 0 or not result.is_whole:
        raise Declined("a border that is not of zeros, or a second one")
    return replace(result, shape=shape_of(value), begin=tuple(widths[::2]), border=int(border))


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Collects the epilogue."""

    windows: Windows
    shape: tuple[int, ...]
    values: dict[relax.Var, int]
    may_start: bool
    steps: list[Step] = field(default_factory=list)
    operands: list[View] = field(default_factory=list)
    sources: list[Source | Array] = field(default_factory=list)
    bias: Array | None = None

    def step(self, var: relax.Var, value: relax.Expr) -> None:
        name = dtype_of(value) if op_name(value) == CONVERSION else EPILOGUE_OPS.get(op_name(value))
        if name is None or shape_of(value) != self.shape:
            raise Declined(f"{op_name(value)} cannot follow in a kernel")
        if self.may_start and not self.steps and self.bias is None and name == "add" and self._take_bias(value):
            self.values[var] = 0
            return
        arguments = [self._argument(argument) for argument in value.args]
        if name == "leakyrelu":
            arguments.append(Number(float(value.attrs.alpha)))
        self.steps.append(Step(op=name, arguments=tuple(arguments)))
        self.values[var] = len(self.steps)

    def _take_bias(self, value: relax.Call) -> bool:
        """A first addition of one constant a channel is the accumulators' start."""
        first, second = value.args
        constant = second if is_constant(second) else first
        other = first if is_constant(second) else second
        if not is_constant(constant) or self.values.get(other) != 0:
            return False
        array, channels = array_of(constant), self.shape[-1]
        if array.size == 1 and array.dtype.kind == "i":  # before sums are rounded to float32
            self.bias = np.full(channels, array.reshape(()))
            return True
        if array.size != channels or (array.ndim and array.shape[-1] != array.size) or channels == 1:
            return False
        self.bias = array.reshape(-1)
        return True

    def _argument(self, argument: relax.Expr) -> Argument:
        if argument in self.values:
            return Value(self.values[argument])
        if is_constant(argument):
            array = array_of(argument)
            if array.size == 1:
                return Number(float(array.reshape(())))
            if array.shape[-1] == array.size:  # one for each channel, wherever that is
                return self._operand(array.reshape(-1), whole((array.size,), dtype_of(argument)))
            return self._operand(argument, whole(shape_of(argument), dtype_of(argument)))
        if argument in self.windows:
            param, window = self.windows[argument]
            operand = self._operand(param, window)
            if window.dtype != UPPER_HALVES:
                return operand
            self.steps.append(Step(op="from upper half", arguments=(operand,)))
            return Value(len(self.steps))
        number = getattr(argument, "value", None)
        if not isinstance(number, int | float):
            raise Declined(f"an epilogue argument of type {type(argument).__name__}")
        return Number(float(number))

    def _operand(self, source: Source | Array, window: Window) -> Operand:
        if len(window.extents) > len(self.shape):
            raise Declined("an operand of higher rank than the result")
        aligned = self.shape[len(self.shape) - len(window.extents) :]
        if any(have not in (1, want) for have, want in zip(window.extents, aligned, strict=True)):
            raise Declined("an operand that would broadcast the result")
        self.sources.append(source)
        self.operands.append(window.view(self.shape))
        return Operand(len(self.operands) - 1)


def as_float32(array: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(array, dtype=np.float32)
