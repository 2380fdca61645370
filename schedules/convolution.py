"""A convolution's geometry -> the kernel that computes it, and its weights packed as that kernel reads them.

Winograd, Fourier or im2col, where that is asked for, see the modules of these names; else one of four cases:
- depthwise (one channel in, one out, a group): vectors run over channels, see `depthwise`;
- few output channels, no groups: vectors run over input channels, see `dots`;
- groups at least a vector wide, or no groups: the direct kernel, group by group;
- narrow groups: several are bundled into a dense one, see `bundles`.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from lowprec.choosing import DIRECT, FFT, IM2COL, winograd_outputs
from lowprec.convolution import Conv
from lowprec.fourier import frequencies
from lowprec.phases import phase_count, phases_of
from lowprec.predicting_fourier import segments_of
from lowprec.predicting_planes import lies_along_rows
from lowprec.predicting_winograd import filterings
from lowprec.schedules.amx import Amx, pack_amx
from lowprec.schedules.amx_choices import amx_kernel
from lowprec.schedules.amx_kernel import build_amx
from lowprec.schedules.arithmetic import Arithmetic, Way, arithmetic_of
from lowprec.schedules.blocks import Blocks, Products, Tiling, choose_blocks, choose_patches
from lowprec.schedules.bundles import bundle_weights, choose_bundle
from lowprec.schedules.depthwise import Depthwise, build_depthwise, pack_depthwise
from lowprec.schedules.direct import Direct, Grouped, PackedWeights, pack_weights
from lowprec.schedules.direct_choices import direct_kernel
from lowprec.schedules.dots import Dots, build_dots, dot_lanes, pack_dots
from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.fourier import Fourier, build_fourier, pack_fourier
from lowprec.schedules.fourier_depthwise import FourierDepthwise, build_fourier_depthwise, pack_fourier_depthwise
from lowprec.schedules.geometry import Geometry, Live, pointwise
from lowprec.schedules.halo import Halo
from lowprec.schedules.im2col import Im2col, build_im2col, pack_im2col
from lowprec.schedules.microkernel import build_direct
from lowprec.schedules.plane_rows import PlaneRows
from lowprec.schedules.planes import Planes
from lowprec.schedules.popcount import WORD, Popcount
from lowprec.schedules.tiling import Workload, ceil_div, choose_tile
from lowprec.schedules.views import FLOAT, UPPER_HALVES, View
from lowprec.schedules.windows import Window, collapse, coordinates
from lowprec.schedules.winograd import Winograd, build_winograd, pack_winograd
from lowprec.targets import Target
from lowprec.winograd import Filtering

EXACT_TAPS = 256
"""Products of two bytes that float32 sums exactly: each is less than 2^16."""

Weights = NDArray[Any]
Kernel = Direct | Amx | Depthwise | Dots | Winograd | Fourier | FourierDepthwise | Im2col


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionRequest:
    """One convolution as the graph wants it: what it reads (its padding included), what it writes, what follows it.

    `conv` has no padding of its own: `source` is as large as all that the taps reach, and zero outside of what is
    `live` along each spatial axis, if that is known. `algorithm` is one that fits, `sizes` those of a Fourier tile;
    `threads` is the number that the kernel should be good for; `wide`: integer weights take more than 8 bits;
    `numbers`: the type whose numbers all floats are, weights as well.
    """

    conv: Conv
    source: Window
    result: Window
    epilogue: Epilogue
    bias: bool
    live: tuple[Live, ...] | None = None
    algorithm: str = DIRECT
    sizes: tuple[int, ...] = ()
    threads: int = 1
    wide: bool = False
    numbers: str = FLOAT

    def __post_init__(self) -> None:
        if self.conv.transposed or any((*self.conv.pads_begin, *self.conv.pads_end)):
            raise ValueError(f"a kernel computes plain, unpadded convolutions: {self.conv}")

    @property
    def activations(self) -> int:
        """Bytes that are read and written beside the weights."""
        return self.source.bytes + self.result.bytes


def convolution_kernel(request: ConvolutionRequest, target: Target) -> Kernel:
    """The kernel's parameters for a target."""
    outputs = winograd_outputs(request.algorithm)
    if outputs is not None:
        return _winograd(request, filterings(request.conv, outputs), target)
    if request.algorithm == FFT:
        return _fourier(request, target)
    if request.algorithm == IM2COL:
        return _im2col(request, target)
    if _is_depthwise(request.conv) and _sums_exactly(request):
        return _depthwise(request, target)
    if request.source.dtype != FLOAT:
        return _in_tiles(request, target) or _direct(request, target)
    tiles = _in_tiles(request, target) if request.numbers != FLOAT else None
    if tiles is not None:
        return tiles
    lanes = _dot_lanes(request, target)
    return _direct(request, target) if lanes is None else _dots(request, target, lanes)


