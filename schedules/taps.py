"""Which taps of a kernel can see more than zeros.

A convolution's source may have a border of zeros, which its producer wrote. A tap that falls into it for every pixel at
hand adds nothing and is passed over: of a 3 x 3 kernel on 7 x 7 pixels one row of taps in ten, of a dilated one most.
"""

from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.views import Index

Live: TypeAlias = tuple[int, int]  # first and one past the last position of an axis that may hold other than zero


def seeing_taps(
    first: Index, *, count: int, outputs: int, taps: int, stride: int, dilation: int, live: Live
) -> tuple[Index, Index]:
    """The first tap, and one past the last, that sees any of `live` from any of `count` pixels from `first` on."""
    begin, end = live
    # The taps before and behind that no tile can do without: if those are all, no tile passes any over.
    if begin <= (min(count, outputs) - 1) * stride and (outputs - count) * stride + (taps - 1) * dilation < end:
        return 0, taps
    last = first + (min(count, outputs) - 1)
    low = tirx.max(0, tirx.floordiv(begin - last * stride + (dilation - 1), dilation))
    high = tirx.min(taps, tirx.floordiv(end - 1 - first * stride, dilation) + 1)
    low = T.bind(low)
    return low, T.bind(tirx.max(low, high))
