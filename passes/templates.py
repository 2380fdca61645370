"""Units that a kernel template of ours computes: convolutions and matrix products.

    before:  v = unit(x, r)          unit: windows, conv2d or matmul, epilogue, border
    after:   v = call_tir(kernel, (x, packed weights, bias, r))

Declines when: weights are not constant, the unit is not of the template's form, an extent is zero.
"""

from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass, field, replace

import numpy as np
from tvm import relax, tirx

from lowprec.choosing import DIRECT
from lowprec.convolution import Conv
from lowprec.passes.calling import KIND, Kind
from lowprec.passes.editing import Array, Constant, array_of, dtype_of, is_constant, op_name, shape_of
from lowprec.passes.overwriting import written_over
from lowprec.passes.reading_units import WORDS, Declined, Source, UnitReading, as_float32, read_unit
from lowprec.passes.signs import magnitudes
from lowprec.passes.units import CONVOLUTIONS, lies_as_planes
from lowprec.schedules.amx import Amx
from lowprec.schedules.arithmetic import BFLOAT, BITS, halves_of
from lowprec.schedules.convolution import (
    ConvolutionRequest,
    build_convolution,
    convolution_kernel,
    pack_convolution,
    planes_kernel,
    popcount_kernel,
    shift_of,
)
from lowprec.schedules.convolution import Kernel as ConvolutionKernel
from lowprec.schedules.copying import Copy, build_copy
from lowprec.schedules.depthwise import Depthwise
from lowprec.schedules.direct import Direct
from lowprec.schedules.dots import Dots
from lowprec.schedules.epilogue import Epilogue, Operand, Step, Value
from lowprec.schedules.fourier import Fourier
from lowprec.schedules.fourier_depthwise import FourierDepthwise
from lowprec.schedules.halving import by_instruction
from lowprec.schedules.im2col import Im2col
from lowprec.schedules.noise import Noise, build_noise
from lowprec.schedules.plane_rows import PlaneRows, build_plane_rows, pack_plane_rows
from lowprec.schedules.planes import Planes, build_planes, pack_planes
from lowprec.schedules.popcount import Popcount, build_popcount, pack_popcount
from lowprec.schedules.powers import unscaled
from lowprec.schedules.product import ProductRequest, pack_product, product_kernel
from lowprec.schedules.two_codes import by_pairs
from lowprec.schedules.views import FLOAT, UPPER_HALVES, View
from lowprec.schedules.windows import Shape, Window, coordinates, drawn, whole
from lowprec.schedules.winograd import Winograd
from lowprec.targets import Target

