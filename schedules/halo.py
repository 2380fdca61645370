"""The border of zeros that a kernel writes around its output, for the convolution that reads it next.

Buffers are reused between layers, so whoever writes a tensor with a halo writes the halo too, every time.
"""

from dataclasses import dataclass

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.views import FLOAT, Index, splat, store

Sides = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Halo:
    """Borders (before, after) of the spatial axes d, h, w around `size`, for `batch` images of `channels` channels;
    what is written there is `border`."""

    batch: int
    size: tuple[int, int, int]
    sides: Sides
    channels: int
    dtype: str = FLOAT
    border: int = 0

    @property
    def padded(self) -> tuple[int, int, int]:
        d, h, w = (before + extent + after for extent, (before, after) in zip(self.size, self.sides, strict=True))
        return d, h, w


def fill_halo(y: tirx.Buffer, halo: Halo, lanes: int) -> None:
    """Write the border of every image."""

    def fill(start: Index, count: int) -> None:
        _fill(y, start, count, lanes, tirx.const(halo.border, halo.dtype))

    depth, height, width = halo.padded
    row = width * halo.channels
    (d0, d1), (h0, h1), (w0, w1) = halo.sides
    with T.serial(0, halo.batch) as n:
        image = n * (depth * height * row)
        fill(image, d0 * height * row)
        fill(image + (depth - d1) * height * row, d1 * height * row)
        with T.serial(0, halo.size[0]) as d:
            plane = image + (d + d0) * (height * row)
            fill(plane, h0 * row)
            fill(plane + (height - h1) * row, h1 * row)
            with T.serial(0, halo.size[1]) as h:
                line = plane + (h + h0) * row
                fill(line, w0 * halo.channels)
                fill(line + (width - w1) * halo.channels, w1 * halo.channels)


def _fill(y: tirx.Buffer, start: Index, count: int, lanes: int, value: ir.Expr) -> None:
    whole = count // lanes
    if whole:
        with T.serial(0, whole) as i:
            store(y, start + i * lanes, splat(value, lanes), lanes)
    for i in range(whole * lanes, count):
        store(y, start + i, value, 1)
