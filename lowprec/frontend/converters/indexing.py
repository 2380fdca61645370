"""Gathers, scatters, slices: elements chosen by indices."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from lowprec.frontend.converters.bounds import held, inside, normalized
from lowprec.frontend.converters.site import Converter, Expr, Site, constant


def nonempty(site: Site, extent: int) -> None:
    if extent == 0:
        site.refuse("it reads from an axis of size 0")


def convert_gather(site: Site) -> Expr:
    """A constant index alone is a slice; anything else reads through the indices."""
    axis = site.axis("axis", 0)
    extent, rank = site.shape()[axis], site.rank(1)
    nonempty(site, extent)
    known = site.known(1)
    if known is not None and known.size == 1:
        place = int(normalized(site, known, extent).reshape(-1)[0])
        part = relax.op.strided_slice(site.input(0), [axis], [place], [place + 1])
        return relax.op.reshape(site.emit(part), site.out().shape)

    def compute(x: te.Tensor, indices: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            place = indices(*i[axis : axis + rank]) if rank else indices()
            return x(*i[:axis], inside(place, extent), *i[axis + rank :])

        return te.compute(site.out().shape, element, name="gather")

    indices = constant(normalized(site, known, extent), "int64") if known is not None else site.input(1)
    return site.te(compute, site.input(0), indices)


def convert_gather_elements(site: Site) -> Expr:
    axis = site.axis("axis", 0)
    extent = site.shape()[axis]
    nonempty(site, extent)

    def compute(x: te.Tensor, indices: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            return x(*i[:axis], inside(indices(*i), extent), *i[axis + 1 :])

        return te.compute(indices.shape, element, name="gather_elements")

    return site.te(compute, site.input(0), site.input(1))


def convert_gather_nd(site: Site) -> Expr:
    batch, shape = site.integer("batch_dims", 0), site.shape()
    depth, lead = site.shape(1)[-1], site.rank(1) - 1
    for extent in shape[batch : batch + depth]:
        nonempty(site, extent)

    def compute(x: te.Tensor, indices: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            places = [inside(indices(*i[:lead], k), shape[batch + k]) for k in range(depth)]
            return x(*i[:batch], *places, *i[lead:])

        return te.compute(site.out().shape, element, name="gather_nd")

    return site.te(compute, site.input(0), site.input(1))


def scatter_mode(site: Site) -> str:
    return {"none": "update"}.get(site.text("reduction", "none"), site.text("reduction", "none"))


def convert_scatter_elements(site: Site) -> Expr:
    axis = site.axis("axis", 0)
    nonempty(site, site.shape()[axis])
    indices = held(site, 1, site.shape()[axis])
    return relax.op.scatter_elements(site.input(0), indices, site.input(2), axis, scatter_mode(site))


def held_places(site: Site) -> Expr:
    """ScatterND's tuples of indices, each entry held within its own axis."""
    depth = site.shape(1)[-1]
    extents = constant(site.shape()[:depth], "int64")
    zero, one = constant(0, "int64"), constant(1, "int64")
    wide = site.emit(relax.op.astype(site.input(1), "int64"))
    behind = site.emit(relax.op.add(wide, extents))
    counted = site.emit(relax.op.where(site.emit(relax.op.less(wide, zero)), behind, wide))
    top = site.emit(relax.op.subtract(extents, one))
    return site.emit(relax.op.minimum(site.emit(relax.op.maximum(counted, zero)), top))


def convert_scatter_nd(site: Site) -> Expr:
    for extent in site.shape()[: site.shape(1)[-1]]:
        nonempty(site, extent)
    return relax.op.scatter_nd(site.input(0), held_places(site), site.input(2), scatter_mode(site))


def strided(site: Site, starts: Sequence[int], steps: Sequence[int]) -> Expr:
    """x[starts + i * steps], one entry per axis. Forward steps are Relax's own; backward ones a computation."""
    size = site.out().shape
    if all(step > 0 for step in steps):
        ends = [s + (n - 1) * t + 1 for s, n, t in zip(starts, size, steps, strict=True)]
        return relax.op.strided_slice(site.input(0), list(range(len(size))), list(starts), ends, list(steps))

    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(
            size, lambda *i: x(*[s + k * t for k, s, t in zip(i, starts, steps, strict=True)]), name="slice"
        )

    return site.te(compute, site.input(0))


def slice_limits(site: Site) -> tuple[list[int], list[int]] | None:
    """First place and step per axis, where they are constants; opset 9 and before has them as attributes."""
    if site.node.version < 10:
        starts, axes = site.integers("starts", ()), site.attribute("axes")
        steps: Sequence[int] = (1,) * len(starts)
    else:
        parts = [site.known(index) for index in range(1, 5)]
        if any(site.has(index + 1) and part is None for index, part in enumerate(parts)):
            return None
        starts = tuple(int(v) for v in site.constant(1, "starts"))
        axes, steps = parts[2], tuple(int(v) for v in parts[3]) if parts[3] is not None else (1,) * len(starts)
    first, step = [0] * site.rank(), [1] * site.rank()
    named = range(len(starts)) if axes is None else [int(axis) % site.rank() for axis in axes]
    for axis, start, stride in zip(named, starts, steps, strict=True):
        extent = site.shape()[axis]
        counted = start + extent if start < 0 else start
        first[axis] = min(max(counted, 0), extent if stride > 0 else extent - 1)
        step[axis] = stride
    return first, step


