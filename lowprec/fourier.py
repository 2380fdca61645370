"""Convolution by the discrete Fourier transform, tile by tile: overlap-save.

A tile of N x N inputs, N = 2^a 3^b 5^c, gives N - k + 1 outputs along each axis, those that a correlation with k taps
does not wrap around for:

    y = IDFT(DFT(x) * conj(DFT(w)))                                                                     (1)

x is real, so half of the spectrum says all: N rows by N / 2 + 1 columns. Rows are transformed in pairs, one as the real
and one as the imaginary part of z = a + i b, and told apart by

    2 DFT(a)[k] = Z[k] + conj(Z[N - k])        2 i DFT(b)[k] = Z[k] - conj(Z[N - k])                    (2)

and of the way back the pair is put together again as A + i B, whose inverse is a + i b. The factors 1 / 2 of (2) and
1 / N^2 of the inverse are in the weights. A line of N = N1 N2 goes in two passes (Cooley and Tukey):

    Z[k1 + N1 k2] = sum over n2 of  W_N^(n2 k1) (sum over n1 of z[N2 n1 + n2] W_N1^(n1 k1))  W_N2^(n2 k2)  (3)
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

FACTORS: dict[int, tuple[int, int]] = {
    8: (4, 2),
    12: (4, 3),
    16: (4, 4),
    20: (4, 5),
    24: (6, 4),
    30: (6, 5),
    32: (8, 4),
    36: (6, 6),
    40: (8, 5),
    48: (8, 6),
    60: (10, 6),
    64: (8, 8),
    72: (12, 6),
    80: (10, 8),
    96: (12, 8),
    108: (12, 9),
    120: (12, 10),
    128: (16, 8),
}
"""N1 and N2 of equation 3, the first even, of each size there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One axis of a tile: `size` inputs, of which `outputs` are kept, fewer than could be where the image is small."""

    size: int
    taps: int
    outputs: int

    def __post_init__(self) -> None:
        if self.size not in FACTORS or not 1 <= self.outputs <= self.size - self.taps + 1:
            raise ValueError(f"{self} is no segment")

    @property
    def reach(self) -> int:
        """Inputs that the kept outputs see; the rest is taken as zero."""
        return self.outputs + self.taps - 1


def operations(size: int) -> int:
    """About so many additions and multiplications, fused ones as one, take a line of complex numbers: equation 3."""
    first, second = FACTORS[size]
    return second * _operations(first) + first * _operations(second) + TURN * (first - 1) * (second - 1)


TURN = 4
"""Operations of a complex product."""

BUTTERFLY = {4: 16, 2: 4, 3: 12, 5: 36}
"""Operations of the transforms that others are made of, in the order they are taken out."""


def radix_of(count: int) -> int:
    """The transform that one of `count` values begins with."""
    return next(radix for radix in BUTTERFLY if count % radix == 0)


def _operations(count: int) -> int:
    if count == 1:
        return 0
    radix = radix_of(count)
    rest = count // radix
    return radix * _operations(rest) + rest * BUTTERFLY[radix] + TURN * (radix - 1) * (rest - 1)


def frequencies(high: Segment, wide: Segment) -> int:
    """Complex numbers in half a spectrum, column by column."""
    return (wide.size // 2 + 1) * high.size


def transform_weights(weights: NDArray[np.floating], high: Segment, wide: Segment) -> NDArray[np.complex128]:
    """conj(DFT(w)), scaled: (K, C, taps, taps) -> (K, C, columns, rows)."""
    spectrum = np.fft.rfft2(np.asarray(weights, np.float64), (high.size, wide.size))
    return np.asarray(np.conj(spectrum).swapaxes(-1, -2) / (2 * high.size * wide.size), np.complex128)


def roots(size: int) -> NDArray[np.float32]:
    """cos and -sin of 2 pi j / size, side by side: W^j of equation 3, each rounded once."""
    return np.array([(cos(2 * pi * j / size), -sin(2 * pi * j / size)) for j in range(size)], np.float32)
