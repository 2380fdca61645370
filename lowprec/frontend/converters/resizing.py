"""Resize and Upsample: separable interpolation, one axis after the other.

What TVM's own resize expresses (two spatial axes, scales that are exactly output over input) stays one Relax operator.
Everything else is taps: tables of indices and weights, made at compile time where the scales are constants.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from lowprec.frontend.converters.bounds import kind
from lowprec.frontend.converters.resampling import ARRAYS, EXPRESSIONS, Axis, Method, outside, tables, taps
from lowprec.frontend.converters.site import Converter, Expr, Site, constant

RELAX_METHODS = {"nearest": "nearest_neighbor", "linear": "linear", "cubic": "cubic"}
RELAX_COORDINATES = ("half_pixel", "align_corners", "asymmetric")


def method_of(site: Site) -> Method:
    """The attributes, as the opset of the node means them."""
    mode = site.text("mode", "nearest")
    legacy = site.node.op == "Upsample" or site.node.version < 11
    return Method(
        mode="linear" if mode in ("bilinear", "trilinear") else mode,
        coordinates=site.text("coordinate_transformation_mode", "asymmetric" if legacy else "half_pixel"),
        nearest=site.text("nearest_mode", "floor" if legacy else "round_prefer_floor"),
        cubic=site.number("cubic_coeff_a", -0.75),
        antialias=bool(site.integer("antialias", 0)),
        exclude_outside=bool(site.integer("exclude_outside", 0)),
    )


def resized_axes(site: Site) -> list[int]:
    given = site.attribute("axes")
    return list(range(site.rank())) if given is None else [int(axis) % site.rank() for axis in given]


def scales_index(site: Site) -> int:
    return 1 if site.node.op == "Upsample" or site.node.version < 11 else 2


def has_scales(site: Site) -> bool:
    index = scales_index(site)
    return site.attribute("scales") is not None or (site.has(index) and site.shape(index) != (0,))


def aspect_scale(site: Site, axes: Sequence[int]) -> float:
    """One scale for all axes: that of the axis that decided, if the declared sizes leave one choice."""
    sizes = [(site.out().shape[axis], site.shape()[axis]) for axis in axes]
    fits = {out / n for out, n in sizes if all(int(np.floor(out / n * m + 0.5)) == other for other, m in sizes)}
    if len(fits) != 1:
        site.refuse("keep_aspect_ratio_policy needs constant sizes")
    return fits.pop()


def scale_from_sizes(site: Site, axes: Sequence[int]) -> list[float]:
    """Output over input; the sizes themselves need not be constants, the shapes are."""
    policy = site.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return [site.out().shape[axis] / site.shape()[axis] for axis in axes]
    known = site.known(3)
    if known is None:
        return [aspect_scale(site, axes)] * len(axes)
    ratios = [float(size) / site.shape()[axis] for size, axis in zip(known, axes, strict=True)]
    return [min(ratios) if policy == "not_larger" else max(ratios)] * len(axes)


def known_scales(site: Site, axes: Sequence[int]) -> list[float] | None:
    """The scale of each axis, or None where they are a run-time input."""
    if not has_scales(site):
        return scale_from_sizes(site, axes)
    if site.attribute("scales") is not None:
        return [float(value) for value in site.attribute("scales")]
    known = site.known(scales_index(site))
    return None if known is None else [float(value) for value in known]


def as_relax(site: Site, method: Method, axes: dict[int, float]) -> Expr | None:
    """Relax's own resize, where it means the same."""
    shape, size = site.shape(), site.out().shape
    plain = len(shape) == 4 and size[:2] == shape[:2] and site.dtype() == "float32"
    exact = all(size[axis] == scale * shape[axis] for axis, scale in axes.items())
    simple = not method.antialias and not method.exclude_outside and method.mode in ("nearest", "linear")
    divides_by_zero = method.coordinates == "align_corners" and 1 in size[2:]
    if divides_by_zero or not (plain and exact and simple and method.coordinates in RELAX_COORDINATES):
        return None
    return relax.op.image.resize2d(
        site.input(0),
        size[2:],
        layout="NCHW",
        method=RELAX_METHODS[method.mode],
        coordinate_transformation_mode=method.coordinates,
        rounding_method=method.nearest if method.mode == "nearest" else "",
        cubic_alpha=method.cubic,
    )


