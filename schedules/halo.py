"""The zero border that a kernel writes around its output, for the convolution that reads it next.

Buffers are reused between layers, so whoever writes a tensor with a halo writes the halo too, every time.
"""

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.views import Index, store, zeros

Sides = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Halo:
    """Borders (before, after) of the spatial axes d, h, w around `size`, for `batch` images of `channels` channels."""

    batch: int
    size: tuple[int, int, int]
    sides: Sides
    channels: int

    @property
    def padded(self) -> tuple[int, int, int]:
        d, h, w = (before + extent + after for extent, (before, after) in zip(self.size, self.sides, strict=True))
        return d, h, w


def fill_halo(y: tirx.Buffer, halo: Halo, lanes: int) -> None:
    """Write zeros to the border of every image."""
    depth, height, width = halo.padded
    row = width * halo.channels
    (d0, d1), (h0, h1), (w0, w1) = halo.sides
    with T.serial(0, halo.batch) as n:
        image = n * (depth * height * row)
        _zero(y, image, d0 * height * row, lanes)
        _zero(y, image + (depth - d1) * height * row, d1 * height * row, lanes)
        with T.serial(0, halo.size[0]) as d:
            plane = image + (d + d0) * (height * row)
            _zero(y, plane, h0 * row, lanes)
            _zero(y, plane + (height - h1) * row, h1 * row, lanes)
            with T.serial(0, halo.size[1]) as h:
                line = plane + (h + h0) * row
                _zero(y, line, w0 * halo.channels, lanes)
                _zero(y, line + (width - w1) * halo.channels, w1 * halo.channels, lanes)


def _zero(y: tirx.Buffer, start: Index, count: int, lanes: int) -> None:
    whole = count // lanes
    if whole:
        with T.serial(0, whole) as i:
            store(y, start + i * lanes, zeros(lanes), lanes)
    for i in range(whole * lanes, count):
        store(y, start + i, tirx.const(0.0, "float32"), 1)
