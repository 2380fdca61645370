"""Conv and ConvTranspose, one to three spatial axes, as Relax's own operators and an addition for the bias."""

from tvm import relax

from lowprec.frontend.converters.site import Converter, Expr, Shape, Site, constant
from lowprec.frontend.converters.windows import Windows, windows

CONVOLUTIONS = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
TRANSPOSED = {1: relax.op.nn.conv1d_transpose, 2: relax.op.nn.conv2d_transpose, 3: relax.op.nn.conv3d_transpose}


def convolve(data: Expr, weight: Expr, window: Windows, groups: int) -> Expr:
    return CONVOLUTIONS[window.rank](
        data,
        weight,
        strides=list(window.stride),
        padding=window.pads,
        dilation=list(window.dilation),
        groups=groups,
    )


def per_channel(site: Site, index: int) -> Expr:
    """A vector over channels, shaped to broadcast over the first input; a constant stays a constant."""
    shape = (1, *site.shape(index), *(1,) * (site.rank() - 2))
    known = site.known(index)
    if known is not None:
        return constant(known.reshape(shape))
    return site.emit(relax.op.reshape(site.input(index), shape))


def with_bias(site: Site, expression: Expr, index: int = 2) -> Expr:
    if not site.has(index):
        return expression
    return relax.op.add(site.emit(expression), per_channel(site, index))


def convert_conv(site: Site) -> Expr:
    window = windows(site, site.shape(1)[2:])
    return with_bias(site, convolve(site.input(0), site.input(1), window, site.integer("group", 1)))


def full_size(window: Windows, output_padding: Shape) -> Shape:
    """What a transposed convolution makes before anything is cut off."""
    parts = zip(window.size, window.stride, window.extents, output_padding, strict=True)
    return tuple((n - 1) * s + e + p for n, s, e, p in parts)


def transposed_pads(site: Site, window: Windows, full: Shape) -> tuple[Shape, Shape]:
    """What is cut off both ends of the full result: the pads, or what a wanted size leaves over."""
    automatic = site.text("auto_pad", "NOTSET")
    given = site.attribute("output_shape")
    if given is None and not automatic.startswith("SAME"):
        return window.begin, window.end
    wanted = (
        given[-window.rank :] if given is not None else [n * s for n, s in zip(window.size, window.stride, strict=True)]
    )
    totals = [max(f - w, 0) for f, w in zip(full, wanted, strict=True)]
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (small, large) if automatic == "SAME_UPPER" else (large, small)


def convert_conv_transpose(site: Site) -> Expr:
    """Relax cuts no more than a window off an end; the rest is a slice of the result."""
    window = windows(site, site.shape(1)[2:])
    output_padding = site.integers("output_padding", (0,) * window.rank)
    if any(p >= s for p, s in zip(output_padding, window.stride, strict=True)):
        site.refuse(f"output_padding {output_padding} must be less than the strides {window.stride}")
    begin, end = transposed_pads(site, window, full_size(window, output_padding))
    inner_begin = [min(b, e - 1) for b, e in zip(begin, window.extents, strict=True)]
    inner_end = [min(b, e - 1) for b, e in zip(end, window.extents, strict=True)]
    result = TRANSPOSED[window.rank](
        site.input(0),
        site.input(1),
        strides=list(window.stride),
        padding=[*inner_begin, *inner_end],
        output_padding=list(output_padding),
        dilation=list(window.dilation),
        groups=site.integer("group", 1),
    )
    if (tuple(inner_begin), tuple(inner_end)) != (tuple(begin), tuple(end)):
        size = site.out().shape[2:]
        first = [b - i for b, i in zip(begin, inner_begin, strict=True)]
        last = [f + n for f, n in zip(first, size, strict=True)]
        result = relax.op.strided_slice(site.emit(result), list(range(2, site.rank())), first, last)
    return with_bias(site, result)


CONVERTERS: dict[str, Converter] = {
    "Conv": convert_conv,
    "ConvTranspose": convert_conv_transpose,
}