class _Frame(TypedDict):
    """`buffers.Frame`'s fields, to be given to kernels that have them."""

    input: View
    output: View
    halo: Halo | None
    bias: bool
    epilogue: Epilogue
    lanes: int


def _frame(request: ConvolutionRequest, lanes: int) -> _Frame:
    return _framed(request.source, request.result, request.epilogue, lanes, bias=request.bias)


def _framed(source: Window, result: Window, epilogue: Epilogue, lanes: int, *, bias: bool = False) -> _Frame:
    return _Frame(
        input=source.view(), output=result.view(), halo=result.halo, bias=bias, epilogue=epilogue, lanes=lanes
    )


def _direct(request: ConvolutionRequest, target: Target) -> Direct:
    conv, layer = request.conv, _grouped(request, choose_bundle(request.conv, target.lanes))
    arithmetic = arithmetic_of(request.source.dtype, target, wide=request.wide)
    if runs_of_taps(conv, arithmetic):
        channels = layer.in_channels * layer.geometry.kernel[2]
        layer = replace(layer, geometry=layer.geometry.in_rows(), in_channels=channels)
    arithmetic = in_words(arithmetic, layer.in_channels)
    weights = PackedWeights(bias=request.bias)
    activations, threads = request.activations, request.threads
    return direct_kernel(layer, weights, arithmetic, target, activations=activations, threads=threads)


def _in_tiles(request: ConvolutionRequest, target: Target) -> Amx | None:
    """On AMX, where that has the instructions."""
    if request.wide:
        return None
    layer, activations = _grouped(request), request.activations
    return amx_kernel(
        layer,
        target,
        bias=request.bias,
        numbers=request.numbers,
        activations=activations,
        threads=request.threads,
    )


def _grouped(request: ConvolutionRequest, bundle: int = 1) -> Grouped:
    """Group by group, or so many bundled; pixels of a pointwise convolution follow each other as far as they can."""
    conv, geometry = request.conv, _geometry(request)
    extents: tuple[int, ...] = coordinates(request.result.extents)[:4]
    views = (request.source.view(), request.result.view(), *request.epilogue.operands)
    if _is_pointwise(conv):
        extents, views = collapse(extents, views)
        geometry = pointwise(_triple(extents[1:]))
    source, result, *operands = views
    return Grouped(
        batch=extents[0],
        groups=ceil_div(conv.groups, bundle),
        all_channels=(conv.in_channels, conv.out_channels),
        in_channels=bundle * conv.in_channels // conv.groups,
        out_channels=bundle * conv.out_channels // conv.groups,
        geometry=geometry,
        input=source,
        output=result,
        halo=request.result.halo,
        epilogue=replace(request.epilogue, operands=tuple(operands)),
    )


def runs_of_taps(conv: Conv, arithmetic: Arithmetic) -> bool:
    """Whether a row of taps is taken as one tap of that many channels, which lie side by side: where words would
    repeat channels otherwise."""
    ragged = conv.in_channels % arithmetic.word > 0
    along = conv.groups == 1 and conv.kernel[-1] > 1 and conv.dilation[-1] == 1
    return ragged and along and conv.in_channels * conv.kernel[-1] >= arithmetic.word


def in_words(arithmetic: Arithmetic, channels: int) -> Arithmetic:
    """The arithmetic for so many channels: one at a time where they do not fill a word."""
    if channels >= arithmetic.word:
        return arithmetic
    return replace(arithmetic, way=Way.SINGLE_HALVES if arithmetic.is_split else Way.SINGLE)


def _depthwise(request: ConvolutionRequest, target: Target) -> Depthwise:
    conv = request.conv
    return Depthwise(
        batch=conv.batch,
        channels=conv.out_channels,
        geometry=_geometry(request),
        **_frame(request, target.lanes),
        registers=target.vector_registers,
        threads=request.threads,
    )


