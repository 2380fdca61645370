"""A tensor of random words, in any layout: word(i) of docs/numerics.md, i being an element's place in ONNX's order.

    Y[n, h, w, c] = Philox(i div 4)[i mod 4]      i = ((n * C + c) * H + h) * W + w

A Philox block has the words of four elements in a row. Where rows lie across the vectors, as with channels innermost, a
vector of blocks gives four vectors of words, one for each of four pixels; where the row itself is innermost, words are
put in order. Both need whole blocks in every plane, or row; else each element computes a block for itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.philox import BLOCK
from lowprec.schedules.philox import (
    Interleaved,
    Stream,
    Words,
    blocks,
    element_word,
    first_product,
    places_in_rows,
    rows_of_words,
    stream,
)
from lowprec.schedules.tasks import decode, start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import WORDS, Index, load, named, splat, store
from lowprec.schedules.walkers import TASK_BITS
from lowprec.schedules.windows import logical_strides

WORK = 1 << 14
"""Words of a task, about."""
VECTORS = 2
"""Of blocks in flight: a round is a chain of instructions, and each vector of words takes two registers."""
PIECES = 4
"""The same where blocks lie as they come."""
STEP_SHAPE, STEP_TYPE = (1,), "int64"
_TWO, _HIGH = tirx.const(2, "uint64"), tirx.const(0, "uint64")
"""The binary digits of a place within a block; and the high half of a block's number, as tensors are small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Some axes of the tensor that lie together: neighbours are `stride` places apart in ONNX's order."""

    extent: int
    stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A kernel: a tensor of physical `shape`, whose axis i is ONNX's axis `order[i]`; vectors have up to `lanes` words.
    Arguments: the tensor's key, two uint32; the step, int64; Y."""

    shape: tuple[int, ...]
    order: tuple[int, ...]
    lanes: int

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Those longer than one, joined where both orders agree."""
        found: list[Axis] = []
        for extent, stride in zip(self.shape, logical_strides(self.shape, self.order), strict=True):
            if extent == 1:
                continue
            before = found[-1] if found else None
            if before is not None and before.stride == extent * stride:
                found[-1] = Axis(extent=before.extent * extent, stride=stride)
            else:
                found.append(Axis(extent=extent, stride=stride))
        return tuple(found) or (Axis(extent=1, stride=1),)

    @property
    def together(self) -> int:
        """Elements before the innermost axis that share blocks."""
        *others, inner = self.axes
        row = others[-1] if others else inner
        whole = bool(others) and row.stride == 1 and row.extent % BLOCK == 0
        return BLOCK if whole and all(axis.stride % BLOCK == 0 for axis in (*others[:-1], inner)) else 1

    @property
    def piece(self) -> int:
        """Elements of the innermost axis that are drawn together as blocks have them; 0 where it cuts blocks."""
        *others, inner = self.axes
        whole = inner.stride == 1 and all(number % BLOCK == 0 for number in (inner.extent, *(a.stride for a in others)))
        count = PIECES * BLOCK * self.lanes // 2
        return count if whole and inner.extent >= count and self.lanes > 2 else 0


def build_noise(spec: Noise) -> tirx.PrimFunc:
    """The kernel for a CPU."""
    *others, inner = spec.axes
    extents = tuple(axis.extent for axis in others)
    rows, size = prod(extents) // spec.together, inner.extent * spec.together
    if spec.piece:
        rows, size = prod(extents) * ceil_div(inner.extent, spec.piece), spec.piece
    share = max(1, min(rows, WORK // size))
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        key = T.arg("key", T.buffer((2,), WORDS))
        step = T.arg("step", T.buffer(STEP_SHAPE, STEP_TYPE))
        y = T.arg("Y", T.buffer(spec.shape, WORDS))
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        with T.parallel(0, ceil_div(rows, share)) as task:
            source = source_of(key, step, task)
            with T.serial(0, share) as number:
                row = T.bind(start_of(task, share, rows) + number)
                if spec.piece:
                    _draw_piece(spec, source, y, row)
                else:
                    _Row(spec=spec, source=source, y=y, number=T.bind(row * spec.together)).emit(extents)
    return builder.get()


def source_of(key: tirx.Buffer, step: tirx.Buffer, task: Expr) -> Stream:
    """What a task draws from."""
    zero = tirx.Cast("int32", task >> tirx.const(TASK_BITS, task.ty.dtype))
    keys = [named(load(key, place, 1)) for place in range(2)]
    return stream(keys[0], keys[1], named(tirx.Cast(WORDS, load(step, 0, 1))), zero=named(zero))


def positions(first: Expr, stride: int, lanes: int) -> Expr:
    """The places of neighbours along an axis, from an int64, as uint64."""
    begin = named(tirx.Cast("uint64", first))
    if lanes == 1:
        return begin
    ramp = tirx.Ramp(tirx.const(0, "int64"), tirx.const(stride, "int64"), lanes)
    return splat(begin, lanes) + tirx.Cast(f"uint64x{lanes}", ramp)


def quads(source: Stream, firsts: Sequence[Expr], stride: int, lanes: int, *, aligned: bool) -> list[Words]:
    """The four words of vectors of blocks: those of the elements at `firsts`, int64, and of their neighbours that are
    `stride` places apart; if `aligned`, each begins its block."""
    if lanes % 2:
        numbers = [named(positions(first, stride, lanes) >> splat(_TWO, lanes)) for first in firsts]
        kind = WORDS if lanes == 1 else f"{WORDS}x{lanes}"
        found = blocks(source, numbers, _HIGH)
        return [(cast(a), cast(b), cast(c), cast(d)) for a, b, c, d in found for cast in (partial(tirx.Cast, kind),)]
    steps = [tirx.const(place * stride, "uint64") for place in places_in_rows(lanes)]
    begins = [named(tirx.Cast("uint64", first)) for first in firsts]
    if aligned:
        ramp = _constants([first_product(step >> _TWO) for step in steps])
        products = [splat(named(first_product(begin >> _TWO)), lanes) + ramp for begin in begins]
    else:
        numbers = [splat(begin, lanes) + _constants(steps) for begin in begins]
        products = [first_product(number >> splat(_TWO, lanes)) for number in numbers]
    return rows_of_words(source, [named(product) for product in products], _HIGH)


def _wide(place: Index) -> Expr:
    return tirx.const(place, "int64") if isinstance(place, int) else tirx.Cast("int64", place)


def _constants(values: Sequence[Expr]) -> Expr:
    return tirx.Shuffle(list(values), [tirx.const(lane, "int32") for lane in range(len(values))])


def _draw_piece(spec: Noise, source: Stream, y: tirx.Buffer, number: Expr) -> None:
    """One of all pieces of the innermost axis, which has its elements in order."""
    *others, inner = spec.axes
    *places, part = decode(number, (*(axis.extent for axis in others), ceil_div(inner.extent, spec.piece)))
    start = start_of(part, spec.piece, inner.extent)
    first = _wide(sum((place * axis.stride for place, axis in zip(places, others, strict=True)), start=start))
    block = named(tirx.Cast("uint64", first) >> _TWO)
    begin = T.bind(tirx.floordiv(number, ceil_div(inner.extent, spec.piece)) * inner.extent + start)
    for vector, complement in enumerate(Interleaved(source, spec.lanes // 2).complements(block, PIECES)):
        store(y, begin + vector * spec.lanes, ~complement, spec.lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What lies along the innermost axis, of as many elements as share blocks; `number` counts the first of them."""

    spec: Noise
    source: Stream
    y: tirx.Buffer
    number: Expr

    def emit(self, extents: tuple[int, ...]) -> None:
        *others, inner = self.spec.axes
        places = decode(self.number, extents)
        first = _wide(sum((place * axis.stride for place, axis in zip(places, others, strict=True)), start=0))
        lanes = min(self.spec.lanes, inner.extent)
        vectors = min(VECTORS, ceil_div(inner.extent, lanes))
        with T.serial(0, ceil_div(inner.extent, lanes * vectors)) as group:
            begin = start_of(group, lanes * vectors, inner.extent)
            starts = [T.bind(tirx.min(begin + i * lanes, inner.extent - lanes)) for i in range(vectors)]
            places = [first + tirx.Cast("int64", start) * inner.stride for start in starts]
            self._store(starts, places, lanes)

    def _store(self, starts: list[Expr], places: list[Expr], lanes: int) -> None:
        width, stride = self.spec.axes[-1].extent, self.spec.axes[-1].stride
        if self.spec.together == 1:
            for start, place in zip(starts, places, strict=True):
                word = element_word(self.source, named(positions(place, stride, lanes)))
                store(self.y, self.number * width + start, word, lanes)
            return
        for start, words in zip(starts, quads(self.source, places, stride, lanes, aligned=True), strict=True):
            for row, word in enumerate(words):
                store(self.y, (self.number + row) * width + start, word, lanes)
