"""Strided views: how a kernel's loop coordinates (n, d, h, w, c) address a tensor.

Every kernel of ours walks the same five coordinates whatever the tensor's rank: a 1-D convolution has d = h = 0, a
matrix product's rows are w. A view carries the tensor's true shape (what the caller passes) and one element stride per
coordinate, so crops, halos, broadcast operands and flattened leading axes are all the same thing:

    element(n, d, h, w, c) = base[offset + n*sn + d*sd + h*sh + w*sw + c*sc]
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import TypeAlias

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

COORDINATES = 5
FLOAT = "float32"
INTEGERS = "int32"
WORDS = "uint32"
UPPER_HALVES = "uint16"
"""Numbers of bfloat16 as they lie in memory: the upper halves of float32."""
FLOAT_BYTES = 4

Index: TypeAlias = ir.Expr | int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A tensor of `shape`, addressed by (n, d, h, w, c) with element `strides` from `offset`."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    dtype: str = FLOAT

    def __post_init__(self) -> None:
        if len(self.strides) != COORDINATES:
            raise ValueError(f"a view has {COORDINATES} strides, not {len(self.strides)}")

    def address(self, coordinates: tuple[Index, ...]) -> Index:
        """The linear element offset of one element."""
        position: Index = self.offset
        for index, stride in zip(coordinates, self.strides, strict=True):
            if stride:
                position = position + index * stride
        return position

    def buffer(self, name: str) -> tirx.Buffer:
        """Declare this tensor as the next argument of the function under construction."""
        return T.arg(name, T.buffer(self.shape, self.dtype))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn(View):
    """A tensor of random words that a kernel makes where it needs them: positions are an element's place in ONNX's
    order, and what the caller passes is the tensor's key."""

    def buffer(self, name: str) -> tirx.Buffer:
        return T.arg(name, T.buffer((2,), WORDS))


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Element strides of a contiguous tensor."""
    return tuple(reversed(tuple(accumulate((1, *reversed(shape[1:])), mul)))) if shape else ()


def load(buffer: tirx.Buffer, position: Index, lanes: int) -> ir.Expr:
    """`lanes` consecutive elements at a linear position."""
    return tirx.BufferLoad(buffer, _index(buffer, position, lanes))


def store(buffer: tirx.Buffer, position: Index, value: ir.Expr, lanes: int) -> None:
    """Write `lanes` consecutive elements at a linear position."""
    T.buffer_store(buffer, value, _index(buffer, position, lanes))


_scope: ContextVar[str] = ContextVar("scope", default="global")
"""Where `room` is. On a CPU not "local": TVM takes that from the heap."""


@contextmanager
def inside_a_thread() -> Iterator[None]:
    """Kernels of a GPU: what is built here keeps its values in each thread's registers."""
    token = _scope.set("local")
    try:
        yield
    finally:
        _scope.reset(token)


def room(lanes: int, dtype: str) -> tirx.Buffer:
    """A few elements on the side. One small buffer each: LLVM keeps those in registers, a large one it spills."""
    return T.alloc_buffer((lanes,), dtype, scope=_scope.get())


def register(lanes: int, dtype: str = FLOAT) -> tirx.Buffer:
    """Room for one vector."""
    return room(lanes, dtype)


def named(value: ir.Expr) -> ir.Expr:
    """A value that is used more than once: expressions are trees, so an unnamed one is computed at each use.

    It is kept in memory of its own, which LLVM turns back into a register. Not as a variable: TVM bounds every integer
    variable by those it is made of, and takes minutes over a long chain of them.
    """
    lanes = value.ty.dtype.lanes
    kept = room(lanes, value.ty.dtype.with_lanes(1))
    store(kept, 0, value, lanes)
    return load(kept, 0, lanes)


def splat(value: ir.Expr, lanes: int) -> ir.Expr:
    """One value in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def zeros(lanes: int, dtype: str = FLOAT) -> ir.Expr:
    """A vector of zeros."""
    return splat(tirx.const(0, dtype), lanes)


def ramp(position: Index, lanes: int) -> Index:
    """`lanes` consecutive indices."""
    return position if lanes == 1 else tirx.Ramp(position, 1, lanes)


def _index(buffer: tirx.Buffer, position: Index, lanes: int) -> list[Index]:
    # Buffers are contiguous, so the last axis alone, indexed past its extent, reaches every element.
    if not buffer.shape:
        return []
    return [0] * (len(buffer.shape) - 1) + [ramp(position, lanes)]
