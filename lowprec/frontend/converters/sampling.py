"""Reading an image at coordinates that are data: GridSample, RoiAlign, DeformConv, MaxUnpool.

Every place is held within the image before anything is read, so that no coordinate, NaN included, reaches outside it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from lowprec.frontend.converters.bounds import kind
from lowprec.frontend.converters.resampling import EXPRESSIONS, cubic
from lowprec.frontend.converters.site import Converter, Expr, Shape, Site, constant
from lowprec.frontend.converters.windows import windows

Read = Callable[[Sequence[Any]], Any]
MODES = {"bilinear": "linear", "bicubic": "cubic"}


def within(place: Any, extent: int) -> Any:
    """A float place as an index that exists. A comparison with NaN is false, so NaN becomes 0."""
    held = tirx.Select(
        place > 0,
        tirx.Select(place < extent - 1, place, tirx.const(extent - 1, kind(place))),
        tirx.const(0, kind(place)),
    )
    return held.astype("int32")


def reflected(x: Any, low: float, high: float) -> Any:
    """x folded back and forth between two borders."""
    span = high - low
    if span <= 0:
        return tirx.const(low, kind(x))
    distance = tirx.abs(x - low)
    turns = tirx.floor(distance / span)
    rest = distance - turns * span
    even = tirx.floor(turns / 2) * 2 == turns
    return tirx.Select(even, low + rest, high - rest)


def borders(extent: int, *, aligned: bool) -> tuple[float, float]:
    return (0.0, extent - 1.0) if aligned else (-0.5, extent - 0.5)


def padded_place(x: Any, extent: int, padding: str, *, aligned: bool) -> Any:
    if padding == "border":
        return tirx.max(tirx.min(x, tirx.const(extent - 1, kind(x))), tirx.const(0, kind(x)))
    return reflected(x, *borders(extent, aligned=aligned)) if padding == "reflection" else x


def pixel(read: Read, places: Sequence[Any], extents: Shape, padding: str, *, aligned: bool) -> Any:
    """The element at whole-numbered float places; zeros outside, or what the padding mode says."""
    settled = [padded_place(p, n, padding, aligned=aligned) for p, n in zip(places, extents, strict=True)]
    value = read([within(p, n) for p, n in zip(settled, extents, strict=True)])
    if padding != "zeros":
        return value
    there = tirx.all(*[tirx.all(p >= 0, p <= n - 1) for p, n in zip(settled, extents, strict=True)])
    return tirx.Select(there, value, tirx.const(0, kind(value)))


def axis_taps(x: Any, mode: str) -> list[tuple[Any, Any]]:
    """(place, weight) pairs around a coordinate."""
    if mode == "nearest":
        return [(tirx.nearbyint(x), tirx.const(1, kind(x)))]
    left = tirx.floor(x)
    ratio = x - left
    if mode == "linear":
        return [(left, 1 - ratio), (left + 1, ratio)]
    numbers = EXPRESSIONS
    return [(left + k, cubic_weight(ratio - k, numbers)) for k in (-1.0, 0.0, 1.0, 2.0)]


def cubic_weight(distance: Any, numbers: Any) -> Any:
    return cubic(distance.astype("float64"), -0.75, numbers).astype(kind(distance))


def sampled(read: Read, x: Sequence[Any], extents: Shape, mode: str, padding: str, *, aligned: bool) -> Any:
    """The interpolated value at a coordinate: a weighted sum over the product of the axes' taps."""
    if mode == "nearest":
        x = [tirx.nearbyint(v) for v in x]
    x = [padded_place(v, n, padding, aligned=aligned) for v, n in zip(x, extents, strict=True)]
    total: Any = None
    for choice in product(*[axis_taps(v, mode) for v in x]):
        value = pixel(read, [place for place, _ in choice], extents, padding, aligned=aligned)
        for _, weight in choice:
            value = value * weight.astype(kind(value))
        total = value if total is None else total + value
    return total


