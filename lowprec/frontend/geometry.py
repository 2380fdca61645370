"""A node's attributes as the geometry of its convolution."""

from lowprec.convolution import Conv
from lowprec.frontend.graph import Node
from lowprec.layers import Shape


def convolution_of(node: Node, x: Shape, w: Shape) -> Conv:
    """Of a node that convolves an input of shape `x` by weights of shape `w`."""
    rank = len(x) - 2
    transposed = node.op == "ConvTranspose"
    groups = _whole(node, "group", 1)
    kernel, size = w[2:], x[2:]
    stride, dilation = _extents(node, "strides", (1,) * rank), _extents(node, "dilations", (1,) * rank)
    extra = _extents(node, "output_padding", (0,) * rank) if transposed else ()
    begin, end = _pads(node, size, kernel, stride, dilation, extra)
    return Conv(
        batch=x[0],
        in_channels=x[1],
        out_channels=w[1] * groups if transposed else w[0],
        groups=groups,
        size=size,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pads_begin=begin,
        pads_end=end,
        transposed=transposed,
        output_padding=extra,
    )


def _pads(node: Node, size: Shape, kernel: Shape, stride: Shape, dilation: Shape, extra: Shape) -> tuple[Shape, Shape]:
    """Explicit pads, or those that `auto_pad` or `output_shape` imply."""
    rank = len(size)
    mode = node.attributes.get("auto_pad", "NOTSET")
    wanted = _extents(node, "output_shape", ())[-rank:]
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    if mode == "NOTSET" and not wanted:
        pads = _extents(node, "pads", (0,) * (2 * rank))
        return pads[:rank], pads[rank:]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if node.op == "ConvTranspose":
        outputs = wanted or tuple(n * s for n, s in zip(size, stride, strict=True))
        axes = zip(size, stride, reach, extra, outputs, strict=True)
        totals = [max(0, (n - 1) * s + r + more - out) for n, s, r, more, out in axes]
    else:
        totals = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(size, stride, reach, strict=True)]
    small = tuple(total // 2 for total in totals)
    large = tuple(total - total // 2 for total in totals)
    lower = mode == "SAME_LOWER" or (node.op == "ConvTranspose" and mode == "NOTSET")
    return (large, small) if lower else (small, large)


def _extents(node: Node, name: str, default: Shape) -> Shape:
    value = node.attributes.get(name, default)
    assert isinstance(value, tuple), (node.layer, name)
    return tuple(int(extent) for extent in value)


def _whole(node: Node, name: str, default: int) -> int:
    value = node.attributes.get(name, default)
    assert isinstance(value, int), (node.layer, name)
    return value