def _dot_lanes(request: ConvolutionRequest, target: Target) -> int | None:
    conv = request.conv
    if conv.groups > 1:
        return None
    return dot_lanes(
        in_channels=conv.in_channels, out_channels=conv.out_channels, taps=prod(conv.kernel), lanes=target.lanes
    )


def _dots(request: ConvolutionRequest, target: Target, lanes: int) -> Dots:
    conv = request.conv
    return Dots(
        batch=conv.batch,
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        geometry=_geometry(request),
        **_frame(request, lanes),
        registers=target.vector_registers,
    )


def _winograd(request: ConvolutionRequest, axes: tuple[Filtering, ...], target: Target) -> Winograd:
    conv = request.conv
    _, high, wide = ((Filtering(outputs=1, taps=1),) * (3 - len(axes))) + axes
    size = triple(conv.output_size)[1:]
    tiling = Tiling(batch=conv.batch, size=(size[0], size[1]), outputs=(high.outputs, wide.outputs))
    return Winograd(
        batch=conv.batch,
        size=tiling.size,
        axes=(high, wide),
        **_frame(request, target.lanes),
        phases=phases_of(conv),
        blocks=_blocks(request, target, tiles=tiling.count, frequencies=high.inputs * wide.inputs),
    )


def _fourier(request: ConvolutionRequest, target: Target) -> Fourier | FourierDepthwise:
    conv = request.conv
    axes = segments_of(conv, request.sizes)
    size = (conv.output_size[0], conv.output_size[1])
    if _is_depthwise(conv):
        return FourierDepthwise(
            batch=conv.batch,
            channels=conv.out_channels,
            size=size,
            axes=axes,
            **_frame(request, target.lanes),
            phases=phases_of(conv),
        )
    tiling = Tiling(batch=conv.batch, size=size, outputs=(axes[0].outputs, axes[1].outputs))
    return Fourier(
        batch=conv.batch,
        size=size,
        axes=axes,
        **_frame(request, target.lanes),
        phases=phases_of(conv),
        blocks=_blocks(request, target, tiles=tiling.count, frequencies=frequencies(*axes), parts=2),
    )