def convert_grid_sample(site: Site) -> Expr:
    mode = MODES.get(site.text("mode", "linear"), site.text("mode", "linear"))
    padding, aligned = site.text("padding_mode", "zeros"), bool(site.integer("align_corners", 0))
    extents = site.shape()[2:]

    def compute(image: te.Tensor, grid: te.Tensor) -> te.Tensor:
        def element(n: Any, c: Any, *where: Any) -> Any:
            given = [grid(n, *where, len(extents) - 1 - k) for k in range(len(extents))]
            x = [
                (g + 1) / 2 * (extent - 1) if aligned else ((g + 1) * extent - 1) / 2
                for g, extent in zip(given, extents, strict=True)
            ]
            return sampled(lambda at: image(n, c, *at), x, extents, mode, padding, aligned=aligned)

        return te.compute(site.out().shape, element, name="grid_sample")

    return site.te(compute, site.input(0), site.input(1))


def region_axis(rois: te.Tensor, n: Any, first: int, scale: float, offset: float) -> tuple[Any, Any]:
    """Start and length of a region along one axis; without the half-pixel offset at least 1 long."""
    start = rois[n, first] * scale - offset
    length = rois[n, first + 2] * scale - offset - start
    return start, length if offset else tirx.max(length, tirx.const(1, kind(length)))


def bilinear(read: Read, y: Any, x: Any, extents: Shape, *, largest: bool) -> Any:
    """RoiAlign's own interpolation: 0 a whole pixel outside, the edge within it."""
    gone = tirx.any(*[tirx.any(v < -1, v > n) for v, n in zip((y, x), extents, strict=True)])
    parts = []
    for v, n in zip((y, x), extents, strict=True):
        held = tirx.min(tirx.max(v, tirx.const(0, kind(v))), tirx.const(n - 1, kind(v)))
        left = tirx.min(tirx.floor(held), tirx.const(max(n - 2, 0), kind(v)))
        parts.append([(left, 1 - (held - left)), (left + 1, held - left)])
    values = [
        read([within(at_y, extents[0]), within(at_x, extents[1])]) * (weight_y * weight_x)
        for (at_y, weight_y), (at_x, weight_x) in product(*parts)
    ]
    result = values[0]
    for value in values[1:]:
        result = tirx.max(result, value) if largest else result + value
    return tirx.Select(gone, tirx.const(0, kind(result)), result)


def convert_roi_align(site: Site) -> Expr:
    """The number of samples per bin must be known: sampling_ratio 0 would make it data."""
    samples, scale = site.integer("sampling_ratio", 0), site.number("spatial_scale", 1)
    if samples <= 0:
        site.refuse("sampling_ratio 0 makes the number of samples depend on data; only a fixed number is supported")
    half = site.text("coordinate_transformation_mode", "half_pixel" if site.node.version >= 16 else "") == "half_pixel"
    offset, largest = 0.5 if half else 0.0, site.text("mode", "avg") == "max"
    (_, _, *extents), (_, _, height, width) = site.shape(), site.out().shape
    batches = site.shape()[0]

    def compute(image: te.Tensor, rois: te.Tensor, batch: te.Tensor) -> te.Tensor:
        i, j = te.reduce_axis((0, samples), name="i"), te.reduce_axis((0, samples), name="j")

        def element(n: Any, c: Any, h: Any, w: Any) -> Any:
            start_x, length_x = region_axis(rois, n, 0, scale, offset)
            start_y, length_y = region_axis(rois, n, 1, scale, offset)
            bin_y, bin_x = length_y / height, length_x / width
            y = start_y + h * bin_y + (i + 0.5) * bin_y / samples
            x = start_x + w * bin_x + (j + 0.5) * bin_x / samples
            chosen = tirx.max(
                tirx.min(batch[n].astype("int32"), tirx.const(batches - 1, "int32")), tirx.const(0, "int32")
            )
            value = bilinear(lambda at: image(chosen, c, *at), y, x, tuple(extents), largest=largest)
            return te.max(value, axis=[i, j]) if largest else te.sum(value, axis=[i, j])

        total = te.compute(site.out().shape, element, name="roi_align")
        if largest:
            return total
        return te.compute(site.out().shape, lambda *at: total(*at) / (samples * samples), name="roi_average")

    return site.te(compute, site.input(0), site.input(1), site.input(2))