def with_tables(site: Site, data: Expr, axis: int, spec: Axis, method: Method) -> Expr:
    """One axis, by constant tables."""
    indices, weights = tables(spec, method)
    count = indices.shape[1]
    if method.mode == "nearest":

        def pick(x: te.Tensor, index: te.Tensor) -> te.Tensor:
            shape = [*x.shape[:axis], spec.output, *x.shape[axis + 1 :]]
            return te.compute(shape, lambda *i: x(*i[:axis], index[i[axis], 0], *i[axis + 1 :]), name="resize")

        return site.te(pick, data, constant(indices, "int32"))

    def blend(x: te.Tensor, index: te.Tensor, weight: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            parts = [weight[i[axis], t] * x(*i[:axis], index[i[axis], t], *i[axis + 1 :]) for t in range(count)]
            return sum(parts[1:], parts[0])

        return te.compute([*x.shape[:axis], spec.output, *x.shape[axis + 1 :]], element, name="resize")

    return site.te(blend, data, constant(indices, "int32"), constant(weights, str(data.ty.dtype)))


def extrapolated(site: Site, data: Expr, axes: dict[int, Axis], method: Method) -> Expr:
    """tf_crop_and_resize: a constant where the coordinate leaves the input on any axis."""
    value = constant(site.number("extrapolation_value", 0), str(data.ty.dtype))
    for axis, spec in axes.items():
        mask = outside(np.arange(spec.output, dtype=np.float64), spec, method, ARRAYS) > 0
        if mask.any():
            shaped = mask.reshape([-1 if k == axis else 1 for k in range(site.rank())])
            data = site.emit(relax.op.where(constant(shaped, "bool"), value, data))
    return data


def region(site: Site, axes: Sequence[int], method: Method) -> list[tuple[float, float]]:
    if method.coordinates != "tf_crop_and_resize":
        return [(0.0, 1.0)] * len(axes)
    roi = [float(value) for value in site.constant(1, "roi")]
    return list(zip(roi[: len(axes)], roi[len(axes) :], strict=True))


def with_known_scales(site: Site, method: Method, axes: Sequence[int], scales: Sequence[float]) -> Expr:
    specs = {
        axis: Axis(size=site.shape()[axis], output=site.out().shape[axis], scale=scale, start=start, end=end)
        for axis, scale, (start, end) in zip(axes, scales, region(site, axes, method), strict=True)
    }
    crops = method.coordinates == "tf_crop_and_resize"
    changed = {axis: spec for axis, spec in specs.items() if crops or spec.scale != 1 or spec.size != spec.output}
    if not changed:
        return site.input(0)
    relaxed = None if crops else as_relax(site, method, {axis: spec.scale for axis, spec in changed.items()})
    if relaxed is not None:
        return relaxed
    data = site.input(0)
    for axis, spec in changed.items():
        data = site.emit(with_tables(site, data, axis, spec, method))
    return extrapolated(site, data, changed, method) if crops else data


def with_running_scales(site: Site, method: Method, axes: Sequence[int]) -> Expr:
    """Scales, and the region, read when the model runs: every output element computes its own taps."""
    crops = method.coordinates == "tf_crop_and_resize"
    arguments = [site.input(scales_index(site))] if has_scales(site) else []
    arguments += [site.input(1)] if crops else []
    fixed = None if has_scales(site) else scale_from_sizes(site, axes)
    data = site.input(0)
    for k, axis in enumerate(axes):

        def along(x: te.Tensor, *rest: te.Tensor, k: int = k, axis: int = axis) -> te.Tensor:
            scale = tirx.const(fixed[k], "float64") if fixed else rest[0][k].astype("float64")
            start, end = (rest[-1][j].astype("float64") for j in (k, k + len(axes))) if crops else (0.0, 1.0)
            output = site.out().shape[axis]
            spec = Axis(size=int(x.shape[axis]), output=output, scale=scale, start=start, end=end)

            def element(*i: Any) -> Any:
                place = i[axis].astype("float64")
                pairs = taps(place, spec, method, EXPRESSIONS)
                parts = [
                    weighted(x(*i[:axis], index.astype("int64"), *i[axis + 1 :]), weight) for index, weight in pairs
                ]
                value = sum(parts[1:], parts[0])
                if not crops:
                    return value
                beyond = outside(place, spec, method, EXPRESSIONS) > tirx.const(0, "float64")
                return tirx.Select(beyond, tirx.const(site.number("extrapolation_value", 0), x.dtype), value)

            return te.compute([*x.shape[:axis], output, *x.shape[axis + 1 :]], element, name="resize")

        data = site.emit(site.te(along, data, *arguments))
    return data


def weighted(value: Any, weight: Any) -> Any:
    return value if isinstance(weight, float) else value * weight.astype(kind(value))


def convert_resize(site: Site) -> Expr:
    method, axes = method_of(site), resized_axes(site)
    if method.mode != "nearest" and not site.dtype().startswith("float"):
        site.refuse(f"mode {method.mode!r} of {site.dtype()} is not supported; cast to float32 first")
    if 0 in site.shape() or 0 in site.out().shape:
        site.refuse("resizing an empty tensor is not supported")
    scales = known_scales(site, axes)
    runs = method.coordinates == "tf_crop_and_resize" and site.known(1) is None
    if scales is None or runs:
        return with_running_scales(site, method, axes)
    return with_known_scales(site, method, axes, scales)


CONVERTERS: dict[str, Converter] = {"Resize": convert_resize, "Upsample": convert_resize}