def running_slice(site: Site) -> Expr:
    """Starts, axes and steps from run-time inputs; the sizes are the declared ones."""
    shape, size = site.shape(), site.out().shape
    count = site.shape(1)[0]
    present = [index for index in (1, 3, 4) if site.has(index)]

    def compute(x: te.Tensor, *tensors: te.Tensor) -> te.Tensor:
        given = dict(zip(present, tensors, strict=True))

        def place(axis: int, i: Any) -> Any:
            result: Any = i.astype("int64")
            for k in range(count):
                named = given[3][k].astype("int64") if 3 in given else tirx.const(k, "int64")
                step = given[4][k].astype("int64") if 4 in given else tirx.const(1, "int64")
                start = given[1][k].astype("int64")
                extent = tirx.const(shape[axis], "int64")
                counted = tirx.Select(start < 0, start + extent, start)
                top = tirx.Select(step > 0, extent, extent - 1)
                held_start = tirx.max(tirx.min(counted, top), tirx.const(0, "int64"))
                mine = tirx.any(named == axis, named == axis - len(shape))
                result = tirx.Select(mine, held_start + i * step, result)
            return tirx.max(tirx.min(result, tirx.const(shape[axis] - 1, "int64")), tirx.const(0, "int64"))

        return te.compute(size, lambda *i: x(*[place(axis, v) for axis, v in enumerate(i)]), name="slice")

    return site.te(compute, site.input(0), *[site.input(index) for index in present])


def convert_slice(site: Site) -> Expr:
    if math.prod(site.out().shape) == 0:
        return constant(np.zeros(site.out().shape), site.out().dtype)
    limits = slice_limits(site)
    return running_slice(site) if limits is None else strided(site, *limits)


def convert_trilu(site: Site) -> Expr:
    """The upper or lower triangle; k counts diagonals and may come at run time."""
    upper = site.integer("upper", 1) == 1

    def keep(row: Any, column: Any, k: Any) -> Any:
        return column - row >= k if upper else column - row <= k

    def compute(x: te.Tensor, *diagonal: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            k: Any = tirx.const(0, "int64")
            if diagonal:
                k = diagonal[0](*[0] * len(diagonal[0].shape)) if diagonal[0].shape else diagonal[0]()
            return tirx.Select(keep(i[-2], i[-1], k), x(*i), tirx.const(0, x.dtype))

        return te.compute(x.shape, element, name="trilu")

    return site.te(compute, site.input(0), *([site.input(1)] if site.has(1) else []))


def convert_one_hot(site: Site) -> Expr:
    """`on` where the index names the place, `off` elsewhere; an index out of range names none."""
    axis = site.integer("axis", -1)
    axis = axis + site.rank() + 1 if axis < 0 else axis
    depth = site.out().shape[axis]

    def compute(indices: te.Tensor, values: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            index = indices(*i[:axis], *i[axis + 1 :]).astype("int64")
            counted = tirx.Select(index < 0, index + depth, index)
            return tirx.Select(counted == i[axis], values[1], values[0])

        return te.compute(site.out().shape, element, name="one_hot")

    return site.te(compute, site.input(0), site.input(2))


def convert_reverse_sequence(site: Site) -> Expr:
    """The first `length` steps of each sequence backwards, the rest as they are."""
    time, batch = site.integer("time_axis", 0), site.integer("batch_axis", 1)
    steps = site.shape()[time]

    def compute(x: te.Tensor, lengths: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            length = lengths[i[batch]].astype("int64")
            here = i[time].astype("int64")
            place = tirx.Select(here < length, length - 1 - here, here)
            index = list(i)
            index[time] = tirx.max(tirx.min(place, tirx.const(steps - 1, "int64")), tirx.const(0, "int64"))
            return x(*index)

        return te.compute(x.shape, element, name="reverse_sequence")

    return site.te(compute, site.input(0), site.input(1))


CONVERTERS: dict[str, Converter] = {
    "Gather": convert_gather,
    "GatherElements": convert_gather_elements,
    "GatherND": convert_gather_nd,
    "OneHot": convert_one_hot,
    "ReverseSequence": convert_reverse_sequence,
    "Scatter": convert_scatter_elements,
    "ScatterElements": convert_scatter_elements,
    "ScatterND": convert_scatter_nd,
    "Slice": convert_slice,
    "Trilu": convert_trilu,
}
