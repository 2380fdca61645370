"""Reductions over axes, and the places of extremes.

Axes are attributes or constants in any model of use. Where they are a run-time input, the model's declared output shape
says which they can be; if several sets fit, all are computed and the input's value selects (see `deduced`).
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from lowprec.frontend.converters.elementwise import WIDTH
from lowprec.frontend.converters.site import Converter, Expr, Shape, Site, constant

Reduction = Callable[[Site, Expr, list[int], bool], Expr]
MOST_CANDIDATES = 8


def stated_axes(site: Site) -> Shape | None:
    """The axes where they are known; None where they are a run-time input."""
    given = site.attribute("axes")
    if given is None and site.has(1):
        known = site.known(1)
        if known is None and site.shape(1) != (0,):
            return None
        given = () if known is None else known.reshape(-1)
    axes = tuple(int(axis) % max(site.rank(), 1) for axis in (given if given is not None else ()))
    if axes or site.integer("noop_with_empty_axes", 0):
        return axes
    return tuple(range(site.rank()))


def fits(site: Site, axes: Sequence[int]) -> bool:
    """Whether reducing these axes gives the declared shape."""
    shape = site.shape()
    kept = [1 if axis in axes else n for axis, n in enumerate(shape)]
    if not site.integer("keepdims", 1):
        kept = [n for axis, n in enumerate(shape) if axis not in axes]
    return tuple(kept) == site.out().shape


def deduced(site: Site) -> list[Shape]:
    """The sets of axes that a run-time input can hold, given the output's shape."""
    count = math.prod(site.shape(1))
    found = [axes for axes in combinations(range(site.rank()), count) if fits(site, axes)]
    if not found or len(found) > MOST_CANDIDATES:
        site.refuse(
            f"its axes {site.node.inputs[1]!r} are computed at run time, and {len(found)} choices fit the shape"
        )
    return found


def axes_code(site: Site) -> Expr:
    """The run-time axes as one number: bit k is set when axis k is named."""
    rank, count = site.rank(), math.prod(site.shape(1))

    def compute(axes: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, count))
        axis = tirx.Select(axes[k] < 0, axes[k] + rank, axes[k])
        safe = tirx.max(tirx.min(axis, tirx.const(62, axes.dtype)), tirx.const(0, axes.dtype))
        return te.compute((), lambda: te.sum(tirx.const(1, "int64") << safe.astype("int64"), axis=k), name="axes_code")

    return site.te(compute, site.emit(relax.op.reshape(site.input(1), (count,))))


def chosen(site: Site, build: Callable[[Shape], Expr], candidates: list[Shape]) -> Expr:
    """The candidate that the run-time axes name. Other values contradict the model's declared shape."""
    results = [site.emit(build(axes)) for axes in candidates]
    if len(results) == 1:
        return results[0]
    code, result = site.emit(axes_code(site)), results[0]
    for axes, other in zip(candidates[1:], results[1:], strict=True):
        wanted = constant(sum(1 << axis for axis in axes), "int64")
        result = site.emit(relax.op.where(site.emit(relax.op.equal(code, wanted)), other, result))
    return result


def along(operator: Any) -> Reduction:
    """A Relax reduction; no axes means nothing to do, where Relax would take all."""

    def reduction(site: Site, data: Expr, axes: list[int], keep: bool) -> Expr:
        return operator(data, axes, keepdims=keep) if axes else data

    return reduction


def infinite_extreme(site: Site, data: Expr, axes: list[int], keep: bool, *, largest: bool) -> Expr:
    """A float maximum or minimum that starts from infinity: Relax's starts from the last finite number."""
    start = -np.inf if largest else np.inf
    combine = tirx.max if largest else tirx.min
    reducer = te.comm_reducer(lambda a, b: combine(a, b), lambda dtype: tirx.const(start, dtype), name="extreme")
    shape = [1 if axis in axes else n for axis, n in enumerate(site.shape()) if keep or axis not in axes]

    def compute(x: te.Tensor) -> te.Tensor:
        reduced = {axis: te.reduce_axis((0, site.shape()[axis]), name=f"k{axis}") for axis in axes}

        def element(*i: Any) -> Any:
            rest = iter([v for axis, v in enumerate(i) if axis not in axes] if keep else i)
            index = [reduced[axis] if axis in reduced else next(rest) for axis in range(site.rank())]
            return reducer(x(*index), axis=list(reduced.values()))

        return te.compute(shape, element, name="extreme")

    return site.te(compute, data)


