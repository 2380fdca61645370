"""What a convolution will cost and how exact it will be, by each algorithm, from its shape alone.

Time is the larger part of two: what the multipliers and the transforms take, and what the weights take on their way
from memory, which overlap in part:

    cycles = sqrt(work^2 + memory^2)                                                                    (1)

Error is relative, in the root mean square, for inputs and weights that are independent. With u = 2^-24, a chain of n
multiply-adds has

    u * sqrt(CHAIN * n)                                                                                 (2)

which was fitted to errors measured at 4 to 256 channels, and gives them within 8 %. Here are the direct kernels and
im2col; `predicting_winograd` and `predicting_fourier` have the others.
"""

from dataclasses import dataclass
from math import ceil, hypot, prod, sqrt

from lowprec.convolution import Conv
from lowprec.phases import phase_count
from lowprec.targets import Target

UNIT = 2.0**-24
CHAIN = 0.0917

BUDGET = 1e-5
"""Relative error that a layer in fp32 may have by default."""

MULTIPLIERS = 2
"""Vector multiply-adds a cycle."""

MEMORY_RATE = 6.5
"""Bytes a cycle of one core that come from memory."""

GIGAHERTZ = 2.55
"""The clock that turns cycles to time where none was measured."""

DIRECT_SHARE, PATCHES_SHARE = 0.847, 0.756
"""Of the multipliers' peak, in a direct kernel and in a product over patches. These and all cycles here, in
`predicting_winograd` and in `predicting_fourier`, were fitted to the times of 193 layers that were drawn."""

DEPTHWISE_SHARE, DEPTHWISE_RATES = 0.75, (4.0, 8.0)
"""The same of depthwise kernels, and bytes a cycle that they read and write beside: where L2 holds both, and beyond,
where they compute two rows at once."""

FAR = 3 << 20
"""Bytes of activations that do not stay in L2."""

STRIDED_HOP, LONGEST_HOP = 0.01, 1536
"""Cycles that a depthwise kernel with a stride waits for a vector beyond L2, for each byte from one that it reads to
the next; after so many bytes it takes no longer."""

ROW_READ, ROW_WRITTEN = 0.67, 3.1
"""Cycles for a vector and row of its tile that is read from beyond L2, or written there: all rows go at once."""

COPY_CYCLES, PATCHES = 4.0, 512 << 10
"""For a vector of a patch, and bytes of the patches that are multiplied together."""

SCRATCH, MOST_LANES = 4 << 20, 16
"""Bytes between the transforms, and the widest vectors there are."""

CACHED_RATE, CACHED = 17.7, 64 << 20
"""Bytes a cycle of one core that come from L3, of weights of at most so many bytes."""

L2_SHARE = 1 << 20
"""Bytes of weights that stay in L2 from one block of tiles to the next."""

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Of one algorithm: cycles on one core, the relative error, and bytes of packed weights. At the worst place of a
    tile the error is `peak` times as large."""

    cycles: float
    error: float
    weight_bytes: int
    peak: float = 1.0

    @property
    def milliseconds(self) -> float:
        return self.cycles / (GIGAHERTZ * 1e6)


def predict_direct(conv: Conv, target: Target) -> Prediction:
    """The direct kernel."""
    weight_bytes = FLOAT_BYTES * conv.parameters
    work = _depthwise_work(conv, target) if conv.depthwise else _direct_work(conv, target)
    return Prediction(
        cycles=hypot(work, weight_bytes / MEMORY_RATE),
        error=UNIT * sqrt(CHAIN * (prod(conv.kernel) * conv.in_channels // conv.groups)),
        weight_bytes=weight_bytes,
    )


def _direct_work(conv: Conv, target: Target) -> float:
    return conv.macs * widening(conv, target) / (MULTIPLIERS * target.lanes * DIRECT_SHARE)


def _depthwise_work(conv: Conv, target: Target) -> float:
    moved = sum(activations(conv))
    work = conv.macs / (MULTIPLIERS * target.lanes * DEPTHWISE_SHARE) + moved / DEPTHWISE_RATES[moved > FAR]
    if moved > FAR and conv.stride[-1] > 1:
        read = conv.batch * prod(conv.size) * ceil(conv.in_channels / target.lanes)
        again = conv.kernel[0] / (2 * conv.stride[0])  # two rows are computed at once
        work += STRIDED_HOP * min(FLOAT_BYTES * conv.in_channels * conv.stride[-1], LONGEST_HOP) * read * again
    return work


def activations(conv: Conv) -> tuple[int, int]:
    """Bytes that are read, and written."""
    read, written = conv.in_channels * prod(conv.size), conv.out_channels * prod(conv.output_size)
    return FLOAT_BYTES * conv.batch * read, FLOAT_BYTES * conv.batch * written


def predict_im2col(conv: Conv, target: Target) -> Prediction:
    """The product over patches, and their copying."""
    depth = prod(conv.kernel) * conv.in_channels // conv.groups
    pixels = conv.batch * prod(conv.output_size)
    products = conv.macs * widening(conv, target) / (MULTIPLIERS * target.lanes * PATCHES_SHARE)
    whole = conv.groups == 1 and conv.dilation[-1] == 1
    run = conv.in_channels // conv.groups * (conv.kernel[-1] if whole else 1)
    copied = pixels * conv.groups * depth / run * ceil(run / target.lanes)
    weight_bytes = FLOAT_BYTES * conv.parameters
    blocks = ceil(pixels * FLOAT_BYTES * depth / PATCHES)
    again = (blocks - 1) * weight_bytes / rate_again(weight_bytes) if weight_bytes > L2_SHARE else 0.0
    return Prediction(
        cycles=hypot(products + COPY_CYCLES * copied, weight_bytes / MEMORY_RATE + again),
        error=UNIT * sqrt(CHAIN * depth),
        weight_bytes=weight_bytes,
    )


def far_cycles(conv: Conv, target: Target, *, rows: tuple[int, int], read: int) -> float:
    """What it takes that activations lie beyond L2: tiles of so many rows, in and out, `read` vectors in all."""
    source, result = activations(conv)
    written = conv.batch * prod(conv.output_size) * conv.groups * ceil(conv.out_channels // conv.groups / target.lanes)
    return ROW_READ * rows[0] * read * (source > FAR) + ROW_WRITTEN * rows[1] * written * (result > FAR)


def rate_again(weight_bytes: int) -> float:
    """Bytes a cycle of weights that are read once more."""
    return CACHED_RATE if weight_bytes <= CACHED else MEMORY_RATE


def scratch_width(conv: Conv) -> int:
    """Numbers of a frequency and tile between the transforms: the channels, and two vectors of output channels."""
    return phase_count(conv) * conv.in_channels // conv.groups + 4 * MOST_LANES


def widening(conv: Conv, target: Target) -> float:
    """How many products are made for one that is asked for: vectors run over output channels, and are full."""
    width = conv.out_channels // conv.groups
    return ceil(width / target.lanes) * target.lanes / width
