"""Winograd's minimal filtering F(m, r): m outputs of an r-tap correlation by m + r - 1 multiplications.

Along one axis, with g the taps, d the m + r - 1 inputs that the outputs see, and o the elementwise product:

    y = A^T ((G g) o (B^T d))                                                               (1)

Cook and Toom's construction: two polynomials are multiplied by their values at m + r - 2 points and at infinity, and
(1) is that algorithm transposed. With N_j the product of (p_j - p_l) over l != j:

    A^T[i, j] = p_j^i        G[j, k] = p_j^k / N_j        B^T[j] = coefficients of prod over l != j of (x - p_l)  (2)

and for infinity: A^T[i, inf] = 1 at i = m - 1, G[inf, k] = 1 at k = r - 1, B^T[inf] = coefficients of prod (x - p_l).
In two dimensions (1) is applied along each axis; sums over input channels are taken between the transforms.

The matrices are exact. How much rounding errors of the middle grow, for inputs and taps drawn alike and independently,
is the root mean square over outputs of the products' sizes, over that of the result (Barabasz 2018 bounds the same
product of norms):

    kappa^2 = mean over i of  sum over j of  A^T[i, j]^2 |B^T[j]|^2 |G[j]|^2  /  r                                (3)

`POINTS` are those of least kappa among small dyadic numbers: constants made of them are exact in float32.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

Row = tuple[Fraction, ...]
Matrix = tuple[Row, ...]

HALF, THREE_QUARTERS, ONE, FIVE_QUARTERS = Fraction(1, 2), Fraction(3, 4), Fraction(1), Fraction(5, 4)
TWO, THREE, THREE_HALVES = Fraction(2), Fraction(3), Fraction(3, 2)

POINTS: dict[int, Row] = {
    0: (),
    1: (Fraction(0),),
    2: (Fraction(0), ONE),
    3: (Fraction(0), ONE, -ONE),
    4: (Fraction(0), THREE_QUARTERS, -THREE_QUARTERS, TWO),
    5: (Fraction(0), THREE_QUARTERS, -THREE_QUARTERS, THREE_HALVES, -THREE_HALVES),
    6: (Fraction(0), HALF, -HALF, ONE, -ONE, THREE),
    7: (Fraction(0), HALF, -HALF, ONE, -ONE, TWO, -TWO),
    9: (Fraction(0), HALF, -HALF, THREE_QUARTERS, -THREE_QUARTERS, FIVE_QUARTERS, -FIVE_QUARTERS, THREE, -THREE),
}
"""Finite points by their number, those of opposite sign side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtering:
    """F(outputs, taps) along one axis. With one tap it is nothing: as many products as outputs."""

    outputs: int
    taps: int

    def __post_init__(self) -> None:
        if min(self.outputs, self.taps) < 1 or (self.taps > 1 and self.inputs - 1 not in POINTS):
            raise ValueError(f"{self} has no points")

    @property
    def inputs(self) -> int:
        """Inputs that the outputs see, and products."""
        return self.outputs + self.taps - 1

    @property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix]:
        """A^T, G and B^T."""
        return _identities(self.outputs) if self.taps == 1 else cook_toom(self.outputs, self.taps)

    @property
    def growth(self) -> float:
        """Equation 3."""
        return sqrt(float(np.mean(self.spread(self.taps))) / self.taps)

    def spread(self, taps: int) -> NDArray[np.float64]:
        """The sum of equation 3 for each output, where taps beyond some and the inputs that they see are zero."""
        outward, forward, inward = map(as_floats, self.matrices)
        sizes = np.square(inward[:, : self.outputs + taps - 1]).sum(axis=1) * np.square(forward[:, :taps]).sum(axis=1)
        found: NDArray[np.float64] = np.square(outward) @ sizes
        return found


def _identities(extent: int) -> tuple[Matrix, Matrix, Matrix]:
    identity = tuple(tuple(Fraction(int(i == j)) for j in range(extent)) for i in range(extent))
    return identity, ((ONE,),) * extent, identity


@cache
def cook_toom(outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Equation 2: A^T, G and B^T."""
    points = POINTS[outputs + taps - 2]
    others = [[other for other in points if other != point] for point in points]
    scales = [prod((point - other for other in rest), start=ONE) for point, rest in zip(points, others, strict=True)]
    outward = [(*(point**i for point in points), Fraction(int(i == outputs - 1))) for i in range(outputs)]
    forward = [tuple(point**k / scale for k in range(taps)) for point, scale in zip(points, scales, strict=True)]
    inward = [(*_with_roots(rest), Fraction(0)) for rest in others]
    last_tap = tuple(Fraction(int(k == taps - 1)) for k in range(taps))
    return tuple(outward), (*forward, last_tap), (*inward, _with_roots(points))


def _with_roots(roots: Row | list[Fraction]) -> Row:
    """Coefficients of the product of (x - root), the constant first."""
    coefficients: Row = (ONE,)
    for root in roots:
        shifted, scaled = (Fraction(0), *coefficients), (*coefficients, Fraction(0))
        coefficients = tuple(a - root * b for a, b in zip(shifted, scaled, strict=True))
    return coefficients


def as_floats(matrix: Matrix) -> NDArray[np.float64]:
    return np.array([[float(entry) for entry in row] for row in matrix])


def transform_weights(weights: NDArray[np.floating], axes: tuple[Filtering, ...]) -> NDArray[np.float64]:
    """G g along each of the last axes: (K, C, taps...) -> (K, C, inputs...), in float64."""
    result = np.asarray(weights, np.float64)
    for place, axis in enumerate(axes):
        _, forward, _ = axis.matrices
        along = weights.ndim - len(axes) + place
        result = np.moveaxis(np.tensordot(as_floats(forward), result, (1, along)), 0, along)
    return result
