"""One layer of the sweep: a convolution or product, where its tensors lie and what follows it. All of it is data.

unit(layer, data)    the layer as the passes hand it to a kernel: windows, operator, bias, epilogue, border
data_of(layer)       numbers for it, the same each time
"""

import zlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from lowprec.choosing import DIRECT
from lowprec.convolution import Conv
from lowprec.passes.calling import Kind, unit_attributes
from lowprec.passes.editing import Emitter
from lowprec.passes.elementwise import EPILOGUE_OPS
from lowprec.schedules.epilogue import Argument, Constant, Operand, Step, Value
from lowprec.schedules.windows import Window

Array = NDArray[np.float32]
Shape = tuple[int, ...]
LAYOUTS = {1: ("NWC", "OIW"), 2: ("NHWC", "OIHW"), 3: ("NDHWC", "OIDHW")}
OPERATOR_OF = {name: operator for operator, name in EPILOGUE_OPS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """(*leading, rows, depth) by (depth, columns), or with `batched` by (*leading, depth, columns)."""

    leading: Shape
    rows: int
    depth: int
    columns: int
    right: Literal["constant", "computed"]
    batched: bool

    @property
    def left_shape(self) -> Shape:
        return (*self.leading, self.rows, self.depth)

    @property
    def right_shape(self) -> Shape:
        return (*(self.leading if self.batched else ()), self.depth, self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """Part of a concatenation that is copied to its place."""

    extents: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """A tensor that the epilogue reads; a constant has no border."""

    window: Window
    constant: bool


Operator: TypeAlias = Conv | Product | Copied


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """`source` and `result` are channels last; a convolution's padding is inside `source`, as zeros.

    `result` may be a part of a concatenation, with other channels beside it and a border that another part writes.
    `algorithm` is a convolution's, as the plan would have it, and `sizes` are those of its Fourier tiles.
    """

    target: str
    operator: Operator
    source: Window
    right: Window | None
    result: Window
    bias: bool
    steps: tuple[Step, ...]
    extras: tuple[Extra, ...]
    algorithm: str = DIRECT
    sizes: Shape = ()

    @property
    def is_part(self) -> bool:
        """Whether the result is written into a concatenation."""
        return not self.result.bordered or self.result.shape[-1] != self.result.extents[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Numbers: `x` and `w` lie as the operator's oracle has them."""

    x: Array
    w: Array
    bias: Array | None
    extras: tuple[Array, ...]


def data_of(layer: Layer) -> Data:
    """Results of size one, whatever the depth; extras far from zero, so that they can be divisors."""
    rng = np.random.default_rng(zlib.crc32(repr(layer).encode()))
    x_shape, w_shape, terms = _shapes(layer.operator)
    return Data(
        x=rng.standard_normal(x_shape, np.float32),
        w=rng.standard_normal(w_shape, np.float32) / np.float32(terms**0.5),
        bias=rng.standard_normal(layer.result.extents[-1], np.float32) if layer.bias else None,
        extras=tuple(_away_from_zero(rng, extra.window.extents) for extra in layer.extras),
    )


def _shapes(operator: Operator) -> tuple[Shape, Shape, int]:
    """Of what the operator reads and of its weights, and how many products it sums."""
    match operator:
        case Conv():
            terms = operator.parameters // operator.out_channels
            return (operator.batch, operator.in_channels, *operator.size), operator.weight_shape, terms
        case Product():
            return operator.left_shape, operator.right_shape, operator.depth
        case Copied(extents=extents):
            return extents, (), 1


def _away_from_zero(rng: np.random.Generator, shape: Shape) -> Array:
    values: Array = (rng.uniform(0.5, 1.5, shape) * rng.choice((-1.0, 1.0), shape)).astype(np.float32)
    return values


def unit(layer: Layer, data: Data) -> relax.Function:
    """The unit; its parameters are the source, a computed right-hand side, the epilogue's computed tensors."""
    emitter = Emitter()
    source = _param("x", layer.source)
    right = None if layer.right is None else _param("w", layer.right)
    extras = [
        relax.const(values) if extra.constant else _param(f"e{index}", extra.window)
        for index, (extra, values) in enumerate(zip(layer.extras, data.extras, strict=True))
    ]
    left = _cut(emitter, source, layer.source)
    weights = relax.const(data.w) if right is None or layer.right is None else _cut(emitter, right, layer.right)
    assert not isinstance(layer.operator, Copied), "a copy is no unit"
    value = emitter.emit(_operator(layer.operator, left, weights))
    if data.bias is not None:
        value = emitter.emit(relax.op.add(value, relax.const(data.bias)))
    operands = [
        tensor if extra.constant else _cut(emitter, tensor, extra.window)
        for extra, tensor in zip(layer.extras, extras, strict=True)
    ]
    value = _epilogue(emitter, layer.steps, value, operands)
    if not layer.result.is_whole and not layer.is_part:
        value = emitter.emit(relax.op.nn.pad(value, _widths(layer.result)))
    kind = Kind.CONVOLUTION if isinstance(layer.operator, Conv) else Kind.PRODUCT
    attributes = unit_attributes(kind, "layer", [str(kind)])
    params = [source, *([] if right is None else [right]), *(e for e in extras if isinstance(e, relax.Var))]
    return emitter.function(params, value, attributes)


def _param(name: str, window: Window) -> relax.Var:
    return relax.Var(name, relax.TensorType(window.shape, "float32"))


def _cut(emitter: Emitter, tensor: relax.Expr, window: Window) -> relax.Expr:
    """The window of a tensor, as a slice where it is not all of it."""
    if window.is_whole:
        return tensor
    end = [begin + extent for begin, extent in zip(window.begin, window.extents, strict=True)]
    return emitter.emit(relax.op.strided_slice(tensor, list(range(len(end))), list(window.begin), end))


def _widths(window: Window) -> list[int]:
    ends = zip(window.begin, window.extents, window.shape, strict=True)
    return [width for begin, extent, whole in ends for width in (begin, whole - begin - extent)]


def _operator(operator: Conv | Product, left: relax.Expr, weights: relax.Expr) -> relax.Expr:
    if isinstance(operator, Product):
        return relax.op.matmul(left, weights)
    rank = len(operator.size)
    layout, kernel_layout = LAYOUTS[rank]
    return getattr(relax.op.nn, f"conv{rank}d")(
        left,
        weights,
        strides=operator.stride,
        padding=[0] * (2 * rank),
        dilation=operator.dilation,
        groups=operator.groups,
        data_layout=layout,
        kernel_layout=kernel_layout,
        out_layout=layout,
    )


def _epilogue(
    emitter: Emitter, steps: tuple[Step, ...], accumulator: relax.Expr, operands: list[relax.Expr]
) -> relax.Expr:
    values = [accumulator]

    def expression(argument: Argument) -> relax.Expr:
        match argument:
            case Value(index):
                return values[index]
            case Operand(index):
                return operands[index]
            case Constant(number):
                return relax.const(np.float32(number))

    for step in steps:
        arguments = [expression(argument) for argument in step.arguments]
        values.append(emitter.emit(_call(step, arguments)))
    return values[-1]


def _call(step: Step, arguments: list[relax.Expr]) -> relax.Expr:
    """The Relax operator of a step, which takes some numbers as attributes."""
    path = OPERATOR_OF[step.op].removeprefix("relax.").split(".")
    function = relax.op
    for name in path:
        function = getattr(function, name)
    numbers = [argument.number for argument in step.arguments if isinstance(argument, Constant)]
    if step.op in ("clip", "leakyrelu"):
        return function(arguments[0], *numbers)
    return function(*arguments)
