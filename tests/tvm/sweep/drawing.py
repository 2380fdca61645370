"""Layers drawn by Hypothesis: sizes around every block of the kernel that the compiler would choose.

A draw first names a family, asks the compiler for that family's kernel on a large layer, and then takes extents of 1,
t - 1, t, t + 1, 2 t + 1 and the neighbouring primes, where t is a block of that kernel. `BUDGET` keeps layers small: an
extent that would make one too large is not drawn.
"""

import functools
from dataclasses import dataclass
from math import prod
from typing import Literal

from hypothesis import strategies as st

from lowprec.choosing import DIRECT, FFT, IM2COL
from lowprec.convolution import Conv
from lowprec.predicting_fourier import fourier_obstacle, sizes_by_time
from lowprec.predicting_winograd import TILES, winograd_obstacle
from lowprec.schedules.depthwise import Depthwise
from lowprec.schedules.direct import Direct
from lowprec.schedules.dots import Dots
from lowprec.schedules.microkernel import UNROLL
from lowprec.schedules.windows import whole
from lowprec.schedules.winograd import Winograd
from lowprec.targets import TARGETS, detect_features, machine_arch, parse_target
from tests.tvm.sweep.layer import Copied, Layer, Product, Shape
from tests.tvm.sweep.programs import bordered, places, programs
from tests.tvm.sweep.running import prepare

