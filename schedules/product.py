"""Matrix products as direct kernels with one tap.

before:  Y[..., m, n] = f(sum over k of A[..., m, k] * B[k, n])          B constant: packed into panels
before:  Y[..., m, n] = f(sum over k of A[..., m, k] * B[..., k, n])     B computed: read where it lies
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.schedules.amx import Amx, pack_amx
from lowprec.schedules.amx_choices import amx_kernel
from lowprec.schedules.arithmetic import Way, arithmetic_of
from lowprec.schedules.convolution import in_words, pad_bias
from lowprec.schedules.direct import Direct, Grouped, PackedWeights, StridedWeights, pack_weights
from lowprec.schedules.direct_choices import direct_kernel
from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.geometry import pointwise
from lowprec.schedules.views import FLOAT
from lowprec.schedules.windows import Window, collapse, coordinates
from lowprec.targets import Target

Weights = NDArray[Any]
ONES = (1, 1, 1)
FEW_ROWS = 16
"""Up to so many the time is that of reading the right-hand side from memory: half as many bytes are worth widening."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRequest:
    """One matrix product: `right` is the right-hand side's place, or None when it is constant and will be packed;
    `wide` and `numbers` are as of convolutions, `stored` the narrowest float that has all of a constant one."""

    depth: int
    left: Window
    right: Window | None
    result: Window
    epilogue: Epilogue
    bias: bool
    wide: bool = False
    stored: str = FLOAT
    numbers: str = FLOAT


def product_kernel(request: ProductRequest, target: Target) -> Direct | Amx:
    """The kernel's parameters for a target."""
    extents: tuple[int, ...] = coordinates(request.result.extents)
    columns = extents[4]
    extents = extents[:4]
    views = (request.left.view(), request.result.view(), *request.epilogue.operands)
    if request.right is None or len(request.right.shape) == 2:
        extents, views = collapse(extents, views)
    left, result, *operands = views
    layer = Grouped(
        batch=extents[0],
        groups=1,
        all_channels=(request.depth, columns),
        in_channels=request.depth,
        out_channels=columns,
        geometry=pointwise((extents[1], extents[2], extents[3])),
        input=left,
        output=result,
        halo=request.result.halo,
        epilogue=replace(request.epilogue, operands=tuple(operands)),
    )
    activations = request.left.bytes + request.result.bytes
    if request.right is None and not request.wide:
        kernel = amx_kernel(layer, target, bias=request.bias, numbers=request.numbers, activations=activations)
        if kernel is not None:
            return kernel
    arithmetic = in_words(arithmetic_of(request.left.dtype, target, wide=request.wide), request.depth)
    if arithmetic.way is Way.FLOATS and prod(extents) <= FEW_ROWS:
        arithmetic = replace(arithmetic, stored=request.stored)
    weights = PackedWeights(bias=request.bias) if request.right is None else _strided(request.right)
    return direct_kernel(layer, weights, arithmetic, target, activations=activations)


def _strided(right: Window) -> StridedWeights:
    view = right.view()
    n, d, h, _, c = view.strides
    return StridedWeights(view=replace(view, strides=(n, d, h, 0, c)), channel_stride=view.strides[3])


def pack_product(kernel: Direct | Amx, right: Weights, bias: Weights | None) -> list[Weights]:
    """The arrays the kernel takes after its left-hand side, for a constant right-hand side [depth, columns]."""
    weights = np.ascontiguousarray(right.T).reshape(right.shape[1], right.shape[0], *ONES)
    packed = pack_amx(weights, kernel) if isinstance(kernel, Amx) else [pack_weights(weights, kernel)]
    return packed if bias is None else [*packed, pad_bias(bias, kernel)]