def deformed_patches(site: Site) -> Expr:
    """(N, C, kernel..., output...): what each tap of the kernel reads, its mask applied."""
    window = windows(site, site.shape(1)[2:])
    groups, size = site.integer("offset_group", 1), site.out().shape[2:]
    channels, extents = site.shape()[1], site.shape()[2:]
    masked = site.has(4)

    def compute(image: te.Tensor, offset: te.Tensor, *mask: te.Tensor) -> te.Tensor:
        def element(n: Any, c: Any, ky: Any, kx: Any, oy: Any, ox: Any) -> Any:
            group = tirx.indexdiv(c, channels // groups)
            tap = (group * window.kernel[0] + ky) * window.kernel[1] + kx
            moves = [offset(n, tap * 2 + k, oy, ox) for k in range(2)]
            places = [
                (o * s + k * d - b).astype(image.dtype) + move
                for o, s, k, d, b, move in zip(
                    (oy, ox), window.stride, (ky, kx), window.dilation, window.begin, moves, strict=True
                )
            ]
            value = sampled(lambda at: image(n, c, *at), places, extents, "linear", "zeros", aligned=True)
            return value * mask[0](n, tap, oy, ox) if mask else value

        return te.compute((site.shape()[0], channels, *window.kernel, *size), element, name="deformed")

    return site.te(compute, site.input(0), site.input(2), *([site.input(4)] if masked else []))


def convert_deform_conv(site: Site) -> Expr:
    """Gathered patches, then one matrix product per group."""
    if len(site.shape(1)) != 4:
        site.refuse(f"found {len(site.shape(1)) - 2} spatial axes; only 2 are supported")
    group, (n, channels, *_) = site.integer("group", 1), site.shape()
    outputs, kernel, size = site.shape(1)[0], site.shape(1)[2:], site.out().shape[2:]
    depth = channels // group * math.prod(kernel)
    patches = site.emit(relax.op.reshape(site.emit(deformed_patches(site)), (n, group, depth, math.prod(size))))
    weight = site.emit(relax.op.reshape(site.input(1), (1, group, outputs // group, depth)))
    result = relax.op.reshape(site.emit(relax.op.matmul(weight, patches)), site.out().shape)
    if not site.has(3):
        return result
    bias = site.emit(relax.op.reshape(site.input(3), (1, outputs, 1, 1)))
    return relax.op.add(site.emit(result), bias)


def convert_max_unpool(site: Site) -> Expr:
    """Zeros, with the values written to their flat places (within the size that the window implies)."""
    kernel = site.integers("kernel_shape", ())
    stride, pads = site.integers("strides", (1,) * len(kernel)), site.integers("pads", (0,) * 2 * len(kernel))
    begin, end = pads[: len(kernel)], pads[len(kernel) :]
    inner = tuple(
        (m - 1) * s - b - e + k for m, s, b, e, k in zip(site.shape()[2:], stride, begin, end, kernel, strict=True)
    )
    implied = (*site.shape()[:2], *inner)
    count, total = math.prod(site.shape()), math.prod(implied)
    places = site.emit(relax.op.reshape(site.input(1), (count,)))
    held = site.emit(
        relax.op.minimum(site.emit(relax.op.maximum(places, constant(0, "int64"))), constant(total - 1, "int64"))
    )
    values = site.emit(relax.op.reshape(site.input(0), (count,)))
    zeros = constant(np.zeros(total), site.dtype())
    flat = site.emit(relax.op.scatter_elements(zeros, held, values, 0, "update"))
    result = relax.op.reshape(flat, implied)
    if implied == site.out().shape:
        return result
    widths = [w for small, large in zip(implied, site.out().shape, strict=True) for w in (0, large - small)]
    if min(widths) < 0:
        site.refuse(f"output shape {site.out().shape} is smaller than {implied}, which its window implies")
    return relax.op.nn.pad(site.emit(result), widths)


CONVERTERS: dict[str, Converter] = {
    "DeformConv": convert_deform_conv,
    "GridSample": convert_grid_sample,
    "MaxUnpool": convert_max_unpool,
    "RoiAlign": convert_roi_align,
}
