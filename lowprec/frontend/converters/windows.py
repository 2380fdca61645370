"""Where the windows of convolutions and pools lie: kernels, strides, dilations and padding as plain tuples."""

from dataclasses import dataclass

from lowprec.frontend.converters.site import Shape, Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """One sliding window; every tuple has an entry per spatial axis."""

    size: Shape
    kernel: Shape
    stride: Shape
    dilation: Shape
    begin: Shape
    end: Shape

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def pads(self) -> list[int]:
        """Relax's order: all begins, then all ends."""
        return [*self.begin, *self.end]

    @property
    def extents(self) -> Shape:
        """What a dilated kernel spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


def same_pads(size: Shape, extents: Shape, stride: Shape, *, upper: bool) -> tuple[Shape, Shape]:
    """SAME: as many outputs as ceil(size / stride); an odd pad goes to the end (upper) or the beginning (lower)."""
    totals = [max((-(-n // s) - 1) * s + e - n, 0) for n, e, s in zip(size, extents, stride, strict=True)]
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (small, large) if upper else (large, small)


def windows(site: Site, kernel: Shape) -> Windows:
    """The node's window over its first input, automatic padding resolved."""
    size = site.shape()[2:]
    rank = len(size)
    stride = site.integers("strides", (1,) * rank)
    dilation = site.integers("dilations", (1,) * rank)
    pads = site.integers("pads", (0,) * (2 * rank))
    begin, end = pads[:rank], pads[rank:]
    automatic = site.text("auto_pad", "NOTSET")
    if automatic == "VALID":
        begin = end = (0,) * rank
    elif automatic != "NOTSET":
        extents = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
        begin, end = same_pads(size, extents, stride, upper=automatic == "SAME_UPPER")
    if not 1 <= rank <= 3:
        site.refuse(f"found {rank} spatial axes; 1 to 3 are supported")
    return Windows(size=size, kernel=kernel, stride=stride, dilation=dilation, begin=begin, end=end)
