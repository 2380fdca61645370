"""Weights fetched from memory ahead of their use, a little at each step of the work before."""

from collections.abc import Callable
from math import prod

import numpy as np
from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import Index

LINE = 64
"""Bytes of a cache line."""
PREFETCH_BYTES = 1 << 20
"""The most that is fetched ahead: it must stay in L2 until it is used."""

STREAMS = 4
"""Places at which memory is read at a time: one alone gives less than several, eight no more than four."""
FAR_BYTES, SEVERAL = 1 << 20, 3
"""Of weights from which on they come from memory; and lines a step, from which on memory is waited for."""
SOON_BYTES = 16 << 10
"""From what is read to what is to be read soon."""

_READ, _WRITE = 0, 1
_INTO_L2, _INTO_L1 = 2, 3
_DATA = 1


def is_fetched_ahead(size: int, visits: int) -> bool:
    """Whether weights of `size` bytes are fetched while so many visits are made to those before them: a single pass
    over the weights is a stream, which the hardware fetches ahead by itself."""
    return visits > 1 and size <= PREFETCH_BYTES


def prefetch(buffer: tirx.Buffer, *, start: Index, count: int, step: Index, steps: int) -> None:
    """At step `step` of `steps`: the step's share of the `count` bytes from byte `start`; may run past the buffer."""
    share = ceil_div(count, steps)
    lines = ceil_div(share, LINE)
    width = share if lines == 1 else lines * LINE
    size = prod(map(int, buffer.shape)) * np.dtype(buffer.dtype).itemsize
    streams = STREAMS if lines >= SEVERAL and size >= FAR_BYTES else 1
    _fetch(buffer, T.bind(start + share_of(step, steps, streams) * width), lines, (_READ, _INTO_L2))


def soon(buffer: tirx.Buffer, *, start: Index, count: int) -> None:
    """Of weights that are read for the first time, from byte `start` on: the `count` bytes that are read a little
    later; may run past the buffer."""
    _fetch(buffer, T.bind(start + SOON_BYTES), ceil_div(count, LINE), (_READ, _INTO_L2))


def share_of(step: Index, steps: int, streams: int) -> Index:
    """Which share is for a step, where they are cut into `streams` runs that take turns."""
    return step % streams * ceil_div(steps, streams) + step // streams


def panel_ahead(
    buffer: tirx.Buffer, number: Index, size: int, visit: Index, visits: int
) -> Callable[[Index, int], None]:
    """What to do at each step of visit `visit` to panel `number`, of `size` bytes: a share of the next one."""

    def before_step(step: Index, steps: int) -> None:
        prefetch(buffer, start=(number + 1) * size, count=size, step=visit * steps + step, steps=visits * steps)

    return before_step


def prefetch_stream(buffer: tirx.Buffer, *, start: Index, count: int, written: bool) -> None:
    """The `count` bytes from byte `start`, which are read, or written, once and soon; may run past the buffer."""
    _fetch(buffer, T.bind(start), ceil_div(count, LINE), (_WRITE if written else _READ, _INTO_L1))


def fetch(buffer: tirx.Var, place: ir.Expr, *, written: bool) -> tirx.Stmt:
    """The line of one element, soon read or written; may be outside of the buffer."""
    size = tirx.const(buffer.dtype.itemsize, "int64")
    how = (_WRITE, _INTO_L1) if written else (_READ, _INTO_L2)
    return tirx.Evaluate(_line(buffer, place * size, how))


def _fetch(buffer: tirx.Buffer, first: Index, lines: int, how: tuple[int, int]) -> None:
    for line in range(lines):
        T.evaluate(_line(buffer, first + line * LINE, how))


def _line(buffer: tirx.Var, start: Index, how: tuple[int, int]) -> ir.Expr:
    """The instruction for the line of byte `start`."""
    base = tirx.address_of(tirx.BufferLoad(buffer, [tirx.const(0, "int64")] * len(buffer.shape)))
    numbers = (tirx.const(number, "int32") for number in (*how, _DATA))
    return tirx.call_llvm_intrin("void", "llvm.prefetch", tirx.handle_add_byte_offset(base, start), *numbers)
