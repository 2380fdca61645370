"""Pixels taken apart into the numbers that AMX multiplies, before a kernel begins: see `amx`."""

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.arithmetic import BITS
from lowprec.schedules.tasks import start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.vector_math import to_bfloat16, upper_half
from lowprec.schedules.views import UPPER_HALVES, load, splat, store
from lowprec.tiles import LANES

PIECE = 1 << 14
"""Numbers that a task takes apart."""


def upper_halves(x: tirx.Buffer, count: int, *, twofold: bool) -> tirx.Buffer:
    """A tensor of `count` bfloat16 numbers, without the zeros behind them; of float16 numbers the nearest ones of
    bfloat16, then what is left of each."""
    halves = T.alloc_buffer(((1 + twofold) * count,), UPPER_HALVES, scope="global")
    width = min(2 * LANES, count)
    piece = min(PIECE, count) // width * width
    with T.parallel(0, ceil_div(count, piece)) as task, T.serial(0, piece // width) as vector:
        place = start_of(task, piece, count) + vector * width
        number = T.bind(load(x, place, width))
        if twofold:
            near = T.bind(to_bfloat16(number))
            store(halves, place + count, upper_half(number - near), width)
            number = near
        store(halves, place, upper_half(number), width)
    return halves


def split_bytes(x: tirx.Buffer, count: int) -> tirx.Buffer:
    """A tensor of `count` numbers of 16 bits: their higher bytes, then the lower ones."""
    taken = T.alloc_buffer((2 * count,), "int8", scope="global")
    width = min(4 * LANES, count)
    piece = min(PIECE, count) // width * width
    eight = splat(tirx.const(BITS, "int16"), width)
    with T.parallel(0, ceil_div(count, piece)) as task, T.serial(0, piece // width) as vector:
        place = start_of(task, piece, count) + vector * width
        number = T.bind(load(x, place, width))
        kind = "int8" if width == 1 else f"int8x{width}"
        store(taken, place, tirx.Cast(kind, number >> eight), width)
        store(taken, place + count, tirx.Cast(kind, number), width)
    return taken
