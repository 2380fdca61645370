"""Pools. Ceiling mode becomes end padding, so that every pool here is a plain floor-mode one.

Padding never counts in a maximum. In an average ONNX counts what `pads` adds when `count_include_pad` says so, and
never what ceiling mode adds: then the counted zeros are laid first, by a pad of their own.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from lowprec.frontend.converters.site import Converter, Expr, Result, Shape, Site, constant
from lowprec.frontend.converters.windows import Windows, windows

MAXIMA = {1: relax.op.nn.max_pool1d, 2: relax.op.nn.max_pool2d, 3: relax.op.nn.max_pool3d}
AVERAGES = {1: relax.op.nn.avg_pool1d, 2: relax.op.nn.avg_pool2d, 3: relax.op.nn.avg_pool3d}


def end_for(window: Windows, output: Shape) -> Shape:
    """The end padding with which a floor-mode pool has this output size, and not less than what was asked for."""
    reach = [(o - 1) * s + e for o, s, e in zip(output, window.stride, window.extents, strict=True)]
    return tuple(max(r - n - b, end) for r, n, b, end in zip(reach, window.size, window.begin, window.end, strict=True))


def pooling_window(site: Site) -> Windows:
    """The window with ceiling mode resolved against the output's static shape."""
    window = windows(site, site.integers("kernel_shape", ()))
    return replace(window, end=end_for(window, site.out().shape[2:])) if site.integer("ceil_mode", 0) else window


def pool(operator: Any, data: Expr, window: Windows, **options: Any) -> Expr:
    return operator(
        data,
        pool_size=list(window.kernel),
        strides=list(window.stride),
        padding=window.pads,
        dilation=list(window.dilation),
        **options,
    )


def zero_padded(site: Site, data: Expr, begin: Shape, end: Shape) -> Expr:
    widths = [0, 0, 0, 0, *(w for pair in zip(begin, end, strict=True) for w in pair)]
    return site.emit(relax.op.nn.pad(data, widths))


def largest_places(site: Site, window: Windows) -> Expr:
    """Maxima and the flat places they come from, the first of equals, in one reduction."""
    kernel = window.kernel
    by_columns = site.integer("storage_order", 0) == 1

    def compute(x: te.Tensor) -> list[te.Tensor]:
        lowest = tirx.min_value(x.dtype)

        def flat(index: list[Any]) -> Any:
            axes = list(zip(index[2:], x.shape[2:], strict=True))
            place = index[0] * x.shape[1] + index[1]
            if by_columns:
                inner: Any = tirx.const(0, "int64")
                for i, n in reversed(axes):
                    inner = inner * n + i
                return place * int(np.prod([int(n) for n in x.shape[2:]])) + inner
            for i, n in axes:
                place = place * n + i
            return place

        def better(a: list[Any], b: list[Any]) -> Any:
            keep = tirx.any(a[0] > b[0], tirx.all(a[0] == b[0], a[1] < b[1], a[1] >= 0), b[1] < 0)
            return tirx.Select(keep, a[0], b[0]), tirx.Select(keep, a[1], b[1])

        reducer = te.comm_reducer(
            lambda a, b: better([a[0], a[1]], [b[0], b[1]]),
            lambda t0, t1: (lowest if t0 == x.dtype else tirx.const(-1, t0), tirx.const(-1, t1)),
        )
        axes = [te.reduce_axis((0, k)) for k in kernel]

        def element(*index: Any) -> Any:
            places = [
                i * s + r * d - b
                for i, s, r, d, b in zip(index[2:], window.stride, axes, window.dilation, window.begin, strict=True)
            ]
            inside = tirx.all(*[tirx.all(p >= 0, p < n) for p, n in zip(places, window.size, strict=True)])
            value = tirx.if_then_else(inside, x(*index[:2], *places), lowest)
            place = tirx.if_then_else(inside, flat([*index[:2], *places]).astype("int64"), tirx.const(-1, "int64"))
            return reducer((value, place), axis=axes)

        return list(te.compute(site.out().shape, element, name="max_with_places"))

    return site.te(compute, site.input(0))


def convert_max_pool(site: Site) -> Result:
    window = pooling_window(site)
    if not site.wants(1):
        return pool(MAXIMA[window.rank], site.input(0), window)
    both = site.emit(largest_places(site, window))
    return relax.TupleGetItem(both, 0), relax.TupleGetItem(both, 1)


def convert_average_pool(site: Site) -> Expr:
    window = pooling_window(site)
    data = site.input(0)
    given = windows(site, window.kernel)
    counted = bool(site.integer("count_include_pad", 0))
    if counted and window.end != given.end:
        data = zero_padded(site, data, given.begin, given.end)
        extra = tuple(w - g for w, g in zip(window.end, given.end, strict=True))
        window = replace(window, begin=(0,) * window.rank, end=extra)
        counted = False
    return pool(AVERAGES[window.rank], data, window, count_include_pad=counted)


def to_power(site: Site, data: Expr, power: float) -> Expr:
    """|data| ** power, without calling `pow` for the common ones."""
    magnitude = site.emit(relax.op.abs(data))
    if power == 1:
        return magnitude
    if power == 2:
        return site.emit(relax.op.multiply(magnitude, magnitude))
    return site.emit(relax.op.power(magnitude, constant(power, site.dtype())))


def from_power(site: Site, total: Expr, power: float) -> Expr:
    if power == 1:
        return total
    if power == 2:
        return relax.op.sqrt(total)
    return relax.op.power(total, constant(1 / power, site.dtype()))


def convert_lp_pool(site: Site) -> Expr:
    """(sum |x| ** p) ** (1 / p): an average over the whole window, zeros counted, times the window's size."""
    window = pooling_window(site)
    power = site.number("p", 2)
    powered = to_power(site, site.input(0), power)
    mean = site.emit(pool(AVERAGES[window.rank], powered, window, count_include_pad=True))
    total = relax.op.multiply(mean, constant(float(np.prod(window.kernel)), site.dtype()))
    return from_power(site, site.emit(total), power)


def spatial_axes(site: Site) -> list[int]:
    return list(range(2, site.rank()))


def convert_global_average(site: Site) -> Expr:
    return relax.op.mean(site.input(0), spatial_axes(site), keepdims=True)


def convert_global_maximum(site: Site) -> Expr:
    return relax.op.max(site.input(0), spatial_axes(site), keepdims=True)


def convert_global_lp(site: Site) -> Expr:
    power = site.number("p", 2)
    powered = to_power(site, site.input(0), power)
    return from_power(site, site.emit(relax.op.sum(powered, spatial_axes(site), keepdims=True)), power)


CONVERTERS: dict[str, Converter] = {
    "AveragePool": convert_average_pool,
    "GlobalAveragePool": convert_global_average,
    "GlobalLpPool": convert_global_lp,
    "GlobalMaxPool": convert_global_maximum,
    "LpPool": convert_lp_pool,
    "MaxPool": convert_max_pool,
}
