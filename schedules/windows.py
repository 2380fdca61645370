"""Where a logical tensor lies inside a physical one, and how a kernel's coordinates reach it.

A tensor of rank 2 to 5 is (w, c), (n, w, c), (n, h, w, c) or (n, d, h, w, c): channels last, spatial axes from the
inside.
"""

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from lowprec.schedules.halo import Halo
from lowprec.schedules.views import COORDINATES, FLOAT, WORDS, Drawn, View, row_major

Shape = tuple[int, ...]
_PLACES = {1: (4,), 2: (3, 4), 3: (0, 3, 4), 4: (0, 2, 3, 4), 5: (0, 1, 2, 3, 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The `extents` from `begin` of a tensor of `shape`. Who writes a `bordered` one writes its border too: the number
    `border`, which is zero's integer where the tensor holds integers."""

    shape: Shape
    begin: Shape
    extents: Shape
    bordered: bool = True
    dtype: str = FLOAT
    border: int = 0

    def __post_init__(self) -> None:
        if not len(self.shape) == len(self.begin) == len(self.extents):
            raise ValueError(f"a window's shape, begin and extents differ in rank: {self}")
        inside = zip(self.begin, self.extents, self.shape, strict=True)
        if any(begin < 0 or begin + extent > whole for begin, extent, whole in inside):
            raise ValueError(f"the window leaves its tensor: {self}")

    @property
    def bytes(self) -> int:
        """Of its extents."""
        return prod(self.extents) * np.dtype(self.dtype).itemsize

    @property
    def is_whole(self) -> bool:
        return self.extents == self.shape

    def view(self, result: Shape | None = None) -> View:
        """The window as a kernel addresses it; where it is broadcast to `result`, its stride is 0."""
        result = result or self.extents
        strides = row_major(self.shape)
        offset = sum(stride * begin for stride, begin in zip(strides, self.begin, strict=True))
        aligned = result[len(result) - len(self.extents) :]
        steps = (
            stride if extent == wanted else 0
            for stride, extent, wanted in zip(strides, self.extents, aligned, strict=True)
        )
        places = _PLACES[len(result)][len(result) - len(self.extents) :]
        return View(shape=self.shape, strides=spread(tuple(steps), places, 0), offset=offset, dtype=self.dtype)

    @property
    def halo(self) -> Halo | None:
        """The border around the window along its spatial axes, of all channels; none when there is no such border."""
        if self.is_whole or not self.bordered:
            return None
        size = coordinates(self.extents)
        begin = spread(self.begin, _PLACES[len(self.shape)], 0)
        whole = coordinates(self.shape)
        d, h, w = ((begin[i], whole[i] - begin[i] - size[i]) for i in (1, 2, 3))
        if not any((*d, *h, *w)):
            return None
        return Halo(
            batch=whole[0], size=size[1:4], sides=(d, h, w), channels=whole[4], dtype=self.dtype, border=self.border
        )


def whole(shape: Shape, dtype: str = FLOAT) -> Window:
    """All of a tensor."""
    return Window(shape=shape, begin=(0,) * len(shape), extents=shape, dtype=dtype)


def logical_strides(shape: Shape, order: Shape) -> Shape:
    """Of each axis of a physical shape, how far apart neighbours are in ONNX's order, where it is axis `order[i]`."""
    extents = dict(zip(order, shape, strict=True))
    strides = row_major(tuple(extents[axis] for axis in range(len(shape))))
    return tuple(strides[axis] for axis in order)


def drawn(shape: Shape, order: Shape) -> Drawn:
    """A whole tensor of random words."""
    return Drawn(shape=shape, strides=spread(logical_strides(shape, order), _PLACES[len(shape)], 0), dtype=WORDS)


def coordinates(shape: Shape) -> tuple[int, int, int, int, int]:
    """A shape's extents as (n, d, h, w, c)."""
    n, d, h, w, c = spread(shape, _PLACES[len(shape)], 1)
    return n, d, h, w, c


def spread(values: Shape, places: Shape, missing: int) -> Shape:
    """Values at their places among the five coordinates."""
    at = dict(zip(places, values, strict=True))
    return tuple(at.get(place, missing) for place in range(COORDINATES))


def collapse(extents: Shape, views: tuple[View, ...]) -> tuple[Shape, tuple[View, ...]]:
    """Rows, planes and images joined to one long row, as far as every view has them side by side.

    Longer rows suit the register tile better: 7 x 7 pixels are 49 in a row.
    """
    sizes = list(extents)
    for outer in (2, 1, 0):
        steady = all(view.strides[outer] == view.strides[3] * sizes[3] for view in views)
        if not steady and sizes[outer] > 1:
            break
        sizes[3] *= sizes[outer]
        sizes[outer] = 1
    cleared = tuple(
        replace(view, strides=tuple(0 if i < 3 and sizes[i] == 1 else step for i, step in enumerate(view.strides)))
        for view in views
    )
    return tuple(sizes), cleared