WIDE = "int16"
LOW_BYTE = 255
"""The largest of the halves that 16-bit pixels are multiplied by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCall:
    """A kernel and what it is called with: parameters of the unit, or constants. Equal identities share one kernel.
    `declined` says why it is a direct one, where the plan wished for another; one that `draws` is called with the step,
    last; one that is written `over` an argument has no parameter for its result."""

    identity: Hashable
    family: str
    arguments: tuple[Source | Array, ...]
    kernel: ConvolutionKernel | Popcount | Planes | PlaneRows | Copy | Noise | tirx.PrimFunc
    declined: str = ""
    draws: bool = False
    over: int | None = None

    def build(self) -> tirx.PrimFunc:
        """The kernel's code."""
        return self._built() if self.over is None else written_over(self._built(), self.over)

    def _built(self) -> tirx.PrimFunc:
        match self.kernel:
            case Direct() | Amx() | Depthwise() | Dots() | Winograd() | Fourier() | FourierDepthwise() | Im2col():
                return build_convolution(self.kernel)
            case Popcount():
                return build_popcount(self.kernel)
            case Planes():
                return build_planes(self.kernel)
            case PlaneRows():
                return build_plane_rows(self.kernel)
            case Copy():
                return build_copy(self.kernel)
            case Noise():
                return build_noise(self.kernel)
            case _:
                return self.kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the plan says of a unit: by which algorithm, in transforms of which `sizes`, and for how many threads."""

    algorithm: str = DIRECT
    sizes: tuple[int, ...] = ()
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a unit's parameters: where the border of some ends, which have numbers of what type alone, which
    are random words, of what key, shape and order, and which are `spent`: not read again, and not the caller's."""

    insides: Mapping[relax.Var, Window] = field(default_factory=dict)
    numbers: Mapping[relax.Var, str] = field(default_factory=dict)
    words: Mapping[relax.Var, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    spent: Set[relax.Var] = frozenset()


def lower_by_template(
    function: relax.Function,
    target: Target,
    *,
    wish: Wish | None = None,
    place: Window | None = None,
    facts: Facts | None = None,
) -> KernelCall:
    """The kernel call that replaces a call of the unit, written at `place`; Declined says why there is none."""
    reading = read_unit(function)
    reading.epilogue = unscaled(by_pairs(by_instruction(reading.epilogue, target), target))
    facts = facts or Facts()
    if place is not None:
        reading.result = place
    if reading.signs:
        return product_of_signs(reading, target)
    if function.attrs[KIND] == Kind.CONVOLUTION:
        if lies_as_planes(reading.operator):
            return _planes(reading, target)
        return _convolution(reading, target, wish or Wish(), facts)
    return _product(reading, target, facts)


def reads_halves(function: relax.Function, target: Target, *, wish: Wish | None, facts: Facts) -> relax.Var | None:
    """The parameter that the unit's kernel would multiply as it lies if it were stored as bfloat16, if there is one."""
    try:
        reading = read_unit(function)
        if reading.signs:
            return None
        if function.attrs[KIND] == Kind.CONVOLUTION:
            if lies_as_planes(reading.operator):
                return None
            asked = _ask_convolution(reading, target, wish or Wish(), facts)
            kernel: ConvolutionKernel = convolution_kernel(asked.request, target)
        else:
            multiplied = _ask_product(reading, target, facts)
            kernel = product_kernel(multiplied.request, target)
        return reading.place(reading.operator.args[0])[0] if _takes_halves(kernel) else None
    except Declined:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Convolution:
    """What a unit asks of a kernel: it multiplies a parameter by weights, which are `integers` or not."""

    param: relax.Var
    weights: Array
    integers: bool
    request: ConvolutionRequest
    declined: str


def _ask_convolution(reading: UnitReading, target: Target, wish: Wish, facts: Facts) -> _Convolution:
    operator = reading.operator
    param, window = reading.place(operator.args[0])
    integers = _is_integer(reading, window)
    weights: Array = _codes(operator.args[1], window) if integers else as_float32(array_of(operator.args[1]))
    declined = ""
    if integers:
        wish = replace(wish, algorithm=DIRECT)
    if wish.algorithm != DIRECT and not np.isfinite(weights).all():
        declined = "its weights are not all finite, and would spoil what is beside them"
        wish = replace(wish, algorithm=DIRECT)
    request = ConvolutionRequest(
        conv=_geometry(operator, window.extents, weights),
        source=window,
        result=reading.result,
        epilogue=reading.epilogue,
        bias=reading.bias is not None or integers,
        live=None if _shift(reading, window) else _live(window, facts.insides.get(param), weights),
        algorithm=wish.algorithm,
        sizes=wish.sizes,
        threads=wish.threads,
        wide=weights.dtype == np.int16 and window.dtype != WIDE,
        numbers=FLOAT if integers else _numbers(param, window, weights, target, facts),
    )
    return _Convolution(param=param, weights=weights, integers=integers, request=request, declined=declined)


def _convolution(reading: UnitReading, target: Target, wish: Wish, facts: Facts) -> KernelCall:
    asked, drawing = _ask_convolution(reading, target, wish, facts), _drawing(reading, facts)
    request, weights = asked.request, asked.weights
    kernel = convolution_kernel(replace(request, epilogue=drawing.epilogue), target)
    if isinstance(kernel, Amx):
        reading = drawing
    elif drawing is not reading:
        kernel = convolution_kernel(request, target)
    _check_halves(request.source, kernel)
    bias: Array | None = None if reading.bias is None else as_float32(reading.bias)
    if asked.integers:
        bias = _centred(reading, weights, kernel)
    packed = pack_convolution(kernel, request.conv, weights, bias)
    call = KernelCall(
        identity=kernel,
        family=_family(kernel),
        arguments=(asked.param, *packed, *reading.sources),
        kernel=kernel,
        declined=asked.declined,
        draws=reading.epilogue.draws,
    )
    return _over_spent(call, facts)


def _over_spent(call: KernelCall, facts: Facts) -> KernelCall:
    """The call, written over a residual that is spent, if there is one that lies as the result will."""
    kernel = call.kernel
    if not isinstance(kernel, Amx | Direct) or not kernel.may_overwrite:
        return call
    first = len(call.arguments) - len(kernel.epilogue.operands)
    for place, view in enumerate(kernel.epilogue.operands, first):
        argument = call.arguments[place]
        if not isinstance(argument, relax.Var) or view != kernel.output or argument not in facts.spent:
            continue
        if sum(isinstance(other, relax.Var) and other.same_as(argument) for other in call.arguments) == 1:
            once = replace(kernel, once=True)
            return replace(call, identity=once, kernel=once, over=place)
    return call


def _planes(reading: UnitReading, target: Target) -> KernelCall:
    """A depthwise convolution of images that lie as ONNX has them; the bias is among the epilogue's steps."""
    operator = reading.operator
    param, window = reading.place(operator.args[0])
    if reading.result.halo is not None:
        raise Declined("its kernel writes no border around planes")
    weights = as_float32(array_of(operator.args[1]))
    batch, channels, *size = window.extents
    conv = _conv(operator, (batch, *size, channels), weights)
    kernel = planes_kernel(conv, window, reading.result, reading.epilogue, target)
    packed = pack_plane_rows(weights) if isinstance(kernel, PlaneRows) else pack_planes(weights, kernel)
    arguments = (param, packed, *reading.sources)
    return KernelCall(identity=kernel, family="depthwise", arguments=arguments, kernel=kernel)


def _numbers(param: relax.Var, window: Window, weights: Array, target: Target, facts: Facts) -> str:
    """The type of what is multiplied, where weights are finite: a last block of channels has some again, times zero."""
    kind = BFLOAT if window.dtype == UPPER_HALVES else facts.numbers.get(param, FLOAT)
    if kind == FLOAT or not np.isfinite(weights).all():
        return FLOAT
    return kind if halves_of(as_float32(weights), target) in (BFLOAT, kind) else FLOAT


def _takes_halves(kernel: ConvolutionKernel) -> bool:
    return (isinstance(kernel, Amx) and kernel.halves) or isinstance(kernel, Depthwise)


def _check_halves(source: Window, kernel: ConvolutionKernel) -> None:
    if source.dtype == UPPER_HALVES and not _takes_halves(kernel):
        raise Declined("its operand is stored as bfloat16, which its kernel does not multiply")


def _drawing(reading: UnitReading, facts: Facts) -> UnitReading:
    """The reading for a kernel that makes random words itself, from their keys."""
    if not facts.words.keys() & {source for source in reading.sources if isinstance(source, relax.Var)}:
        return reading
    operands, sources = list(reading.epilogue.operands), list(reading.sources)
    for index, source in enumerate(reading.sources):
        if isinstance(source, relax.Var) and source in facts.words:
            key, shape, order = facts.words[source]
            operands[index], sources[index] = drawn(shape, order), np.array(key, np.uint32)
    return replace(reading, epilogue=replace(reading.epilogue, operands=tuple(operands)), sources=sources)


def _is_integer(reading: UnitReading, window: Window) -> bool:
    """Whether the operator multiplies words of integers; Declined where it multiplies other ones."""
    if dtype_of(reading.operator) == FLOAT:
        if window.dtype not in (FLOAT, UPPER_HALVES):
            raise Declined(f"its {window.dtype} operand is turned into float32 first")
        return False
    if window.dtype not in WORDS:
        raise Declined(f"it multiplies {window.dtype}, and kernels multiply {', '.join(WORDS)}")
    if window.dtype == WIDE and reading.zero_point:
        raise Declined("its 16-bit operand has a zero point")
    if window.dtype == WIDE and [step.op for step in reading.epilogue.steps[:1]] != [FLOAT]:
        raise Declined("its sums of 16-bit products are more than rounded to float32")
    return True


def _codes(constant: relax.Expr, window: Window) -> Array:
    """Centred weights, in 8 bits where they fit; those of a zero point take 9, those of 16-bit pixels have 16."""
    weights = array_of(constant).astype(np.int64)
    kinds = ((np.int16, 1 << 15),) if window.dtype == WIDE else ((np.int8, 1 << 7), (np.int16, 1 << 8))
    for dtype, end in kinds:
        if not weights.size or (weights.min() >= -end and weights.max() < end):
            return weights.astype(dtype)
    raise Declined(f"its centred weights do not fit, multiplied by {window.dtype}")


def _shift(reading: UnitReading, window: Window) -> int:
    """Whether what the kernel reads in a border of zeros is not zero."""
    return reading.zero_point or window.dtype in ("int8", WIDE)


def _centred(reading: UnitReading, weights: Array, kernel: ConvolutionKernel) -> Array:
    """The bias of products with x + shift in place of x - zero point: sums are taken in 32 bits, and wrap around. Split
    sums must not: theirs is the model's bias, and in a second row where high sums begin."""
    rows = np.abs(weights.reshape(len(weights), -1).astype(np.int64)).sum(axis=1)
    sums = weights.reshape(len(weights), -1).astype(np.int64).sum(axis=1)
    bias = np.zeros(len(weights), np.int64) if reading.bias is None else reading.bias.astype(np.int64)
    if not isinstance(kernel, Direct) or not kernel.arithmetic.is_split:
        return np.asarray(bias - (reading.zero_point + shift_of(kernel)) * sums, np.int64).astype(np.int32)
    largest = max(int(rows.max()) * LOW_BYTE, int(np.abs(bias).max()))
    if largest >= 1 << 31:
        raise Declined("sums of its 16-bit products do not fit into two words of 32 bits")
    return np.stack([bias, -(shift_of(kernel) >> BITS) * sums]).astype(np.int32)


def product_of_signs(reading: UnitReading, target: Target) -> KernelCall:
    """Signs times signs, and a factor for each output channel as one more operand of the epilogue."""
    operator = reading.operator
    param, window = reading.place(operator.args[0])
    weights = array_of(operator.args[1])
    weights = weights if op_name(operator) in CONVOLUTIONS else weights.T
    factor = magnitudes(weights)
    if factor is None or 0 in window.extents or window.dtype != FLOAT:
        raise Declined("it does not multiply signs")
    conv = _signs_geometry(operator, window.extents, weights)
    extents = coordinates(reading.result.extents)
    kernel = popcount_kernel(conv, extents, window, reading.result, _scaled(reading.epilogue, len(factor)), target)
    return KernelCall(
        identity=kernel,
        family="popcount",
        arguments=(param, pack_popcount(weights, kernel), *reading.sources, factor),
        kernel=kernel,
    )


def _scaled(epilogue: Epilogue, channels: int) -> Epilogue:
    """The epilogue of a count: turned into a float and times the last operand, before its other steps."""
    place = Operand(len(epilogue.operands))
    first = (Step(op=FLOAT, arguments=(Value(0),)), Step(op="product", arguments=(Value(1), place)))
    rest = (
        replace(step, arguments=tuple(Value(a.index + 2) if isinstance(a, Value) else a for a in step.arguments))
        for step in epilogue.steps
    )
    strides = (0, 0, 0, 0, 1)
    return Epilogue(steps=(*first, *rest), operands=(*epilogue.operands, View(shape=(channels,), strides=strides)))


def _signs_geometry(operator: relax.Call, extents: tuple[int, ...], weights: Array) -> Conv:
    """The convolution with its padding; a matrix product is one of pixels."""
    if op_name(operator) not in CONVOLUTIONS:
        extents, ones = coordinates(extents), (1, 1, 1)
        return Conv(
            batch=extents[0],
            in_channels=extents[-1],
            out_channels=len(weights),
            groups=1,
            size=extents[1:-1],
            kernel=ones,
            stride=ones,
            dilation=ones,
            pads_begin=(0, 0, 0),
            pads_end=(0, 0, 0),
        )
    return _conv(operator, extents, weights)


def _family(kernel: ConvolutionKernel) -> str:
    match kernel:
        case Depthwise():
            return "depthwise"
        case Winograd():
            return "winograd"
        case Fourier() | FourierDepthwise():
            return "fft"
        case Im2col():
            return "im2col"
        case Amx():
            return "amx"
        case Direct() | Dots():
            return "direct"


def _live(read: Window, inside: Window | None, weights: Array) -> tuple[tuple[int, int], ...] | None:
    """Along each spatial axis of what is read, the part inside the border; a zero times an infinite weight counts."""
    spatial = range(1, len(read.extents) - 1)
    if inside is None or not np.isfinite(weights).all():
        return None
    begins = (inside.begin[axis] - read.begin[axis] for axis in spatial)
    return tuple(
        (max(0, begin), min(read.extents[axis], begin + inside.extents[axis]))
        for axis, begin in zip(spatial, begins, strict=True)
    )


def _geometry(operator: relax.Call, extents: tuple[int, ...], weights: Array) -> Conv:
    """The convolution of what has its padding around it."""
    if any(int(width) for width in operator.attrs.padding) or 0 in (*extents, *weights.shape):
        raise Declined("the convolution still pads, or is empty")
    return _conv(operator, extents, weights)


def _conv(operator: relax.Call, extents: tuple[int, ...], weights: Array) -> Conv:
    """A convolution whose source has these extents, channels last, with its padding."""
    attrs, rank = operator.attrs, len(extents) - 2
    padding = tuple(int(width) for width in attrs.padding)
    return Conv(
        batch=extents[0],
        in_channels=extents[-1],
        out_channels=len(weights),
        groups=int(attrs.groups),
        size=extents[1:-1],
        kernel=weights.shape[2:],
        stride=tuple(int(step) for step in attrs.strides),
        dilation=tuple(int(step) for step in attrs.dilation),
        pads_begin=padding[:rank],
        pads_end=padding[rank:],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """What a unit asks of a kernel: a parameter times a right-hand side, which is `constant`, of integer `codes`, or
    read from a `source`."""

    param: relax.Var
    constant: bool
    codes: Array | None
    source: Source | None
    request: ProductRequest


def _ask_product(reading: UnitReading, target: Target, facts: Facts) -> _Product:
    left, right = reading.operator.args
    param, window = reading.place(left)
    integers = _is_integer(reading, window)
    constant = is_constant(right) and len(shape_of(right)) == 2
    if integers and not constant:
        raise Declined("its right-hand side is computed, or of more than two axes")
    codes = _codes(right, window) if integers else None
    if constant:
        place, source = None, None
    elif isinstance(right, Constant):
        place, source = whole(shape_of(right)), right
    else:
        source, place = reading.place(right)
        _check_right(place)
    floats = constant and not integers
    request = ProductRequest(
        depth=window.extents[-1],
        left=window,
        right=place,
        result=reading.result,
        epilogue=reading.epilogue,
        bias=reading.bias is not None or integers,
        wide=codes is not None and codes.dtype == np.int16 and window.dtype != WIDE,
        stored=halves_of(as_float32(array_of(right)), target) if floats else FLOAT,
        numbers=_numbers(param, window, array_of(right), target, facts) if floats else FLOAT,
    )
    return _Product(param=param, constant=constant, codes=codes, source=source, request=request)


def _check_right(place: Window) -> None:
    if place.dtype != FLOAT:
        raise Declined(f"its right-hand side is of {place.dtype}")


def _product(reading: UnitReading, target: Target, facts: Facts) -> KernelCall:
    asked, drawing = _ask_product(reading, target, facts), _drawing(reading, facts)
    kernel = product_kernel(replace(asked.request, epilogue=drawing.epilogue), target)
    if isinstance(kernel, Amx):
        reading = drawing
    elif drawing is not reading:
        kernel = product_kernel(asked.request, target)
    _check_halves(asked.request.left, kernel)
    weights: list[Source | Array]
    right = reading.operator.args[1]
    if asked.codes is not None:
        weights = [*pack_product(kernel, asked.codes, _centred(reading, asked.codes.T, kernel))]
    elif asked.constant:
        bias = None if reading.bias is None else as_float32(reading.bias)
        weights = [*pack_product(kernel, as_float32(array_of(right)), bias)]
    else:
        assert asked.source is not None
        weights = [asked.source]
    family = "amx" if isinstance(kernel, Amx) else "gemm"
    arguments = (asked.param, *weights, *reading.sources)
    call = KernelCall(identity=kernel, family=family, arguments=arguments, kernel=kernel, draws=reading.epilogue.draws)
    return _over_spent(call, facts)