def extreme(*, largest: bool) -> Reduction:
    """A maximum or minimum; booleans as bytes."""
    operator = relax.op.max if largest else relax.op.min

    def reduction(site: Site, data: Expr, axes: list[int], keep: bool) -> Expr:
        if not axes:
            return data
        if site.dtype().startswith("float"):
            return infinite_extreme(site, data, axes, keep, largest=largest)
        if site.dtype() != "bool":
            return operator(data, axes, keepdims=keep)
        wide = operator(site.emit(relax.op.astype(data, "int8")), axes, keepdims=keep)
        return relax.op.astype(site.emit(wide), "bool")

    return reduction


sum_along = along(relax.op.sum)


def absolute_sum(site: Site, data: Expr, axes: list[int], keep: bool) -> Expr:
    return sum_along(site, site.emit(relax.op.abs(data)), axes, keep)


def square_sum(site: Site, data: Expr, axes: list[int], keep: bool) -> Expr:
    return sum_along(site, site.emit(relax.op.multiply(data, data)), axes, keep)


def norm(site: Site, data: Expr, axes: list[int], keep: bool) -> Expr:
    return relax.op.sqrt(site.emit(square_sum(site, data, axes, keep)))


def log_sum(site: Site, data: Expr, axes: list[int], keep: bool) -> Expr:
    return relax.op.log(site.emit(sum_along(site, data, axes, keep)))


def log_sum_exp(site: Site, data: Expr, axes: list[int], keep: bool) -> Expr:
    """max + log(sum(exp(x - max))); an infinite maximum is not subtracted."""
    if not axes:
        return data
    dtype = str(data.ty.dtype)
    most = site.emit(relax.op.max(data, axes, keepdims=True))
    finite = site.emit(relax.op.less(site.emit(relax.op.abs(most)), constant(np.inf, dtype)))
    shift = site.emit(relax.op.where(finite, most, constant(0, dtype)))
    powers = site.emit(relax.op.exp(site.emit(relax.op.subtract(data, shift))))
    total = site.emit(relax.op.log(site.emit(relax.op.sum(powers, axes, keepdims=True))))
    result = relax.op.add(total, shift)
    return result if keep else relax.op.squeeze(site.emit(result), axes)


def emptiness(op: str, dtype: str) -> float:
    """What a reduction of nothing gives."""
    if op in ("ReduceMax", "ReduceMin"):
        low, high = (-np.inf, np.inf) if dtype.startswith(("float", "bfloat")) else integer_range(dtype)
        return low if op == "ReduceMax" else high
    return {"ReduceProd": 1, "ReduceLogSum": -np.inf, "ReduceLogSumExp": -np.inf, "ReduceMean": np.nan}.get(op, 0)


def integer_range(dtype: str) -> tuple[int, int]:
    return (0, 1) if dtype == "bool" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


def working_type(site: Site, op: str) -> str:
    """Roots and logarithms of integers go through double."""
    if site.dtype() in WIDTH and op in ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp"):
        return "float64"
    return site.dtype()


def reduction_of(op: str, reduction: Reduction) -> Converter:
    def convert(site: Site) -> Expr:
        if 0 in site.shape():
            value = emptiness(op, site.out().dtype)
            return constant(np.full(site.out().shape, value), site.out().dtype)
        kind, data = working_type(site, op), site.input(0)
        wide = data if kind == site.dtype() else site.emit(relax.op.astype(data, kind))
        keep = bool(site.integer("keepdims", 1))
        axes = stated_axes(site)

        def build(axes: Shape) -> Expr:
            return reduction(site, wide, list(axes), keep)

        result = build(axes) if axes is not None else chosen(site, build, deduced(site))
        return result if kind == site.dtype() else relax.op.astype(site.emit(result), site.dtype())

    return convert


def place_of(operator: Any) -> Converter:
    """ArgMax or ArgMin. The last of equals is the first in the reversed tensor."""

    def convert(site: Site) -> Expr:
        axis, keep = site.axis("axis", 0), bool(site.integer("keepdims", 1))
        if not site.integer("select_last_index", 0):
            return operator(site.input(0), axis, keepdims=keep)
        place = site.emit(operator(site.emit(relax.op.flip(site.input(0), axis)), axis, keepdims=keep))
        return relax.op.subtract(constant(site.shape()[axis] - 1, "int64"), place)

    return convert


REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": absolute_sum,
    "ReduceL2": norm,
    "ReduceLogSum": log_sum,
    "ReduceLogSumExp": log_sum_exp,
    "ReduceMax": extreme(largest=True),
    "ReduceMean": along(relax.op.mean),
    "ReduceMin": extreme(largest=False),
    "ReduceProd": along(relax.op.prod),
    "ReduceSum": sum_along,
    "ReduceSumSquare": square_sum,
}
CONVERTERS: dict[str, Converter] = {
    **{op: reduction_of(op, reduction) for op, reduction in REDUCTIONS.items()},
    "ArgMax": place_of(relax.op.argmax),
    "ArgMin": place_of(relax.op.argmin),
}
