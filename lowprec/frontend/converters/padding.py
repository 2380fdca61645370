"""Pad, in every mode; the pads may come at run time, the output's shape does not."""

from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from lowprec.frontend.converters.site import Converter, Expr, Site


def named_axes(site: Site) -> list[int]:
    if not site.has(3):
        return list(range(site.rank()))
    return [int(axis) % site.rank() for axis in site.constant(3, "axes")]


def known_begins(site: Site) -> tuple[list[int], list[int]] | None:
    """Pads before and after each axis, where they are constants."""
    if site.node.version < 11:
        pads = site.integers("pads", site.integers("paddings", ()))
    else:
        known = site.known(1)
        if known is None:
            return None
        pads = tuple(int(v) for v in known)
    axes = named_axes(site)
    begin, end = [0] * site.rank(), [0] * site.rank()
    for k, axis in enumerate(axes):
        begin[axis], end[axis] = pads[k], pads[k + len(axes)]
    return begin, end


def source(place: Any, extent: int, mode: str) -> Any:
    """Where the element for a place outside comes from; always within [0, extent)."""
    if mode == "wrap":
        return tirx.floormod(place, extent)
    if mode == "reflect" and extent > 1:
        period = 2 * (extent - 1)
        folded = tirx.floormod(place, period)
        return tirx.min(folded, period - folded)
    return tirx.max(tirx.min(place, tirx.const(extent - 1, "int64")), tirx.const(0, "int64"))


def pad_value(site: Site) -> Any:
    """The constant that is laid around: a number, or a run-time scalar."""
    if site.node.version < 11:
        return site.number("value", 0)
    if not site.has(2):
        return 0
    known = site.known(2)
    return site.input(2) if known is None else known.reshape(-1)[0].item()


def scalar_of(tensor: te.Tensor) -> Any:
    return tensor(*[0] * len(tensor.shape))


def running_begin(axis: int, rank: int, pads: te.Tensor, named: Sequence[Any]) -> Any:
    """What a run-time tensor of pads says about the beginning of an axis; the names of axes may be expressions."""
    total: Any = tirx.const(0, "int64")
    for k, name in enumerate(named):
        if isinstance(name, int):
            total = pads[k] if name == axis else total
        else:
            total = tirx.Select(tirx.any(name == axis, name == axis - rank), pads[k], total)
    return total


def computed_pad(site: Site, mode: str, known: tuple[list[int], list[int]] | None, value: Any) -> Expr:
    """Every mode, with begins that are numbers or a run-time tensor."""
    shape, axes = site.shape(), running_axes(site)
    running = {
        "pads": site.input(1) if known is None else None,
        "axes": axes if known is None and not isinstance(axes, list) else None,
        "value": value if isinstance(value, relax.Expr) else None,
    }
    names = [name for name, tensor in running.items() if tensor is not None]

    def compute(x: te.Tensor, *rest: te.Tensor) -> te.Tensor:
        given = dict(zip(names, rest, strict=True))
        fill = scalar_of(given["value"]) if "value" in given else tirx.const(value, x.dtype)
        named = axes if "axes" not in given else [given["axes"][k].astype("int64") for k in range(site.shape(3)[0])]

        def begin(axis: int) -> Any:
            return known[0][axis] if known is not None else running_begin(axis, len(shape), given["pads"], named)

        def element(*i: Any) -> Any:
            places = [v - begin(axis) for axis, v in enumerate(i)]
            if mode != "constant":
                return x(*[source(p, n, mode) for p, n in zip(places, shape, strict=True)])
            within = tirx.all(*[tirx.all(p >= 0, p < n) for p, n in zip(places, shape, strict=True)])
            return tirx.if_then_else(within, x(*places), fill)

        return te.compute(site.out().shape, element, name="pad")

    return site.te(compute, site.input(0), *[running[name] for name in names])


def running_axes(site: Site) -> list[int] | Expr:
    """The axes named by an input: known numbers, or the run-time tensor itself."""
    if not site.has(3):
        return list(range(site.rank()))
    return named_axes(site) if site.known(3) is not None else site.input(3)


def convert_pad(site: Site) -> Expr:
    mode = site.text("mode", "constant")
    if site.rank() == 0 or 0 in site.shape():
        site.refuse("padding a scalar or an empty tensor is not supported")
    known = known_begins(site) if not site.has(3) or site.known(3) is not None else None
    value = pad_value(site) if mode == "constant" else 0
    plain = known is not None and not isinstance(value, relax.Expr) and min(*known[0], *known[1]) >= 0
    if known is not None and plain and mode == "constant" and site.dtype().startswith("float"):
        widths = [width for pair in zip(*known, strict=True) for width in pair]
        return relax.op.nn.pad(site.input(0), widths, "constant", value)
    return computed_pad(site, mode, known, value)


CONVERTERS: dict[str, Converter] = {"Pad": convert_pad}
