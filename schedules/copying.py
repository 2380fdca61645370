"""A tensor copied to its place in a larger one.

before:  Y[..., begin + i, ...] = X[..., i, ...]
after:   rows of channels in parallel, by vectors; the last vector overlaps its neighbour
"""

from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.halo import fill_halo
from lowprec.schedules.tasks import decode
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import load, store
from lowprec.schedules.windows import Window, coordinates


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """From one window to another of the same extents."""

    source: Window
    result: Window
    lanes: int


def build_copy(spec: Copy) -> tirx.PrimFunc:
    """The kernel: arguments X, Y."""
    source, result = spec.source.view(), spec.result.view()
    *rows, channels = coordinates(spec.result.extents)
    width = min(spec.lanes, channels)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x, y = source.buffer("X"), result.buffer("Y")
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        if spec.result.halo is not None:
            fill_halo(y, spec.result.halo, spec.lanes)
        with T.parallel(0, prod(rows)) as row:
            at = tuple(decode(row, tuple(rows)))
            with T.serial(0, ceil_div(channels, width)) as vector:
                first = vector * width if channels % width == 0 else tirx.min(vector * width, channels - width)
                place = (*at, T.bind(first))
                store(y, result.address(place), load(x, source.address(place), width), width)
    return builder.get()
