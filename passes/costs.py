"""What a unit does at least: the multiply-adds of its products, and the bytes that it cannot but move.

    unit(x, w) = relu(conv2d(x[halo cut off], w))    macs: those of the convolution, padding included
                                                     bytes: x without its halo, w, the result without its halo

Counted on the graph, not on kernels: packing, merged groups and overlapping tiles cost nothing here. Of a tensor that a
unit reads in part (a slice, a gather, a convolution that steps over pixels) only that part counts, as far as shapes
tell; anything else is taken to be read once and written once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from tvm import DataType, relax

from lowprec.layers import Cost
from lowprec.passes.editing import bindings, dtype_of, is_constant, is_tensor, op_name, result_of, shape_of, tensors_in
from lowprec.passes.units import CONVOLUTIONS

Shape = tuple[int, ...]

TRANSPOSED = frozenset(f"{name}_transpose" for name in CONVOLUTIONS)
POOLS = frozenset(f"relax.nn.{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3))
PICKING = frozenset(
    {"relax.strided_slice", "relax.image.resize2d", "relax.call_tir"}
)  # may read no more than they write


def cost_of(function: relax.Function, inputs: Sequence[Shape | None], result: Shape | None) -> Cost:
    """The cost of a unit; `inputs` and `result` are the extents of its tensors inside their halos, where they have
    any."""
    lines = tuple(bindings(function))
    reading = _Reading(lines=lines, result=result_of(function))
    extents = dict(zip(function.params, inputs, strict=True))
    constants = dict.fromkeys(source for _, value in lines for source in tensors_in(value) if is_constant(source))
    read = sum(_bytes(param, reading.elements(param), extents[param]) for param in function.params)
    written = sum(_bytes(tensor, _size(tensor), result) for tensor in _results(result_of(function)))
    return Cost(
        macs=sum(_macs(var, value) for var, value in lines),
        weight_bytes=sum(_bytes(constant, reading.elements(constant), None) for constant in constants),
        tensor_bytes=read + written,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """A unit's bindings, asked how much of a value they read."""

    lines: tuple[tuple[relax.Var, relax.Expr], ...]
    result: relax.Expr

    def elements(self, source: relax.Expr) -> int:
        """At least so many elements of a value are read: the most that one of its readers needs."""
        uses = [self._needed(source, var, value) for var, value in self.lines if _reads(value, source)]
        return max(uses, default=0)

    def _needed(self, source: relax.Expr, var: relax.Var, value: relax.Expr) -> int:
        name = op_name(value)
        if name in PICKING:
            later = 0 if var.same_as(self.result) else self.elements(var)
            return min(_size(source), later or sum(map(_size, _results(var))))
        if name in CONVOLUTIONS | POOLS and value.args[0].same_as(source):
            return _size_inside_windows(value, shape_of(source), shape_of(var))
        return _size(source)


def _size_inside_windows(value: relax.Call, shape: Shape, result: Shape) -> int:
    """Elements of a convolution's or pool's source that some window holds: strides may step over the rest."""
    attrs = value.attrs
    convolution = op_name(value) in CONVOLUTIONS
    layout = str(attrs.data_layout if convolution else attrs.layout)
    spatial = [axis for axis, letter in enumerate(layout) if letter not in "NC"]
    kernel = _weight_axes(value, without="OI") if convolution else tuple(map(int, attrs.pool_size))
    steps = zip(spatial, kernel, map(int, attrs.strides), strict=True)
    least = {axis: min(shape[axis], result[axis] * taps) for axis, taps, stride in steps if stride >= taps}
    return prod(least.get(axis, extent) for axis, extent in enumerate(shape))


def _weight_axes(convolution: relax.Call, *, without: str) -> Shape:
    layout = str(convolution.attrs.kernel_layout)
    return tuple(n for n, letter in zip(shape_of(convolution.args[1]), layout, strict=True) if letter not in without)


def _macs(var: relax.Var, value: relax.Expr) -> int:
    """Multiply-adds of a convolution or matrix product by the direct algorithm."""
    name = op_name(value)
    if name == "relax.matmul":
        return _size(var) * shape_of(value.args[0])[-1]
    if name not in CONVOLUTIONS | TRANSPOSED:
        return 0
    # A weight meets every pixel of the side that has as many channels as the weights' first or second axis.
    side, letter = (value.args[0], "I") if name in TRANSPOSED else (var, "O")
    return _size(side) * prod(_weight_axes(value, without=letter))


def _reads(value: relax.Expr, source: relax.Expr) -> bool:
    return any(source.same_as(tensor) for tensor in tensors_in(value))


def _results(value: relax.Expr) -> Iterator[relax.Expr]:
    """The tensors that a value, or each field of a tuple, is."""
    if is_tensor(value):
        yield value
    elif isinstance(value, relax.Tuple):
        yield from value.fields
    else:
        yield from (relax.Var("", field) for field in value.ty.fields)


def _size(value: relax.Expr) -> int:
    return prod(shape_of(value))


def _bytes(tensor: relax.Expr, elements: int, inside: Shape | None) -> int:
    """Of so many elements, but no more than those inside the halo."""
    counted = elements if inside is None else min(elements, prod(inside))
    return counted * int(DataType(dtype_of(tensor)).itemsize)