BUDGET = 4_000_000  # multiplications of a layer
LARGE = 211  # an extent that is larger than every block, and prime
TILE = 4  # outputs of the Winograd kernel that is asked for its blocks
Kernel = Literal["direct", "depthwise", "few", "product", "winograd"]
FAMILIES = ("dense", "pointwise", "stem", "depthwise", "multiplied", "narrow", "wide", "few")
TRANSFORMED = ("winograd", "winograd", "fourier")
LONGEST = 64  # points of a Fourier tile: longer ones are code as long, and take as long to build
# Every remainder of an unrolled loop, and deep enough for channels to be taken in chunks, prime and not.
DEPTHS = (*range(1, 2 * UNROLL + 2), 64, 127, 509, 1024, 2048)
SUMMED = (4, 12, 8, 24, 48, 128)  # depths in whole vectors, for layers of few output channels
RUNNABLE = (
    "native",
    *(t.name for t in TARGETS if t.arch == machine_arch() and t.features <= detect_features()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Extents that a kernel computes at once."""

    rows: int
    channels: int


@functools.cache
def blocks(family: Kernel, channels: int, target: str) -> Blocks:
    """Those of the kernel for a layer of that many output channels and many pixels."""
    operator: Conv | Product
    if family == "product":
        operator = Product(leading=(), rows=LARGE, depth=1, columns=channels, right="computed", batched=False)
    else:
        groups = channels if family == "depthwise" else 1
        inner = SUMMED[-1] if family == "few" else 1
        operator = _convolution(channels=(groups, inner, channels // groups), output=(1, LARGE), kernel=(1, 3))
    kernel = prepare(_bare(operator, target, f"winograd:{TILE}" if family == "winograd" else DIRECT)).call.kernel
    match kernel:
        case Winograd():
            tile = kernel.blocks.tile
            return Blocks(rows=TILE * tile.rows, channels=tile.vectors * parse_target(target).lanes)
        case Depthwise():
            return Blocks(rows=kernel.tile[1], channels=kernel.width)
        case Dots():
            return Blocks(rows=kernel.rows, channels=kernel.lanes)
        case Direct():
            return Blocks(rows=kernel.tile.rows, channels=kernel.panel)
    raise AssertionError(f"no blocks are known of {kernel}")


def _convolution(*, channels: tuple[int, int, int], output: Shape, kernel: Shape) -> Conv:
    """The plainest convolution of (groups, input channels, output channels a group)."""
    groups, inner, outer = channels
    rank = len(output)
    return Conv(
        batch=1,
        in_channels=groups * inner,
        out_channels=groups * outer,
        groups=groups,
        size=tuple(o + k - 1 for o, k in zip(output, kernel, strict=True)),
        kernel=kernel,
        stride=(1,) * rank,
        dilation=(1,) * rank,
        pads_begin=(0,) * rank,
        pads_end=(0,) * rank,
    )


def _bare(operator: Conv | Product, target: str, algorithm: str = DIRECT) -> Layer:
    source, right, result = _shapes(operator)
    return Layer(
        target=target,
        operator=operator,
        source=whole(source),
        right=None if right is None else whole(right),
        result=whole(result),
        bias=False,
        steps=(),
        extras=(),
        algorithm=algorithm,
    )


def _shapes(operator: Conv | Product) -> tuple[Shape, Shape | None, Shape]:
    """Extents of what the operator reads, padding included, of a computed right-hand side, and of the result."""
    if isinstance(operator, Product):
        right = operator.right_shape if operator.right == "computed" else None
        return operator.left_shape, right, (*operator.leading, operator.rows, operator.columns)
    axes = zip(operator.size, operator.pads_begin, operator.pads_end, strict=True)
    size = tuple(n + begin + end for n, begin, end in axes)
    result = (operator.batch, *operator.output_size, operator.out_channels)
    return (operator.batch, *size, operator.in_channels), None, result


@functools.cache
def around(*tiles: int) -> tuple[int, ...]:
    """1, t - 1, t, t + 1, 2 t + 1 and the primes next to t, for each t."""
    near = (n for t in tiles for n in (1, t - 1, t, t + 1, 2 * t + 1, _prime(t - 1, -1), _prime(t + 1, 1)))
    return tuple(sorted({n for n in near if n > 0}))


def _prime(start: int, step: int) -> int:
    """The first prime from `start` on; 1 where there is none."""
    while start > 1 and any(start % divisor == 0 for divisor in range(2, start)):
        start += step
    return max(start, 1)


def affordable(sizes: tuple[int, ...], spent: int) -> st.SearchStrategy[int]:
    """Those of the sizes that leave a layer within the budget."""
    return st.sampled_from([size for size in sizes if size * spent <= BUDGET] or [1])


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """A layer of any family, for any target that this machine runs."""
    target = draw(st.sampled_from(RUNNABLE))
    if not draw(st.integers(0, 14)):
        return draw(copies(target))
    plain = convolutions(target, FAMILIES)
    operator = draw(st.one_of(plain, plain, convolutions(target, TRANSFORMED), products(target)))
    source, right, result = _shapes(operator)
    steps, extras = draw(programs(result))
    algorithm = draw(st.sampled_from(algorithms(operator)))
    tiles = fourier_sizes(operator, target) if algorithm == FFT else [()]
    return Layer(
        target=target,
        operator=operator,
        source=draw(bordered(source)),
        right=None if right is None else draw(bordered(right)),
        result=draw(places(result)),
        bias=draw(st.booleans()),
        steps=steps,
        extras=extras,
        algorithm=algorithm,
        sizes=draw(st.sampled_from(tiles)),
    )


def algorithms(operator: Conv | Product) -> tuple[str, ...]:
    """Those that fit; transformed ones first, so that shrinking is not what makes a layer direct."""
    if not isinstance(operator, Conv):
        return (DIRECT,)
    winograd = (f"winograd:{outputs}" for outputs in TILES if not winograd_obstacle(operator, outputs))
    fourier = (FFT, FFT) if fourier_sizes(operator, RUNNABLE[0]) else ()
    return (*winograd, *fourier, IM2COL, DIRECT)


def fourier_sizes(operator: Conv | Product, target: str) -> list[Shape]:
    """Tiles that fit, none too long to be built in a moment."""
    if not isinstance(operator, Conv) or fourier_obstacle(operator):
        return []
    return sorted(sizes for sizes, _ in sizes_by_time(operator, parse_target(target)) if max(sizes) <= LONGEST)


@st.composite
def copies(draw: st.DrawFn, target: str) -> Layer:
    """A part of a concatenation."""
    channels = draw(st.sampled_from(around(parse_target(target).lanes)))
    extents = (*draw(st.lists(st.sampled_from((1, 2, 3, 5)), min_size=1, max_size=4)), channels)
    return Layer(
        target=target,
        operator=Copied(extents=extents),
        source=draw(bordered(extents)),
        right=None,
        result=draw(places(extents)),
        bias=False,
        steps=(),
        extras=(),
    )


@st.composite
def convolutions(draw: st.DrawFn, target: str, families: tuple[str, ...]) -> Conv:
    """Plain convolutions of one to three axes, with padding."""
    family = draw(st.sampled_from(families))
    rank = 2 if family == "fourier" else draw(st.sampled_from((2, 1) if family == "winograd" else (2, 1, 3)))
    kernel = tuple(draw(_taps(family)) for _ in range(rank))
    groups, outer = draw(_outer(family, target))
    rows = blocks(_kernel(family), groups * outer if groups > 1 else outer, target).rows
    spent = groups * outer * prod(kernel)
    widths, heights = (around(*TILES, rows), around(*TILES)) if family in TRANSFORMED else (around(rows), (1, 2, 3, 5))
    width = draw(affordable(widths, spent))
    others = tuple(draw(affordable(heights, spent * width * 3 ** (rank - 1))) for _ in range(rank - 1))
    output = (*others, width)
    inner = draw(_inner(family, target, spent * prod(output)))
    batch = draw(affordable((1, 2, 3), spent * prod(output) * inner))
    axes = [draw(_axis(o, k, family)) for o, k in zip(output, kernel, strict=True)]
    size, stride, dilation, before, after = zip(*axes, strict=True)
    return Conv(
        batch=batch,
        in_channels=groups * inner,
        out_channels=groups * outer,
        groups=groups,
        size=size,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pads_begin=before,
        pads_end=after,
    )


def _kernel(family: str) -> Literal["depthwise", "few", "winograd", "direct"]:
    match family:
        case "depthwise" | "few" | "winograd":
            return family
        case "fourier":
            return "winograd"
    return "direct"


def _taps(family: str) -> st.SearchStrategy[int]:
    if family == "pointwise":
        return st.just(1)
    more = {"stem": (3, 5, 7), "winograd": (3, 3, 5, 2, 1, 7), "fourier": (9, 4, 1, 15, 31)}
    return st.sampled_from(more.get(family, (3, 1, 2, 5)))


@st.composite
def _outer(draw: st.DrawFn, family: str, target: str) -> tuple[int, int]:
    """Groups, and output channels of each."""
    lanes = parse_target(target).lanes
    match family:
        case "depthwise" | "multiplied":
            channels = around(blocks("depthwise", LARGE, target).channels)
            return draw(st.sampled_from(channels[1:])), 1 if family == "depthwise" else draw(st.sampled_from((2, 3)))
        case "narrow":
            return draw(st.sampled_from((2, 3, 4, 8, 17))), draw(st.sampled_from((1, 2, 3, lanes // 2, lanes - 1)))
        case "wide":
            return draw(st.sampled_from((2, 3))), draw(st.sampled_from(around(lanes)))
        case "few":
            return 1, draw(st.sampled_from((3, 1, 2, 4, lanes // 2, lanes // 2 + 1)))
        case "winograd" | "fourier":
            channels = around(lanes, blocks("winograd", LARGE, target).channels)
            return draw(st.sampled_from((1, 1, 2, 3))), draw(st.sampled_from(channels))
    return 1, draw(st.sampled_from(around(lanes, blocks("direct", LARGE, target).channels)))


def _inner(family: str, target: str, spent: int) -> st.SearchStrategy[int]:
    """Input channels of a group: few, around a vector, or many."""
    match family:
        case "depthwise" | "multiplied":
            return st.just(1)
        case "stem":
            return affordable((1, 2, 3, 4), spent)
        case "narrow":
            return affordable((1, 2, 3, 4, 5, 8), spent)
        case "few":
            return affordable(SUMMED, spent)
    return affordable(DEPTHS + around(parse_target(target).lanes), spent)


@st.composite
def _axis(draw: st.DrawFn, output: int, kernel: int, family: str) -> tuple[int, int, int, int, int]:
    """Size, stride, dilation and padding of an axis with that many outputs."""
    strides = {"stem": (1, 2, 3, 4), "winograd": (1, 1, 1, 2, 4), "fourier": (1, 1, 1, 2, 3)}
    stride = draw(st.sampled_from(strides.get(family, (1, 1, 2, 3))))
    dilation = draw(st.sampled_from((1,) if family in TRANSFORMED else (1, 1, 2, 3)))
    reach = (kernel - 1) * dilation + 1
    unread = draw(st.integers(0, stride - 1))
    total = (output - 1) * stride + reach + unread
    before = draw(st.integers(0, min(reach - 1, total - 1)))
    after = draw(st.integers(0, min(reach - 1, total - 1 - before)))
    return total - before - after, stride, dilation, before, after


@st.composite
def products(draw: st.DrawFn, target: str) -> Product:
    """Gemms and GEMVs of constant and of computed right-hand sides, of rank 2 to 5."""
    right: Literal["constant", "computed"] = draw(st.sampled_from(("constant", "computed")))
    leading = tuple(draw(st.lists(st.sampled_from((1, 2, 3)), max_size=3)))
    batched = bool(leading) and draw(st.booleans())
    lanes = parse_target(target).lanes
    columns = draw(st.sampled_from((*around(lanes, blocks("product", LARGE, target).channels), LARGE)))
    spent = columns * prod(leading)
    rows = draw(affordable(around(blocks("product", columns, target).rows), spent))
    depth = draw(affordable(DEPTHS + around(lanes), spent * rows))
    return Product(leading=leading, rows=rows, depth=depth, columns=columns, right=right, batched=batched)
