"""Windows over an input's spatial axes: what convolutions and pools of the oracle sum over, for any number type.

At output position o, tap t stands at o * stride + t * dilation - begin; outside its extent the input holds `fill`. The
output's extents are the graph's own, so ceiling mode needs no rule here.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from lowprec.frontend.graph import Node
from lowprec.oracle_values import Ints

Extents = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Where the taps stand, by spatial axis."""

    kernel: Extents
    stride: Extents
    dilation: Extents
    begin: Extents
    end: Extents
    output: Extents

    @property
    def taps(self) -> tuple[int, ...]:
        """The axes of the taps in `windows`."""
        return tuple(range(2, 2 + len(self.kernel)))

    @property
    def reach(self) -> Extents:
        """How far one window spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


def window_of(node: Node, kernel: Extents, output: Extents) -> Window:
    """A convolution's or pool's window; `output` is its result's spatial extents."""
    rank = len(kernel)
    pads = extents(node, "pads", (0,) * (2 * rank))
    return Window(
        kernel=kernel,
        stride=extents(node, "strides", (1,) * rank),
        dilation=extents(node, "dilations", (1,) * rank),
        begin=pads[:rank],
        end=pads[rank:],
        output=output,
    )


def extents(node: Node, name: str, default: Extents) -> Extents:
    """An attribute of integers, or its default."""
    value = node.attributes.get(name, default)
    assert isinstance(value, tuple), (node.layer, name)
    return tuple(int(extent) for extent in value) or default


def windows(x: Ints, window: Window, fill: float = 0) -> Ints:
    """x (n, c, *size) -> (n, c, *kernel, *output), a view of x or of a padded copy."""
    spans = [(o - 1) * s + r for o, s, r in zip(window.output, window.stride, window.reach, strict=True)]
    ends = [max(s - n - b, 0) for s, n, b in zip(spans, x.shape[2:], window.begin, strict=True)]
    widths = [(0, 0), (0, 0), *zip(window.begin, ends, strict=True)]
    padded = np.pad(x, widths, constant_values=fill) if any(map(any, widths)) else x
    padded = padded[(slice(None), slice(None), *map(slice, spans))]
    views = np.lib.stride_tricks.sliding_window_view(padded, window.reach, window.taps)
    steps = (slice(None, None, step) for step in (*window.stride, *window.dilation))
    views = views[(slice(None), slice(None), *steps)]
    return np.moveaxis(views, range(-len(window.kernel), 0), window.taps)


def convolved(x: Ints, w: Ints, window: Window, groups: int) -> Ints:
    """x (n, c, *size), w (k, c / groups, *kernel) -> (n, k, *output): one matrix product for each image and group."""
    filters = w.reshape(groups, w.shape[0] // groups, -1)
    places = math.prod(window.output)
    images = [filters @ windows(x[i : i + 1], window).reshape(groups, -1, places) for i in range(len(x))]
    return np.stack(images).reshape(len(x), w.shape[0], *window.output)


def scattered(x: Ints, w: Ints, window: Window, groups: int) -> Ints:
    """x (n, c, *size), w (c, k / groups, *kernel) -> (n, k, *output): each input is added to all that its taps reach.

    The window is that of the convolution whose gradient this is: output o is reached from where its taps stood."""
    batch, size = len(x), x.shape[2:]
    spans = [(n - 1) * s + r for n, s, r in zip(size, window.stride, window.reach, strict=True)]
    ends = [b + o for b, o in zip(window.begin, window.output, strict=True)]
    whole = np.zeros((batch, groups * w.shape[1], *map(max, spans, ends)), x.dtype)
    pixels = x.reshape(batch, groups, -1, math.prod(size))
    filters = w.reshape(groups, -1, *w.shape[1:])
    for tap in np.ndindex(*window.kernel):
        reached = np.moveaxis(filters[(..., *tap)], 1, 2) @ pixels
        axes = zip(tap, window.dilation, window.stride, size, strict=True)
        places = (slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, s, n in axes)
        whole[(slice(None), slice(None), *places)] += reached.reshape(batch, -1, *size)
    return whole[(slice(None), slice(None), *map(slice, window.begin, ends))]


def counts(size: Extents, window: Window, *, include_pad: bool) -> Ints:
    """How many elements each window of an average holds: (1, 1, *output), what ceiling mode adds never counted."""
    ones = np.ones((1, 1, *size), np.int64)
    if include_pad:
        widths = [(0, 0), (0, 0), *zip(window.begin, window.end, strict=True)]
        ones = np.pad(ones, widths, constant_values=1)
        window = replace(window, begin=(0,) * len(size))
    return np.asarray(windows(ones, window).sum(window.taps))