def _im2col(request: ConvolutionRequest, target: Target) -> Im2col:
    conv = request.conv
    channels = conv.in_channels // conv.groups
    work = Products(
        tiles=conv.batch * prod(conv.output_size),
        frequencies=1,
        groups=conv.groups,
        channels=(channels * prod(conv.kernel), conv.out_channels // conv.groups),
    )
    return Im2col(
        batch=conv.batch,
        in_channels=channels,
        geometry=_geometry(request),
        **_frame(request, target.lanes),
        blocks=choose_patches(work, lanes=target.lanes, registers=target.vector_registers, threads=request.threads),
    )


def _blocks(request: ConvolutionRequest, target: Target, *, tiles: int, frequencies: int, parts: int = 1) -> Blocks:
    conv = request.conv
    work = Products(
        tiles=tiles,
        frequencies=frequencies,
        groups=conv.groups,
        channels=(phase_count(conv) * conv.in_channels // conv.groups, conv.out_channels // conv.groups),
        parts=parts,
    )
    return choose_blocks(work, lanes=target.lanes, registers=target.vector_registers, threads=request.threads)


def popcount_kernel(
    conv: Conv, extents: tuple[int, ...], source: Window, result: Window, epilogue: Epilogue, target: Target
) -> Popcount:
    """The kernel for signs times signs; `conv` has its padding, `extents` are the result's."""
    outer = (0,) * (3 - len(conv.size))
    size, begin, end = triple(conv.size), _triple(outer + conv.pads_begin), _triple(outer + conv.pads_end)
    work = Workload(
        lines=prod(extents[:3]),
        pixels=extents[3],
        columns=conv.out_channels,
        taps=prod(conv.kernel),
        channels=ceil_div(conv.in_channels, WORD),
        activations=source.bytes + result.bytes,
    )
    padded = tuple(b + n + e for b, n, e in zip(begin, size, end, strict=True))
    return Popcount(
        **_framed(source, result, epilogue, target.lanes),
        batch=conv.batch,
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        geometry=Geometry(
            size=_triple(extents[1:4]),
            kernel=triple(conv.kernel),
            stride=triple(conv.stride),
            dilation=triple(conv.dilation),
            live=((0, padded[0]), (0, padded[1]), (0, padded[2])),
        ),
        size=size,
        begin=begin,
        padded=_triple(padded),
        tile=choose_tile(work, lanes=target.lanes, registers=target.vector_registers),
    )


def planes_kernel(conv: Conv, source: Window, result: Window, epilogue: Epilogue, target: Target) -> Planes | PlaneRows:
    """The kernel for images whose channels lie one after the other; `conv` has its padding."""
    frame = _framed(source, result, epilogue, target.lanes)
    kind = PlaneRows if lies_along_rows(conv, target) else Planes
    return kind(**frame, conv=conv, registers=target.vector_registers)


def build_convolution(kernel: Kernel) -> tirx.PrimFunc:
    """The kernel's code."""
    match kernel:
        case Depthwise():
            return build_depthwise(kernel)
        case Dots():
            return build_dots(kernel)
        case Winograd():
            return build_winograd(kernel)
        case Fourier():
            return build_fourier(kernel)
        case FourierDepthwise():
            return build_fourier_depthwise(kernel)
        case Im2col():
            return build_im2col(kernel)
        case Amx():
            return build_amx(kernel)
        case Direct():
            return build_direct(kernel)


def pack_convolution(kernel: Kernel, conv: Conv, weights: Weights, bias: Weights | None) -> list[Weights]:
    """The arrays the kernel takes after its input: weights, and the bias if it has one."""
    packed: Weights
    match kernel:
        case Depthwise():
            packed = pack_depthwise(weights, kernel)
        case Dots():
            packed = pack_dots(weights, kernel)
        case Winograd():
            packed = pack_winograd(weights, kernel)
        case Fourier():
            packed = pack_fourier(weights, kernel)
        case FourierDepthwise():
            packed = pack_fourier_depthwise(weights, kernel)
        case Im2col():
            packed = pack_im2col(weights, kernel)
        case Amx():
            return [*pack_amx(weights, kernel), *([] if bias is None else [pad_bias(bias, kernel)])]
        case Direct():
            bundle = choose_bundle(conv, kernel.lanes)
            bundled = bundle_weights(weights, groups=conv.groups, bundle=bundle)
            if runs_of_taps(conv, kernel.arithmetic):
                bundled = np.moveaxis(bundled, 1, -1)  # channels after taps along a row
                bundled = bundled.reshape(*bundled.shape[:-2], -1)
                bundled = np.moveaxis(bundled, -1, 1)[..., None]
            packed = pack_weights(bundled, kernel)
    return [packed] if bias is None else [packed, pad_bias(bias, kernel)]


def shift_of(kernel: Kernel) -> int:
    """What a kernel of bytes adds to every input before it multiplies it."""
    return kernel.arithmetic.shift if isinstance(kernel, Direct) else 0


def pad_bias(bias: Weights, kernel: Kernel) -> Weights:
    """The bias, filled up with zeros as far as the kernel reads whole vectors of it; of split sums, its rows."""
    rows = np.atleast_2d(bias)
    return np.pad(rows, ((0, 0), (0, kernel.bias_width // len(rows) - rows.shape[1]))).ravel()


def triple(values: tuple[int, ...]) -> tuple[int, int, int]:
    """One to three spatial extents as three, the missing outer ones being 1."""
    return _triple((1,) * (3 - len(values)) + values)


def _triple(values: tuple[int, ...]) -> tuple[int, int, int]:
    d, h, w = values
    return d, h, w


def _geometry(request: ConvolutionRequest) -> Geometry:
    conv, live = request.conv, request.live
    if live is None:
        live = tuple((0, extent) for extent in conv.size)
    d, h, w = ((0, 1),) * (3 - len(live)) + live
    return Geometry(
        size=triple(conv.output_size),
        kernel=triple(conv.kernel),
        stride=triple(conv.stride),
        dilation=triple(conv.dilation),
        live=(d, h, w),
    )


def _sums_exactly(request: ConvolutionRequest) -> bool:
    """Whether floats do for a depthwise convolution."""
    bytes_alone = request.source.dtype in ("int8", "uint8") and prod(request.conv.kernel) <= EXACT_TAPS
    return request.source.dtype in (FLOAT, UPPER_HALVES, "int16") or bytes_alone


def _is_depthwise(conv: Conv) -> bool:
    return conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1


def _is_pointwise(conv: Conv) -> bool:
    return all(extent == 1 for extent in (*conv.kernel, *conv.stride))
