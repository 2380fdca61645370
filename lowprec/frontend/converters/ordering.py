"""Running sums and products along an axis, and the k largest."""

from typing import Any

from tvm import te, tirx

from lowprec.frontend.converters.reductions import chosen
from lowprec.frontend.converters.site import Converter, Expr, Result, Shape, Site


def running(site: Site, axis: int, *, product: bool) -> Expr:
    """Element k combines the elements up to k: quadratic along the axis, parallel across it."""
    extent = site.shape()[axis]
    exclusive, backwards = bool(site.integer("exclusive", 0)), bool(site.integer("reverse", 0))
    combine = (
        te.comm_reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype), name="product") if product else te.sum
    )

    def compute(x: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, extent), name="k")

        def element(*i: Any) -> Any:
            here = i[axis]
            counts = (k > here if exclusive else k >= here) if backwards else (k < here if exclusive else k <= here)
            neutral = tirx.const(1 if product else 0, x.dtype)
            return combine(tirx.Select(counts, x(*i[:axis], k, *i[axis + 1 :]), neutral), axis=k)

        return te.compute(x.shape, element, name="cumulative")

    return site.te(compute, site.input(0))


def running_of(*, product: bool) -> Converter:
    """CumSum or CumProd. An axis that comes at run time selects among all of them."""

    def convert(site: Site) -> Expr:
        known = site.known(1)
        if known is not None:
            return running(site, int(known.reshape(-1)[0]) % site.rank(), product=product)
        every: list[Shape] = [(axis,) for axis in range(site.rank())]
        return chosen(site, lambda axes: running(site, axes[0], product=product), every)

    return convert


def ranks(site: Site, axis: int) -> Expr:
    """How many elements along the axis come before each one: the larger (or smaller), then the earlier."""
    extent, largest = site.shape()[axis], bool(site.integer("largest", 1))

    def compute(x: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, extent), name="k")

        def element(*i: Any) -> Any:
            mine, other = x(*i), x(*i[:axis], k, *i[axis + 1 :])
            ahead = other > mine if largest else other < mine
            first = tirx.any(ahead, tirx.all(other == mine, k < i[axis]))
            return te.sum(tirx.Select(first, tirx.const(1, "int64"), tirx.const(0, "int64")), axis=k)

        return te.compute(x.shape, element, name="ranks")

    return site.te(compute, site.input(0))


def places(site: Site, ranked: Expr, axis: int) -> Expr:
    """The inverse permutation, cut off after k: where the element of each rank stands."""
    extent = site.shape()[axis]

    def compute(rank: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, extent), name="k")

        def element(*i: Any) -> Any:
            mine = rank(*i[:axis], k, *i[axis + 1 :]) == i[axis]
            return te.sum(tirx.Select(mine, k.var.astype("int64"), tirx.const(0, "int64")), axis=k)

        return te.compute(site.out().shape, element, name="places")

    return site.te(compute, ranked)


def convert_top_k(site: Site) -> Result:
    """k is the output's size. Sorted by counting: no scratch memory, no branches, every element on its own."""
    axis = site.axis("axis", -1)
    found = site.emit(places(site, site.emit(ranks(site, axis)), axis))

    def pick(x: te.Tensor, place: te.Tensor) -> te.Tensor:
        def element(*i: Any) -> Any:
            return x(*i[:axis], place(*i), *i[axis + 1 :])

        return te.compute(site.out().shape, element, name="top_k")

    return site.te(pick, site.input(0), found), found


CONVERTERS: dict[str, Converter] = {
    "CumProd": running_of(product=True),
    "CumSum": running_of(product=False),
    "TopK": convert_top_k,
}
