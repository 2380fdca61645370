"""Which pixels a kernel's taps see, and which taps see nothing but a border of zeros.

A convolution's source may have a border, which its producer wrote. A tap that falls into it for every pixel at hand
adds nothing and is passed over: of a 3 x 3 kernel on 7 x 7 pixels one row of taps in ten, of a dilated one most.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.views import Index, row_major

Triple: TypeAlias = tuple[int, int, int]
Live: TypeAlias = tuple[int, int]  # first and one past the last position of an axis that may hold other than zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Along d, h and w: `size` outputs, `kernel` taps, and what of the source is `live`; without padding."""

    size: Triple
    kernel: Triple
    stride: Triple
    dilation: Triple
    live: tuple[Live, Live, Live]

    @property
    def taps(self) -> int:
        return prod(self.kernel)

    def in_rows(self) -> "Geometry":
        """A row of taps taken as one."""
        d, h, _ = self.kernel
        *live, _ = self.live
        reach = (self.size[2] - 1) * self.stride[2] + 1
        return replace(self, kernel=(d, h, 1), live=(live[0], live[1], (0, reach)))

    def number(self, taps: tuple[Index, Index, Index]) -> Index:
        """A tap's place among all."""
        return sum(tap * step for tap, step in zip(taps, row_major(self.kernel), strict=True))

    def seen(self, pixel: tuple[Index, Index, Index], taps: tuple[Index, Index, Index]) -> tuple[Index, Index, Index]:
        """The position in the source that a tap sees from an output pixel."""
        axes = zip(pixel, self.stride, taps, self.dilation, strict=True)
        d, h, w = (place * stride + tap * dilation for place, stride, tap, dilation in axes)
        return d, h, w

    def seeing(self, axis: int, first: Index, *, count: int = 1) -> tuple[Index, Index]:
        """The first tap of an axis, and one past the last, that see any of what is live from `count` outputs."""
        (begin, end), outputs, taps = self.live[axis], self.size[axis], self.kernel[axis]
        stride, dilation, count = self.stride[axis], self.dilation[axis], min(count, outputs)
        first_tap_always_sees = begin <= (count - 1) * stride
        last_tap_always_sees = (outputs - count) * stride + (taps - 1) * dilation < end
        if first_tap_always_sees and last_tap_always_sees:
            return 0, taps
        last = first + (count - 1)
        low = T.bind(tirx.max(0, tirx.floordiv(begin - last * stride + (dilation - 1), dilation)))
        high = tirx.min(taps, tirx.floordiv(end - 1 - first * stride, dilation) + 1)
        return low, T.bind(tirx.max(low, high))


def pointwise(size: Triple) -> Geometry:
    """One tap, which sees its own pixel."""
    d, h, w = ((0, extent) for extent in size)
    ones = (1, 1, 1)
    return Geometry(size=size, kernel=ones, stride=ones, dilation=ones, live=(d, h, w))
