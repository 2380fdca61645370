"""Winograd's matrices: the identity holds exactly, constants are float32's, and growth is what equation 3 says."""

import itertools
from fractions import Fraction
from math import sqrt

import numpy as np
import pytest

from lowprec.winograd import POINTS, Filtering, Matrix, Row, cook_toom, transform_weights

SIZES = [(m, r) for m in range(1, 9) for r in range(1, 8) if r == 1 or m + r - 2 in POINTS]
TILES = (2, 3, 4, 6)


def unit(extent: int, place: int) -> Row:
    return tuple(Fraction(int(i == place)) for i in range(extent))


def times(matrix: Matrix, vector: Row) -> Row:
    return tuple(sum((a * b for a, b in zip(row, vector, strict=True)), start=Fraction(0)) for row in matrix)


def filtered(matrices: tuple[Matrix, Matrix, Matrix], taps: Row, inputs: Row) -> Row:
    """Equation 1."""
    outward, forward, inward = matrices
    products = (g * d for g, d in zip(times(forward, taps), times(inward, inputs), strict=True))
    return times(outward, tuple(products))


def correlated(taps: Row, inputs: Row) -> Row:
    """What equation 1 should give."""
    outputs = range(len(inputs) - len(taps) + 1)
    return tuple(sum((tap * inputs[i + k] for k, tap in enumerate(taps)), start=Fraction(0)) for i in outputs)


def holds(matrices: tuple[Matrix, Matrix, Matrix], outputs: int, taps: int) -> bool:
    """Whether equation 1 is an identity: both sides are bilinear, so unit vectors decide it."""
    inputs = outputs + taps - 1
    pairs = itertools.product((unit(taps, k) for k in range(taps)), (unit(inputs, i) for i in range(inputs)))
    return all(filtered(matrices, g, d) == correlated(g, d) for g, d in pairs)


def test_every_number_of_points_is_used() -> None:
    """Two sizes share a number of points; together they use every one."""
    assert {m + r - 2 for m, r in SIZES if r > 1} == {count for count in POINTS if count}
    assert all(len(points) == len(set(points)) == count for count, points in POINTS.items())


@pytest.mark.parametrize(("outputs", "taps"), SIZES)
def test_the_identity_is_exact(outputs: int, taps: int) -> None:
    assert holds(Filtering(outputs=outputs, taps=taps).matrices, outputs, taps)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["A^T", "G", "B^T"])
@pytest.mark.parametrize(("outputs", "taps"), [(2, 3), (4, 3), (6, 3), (3, 5), (4, 1)])
def test_any_wrong_constant_breaks_it(outputs: int, taps: int, which: int) -> None:
    matrices = Filtering(outputs=outputs, taps=taps).matrices
    for i, j in itertools.product(range(len(matrices[which])), range(len(matrices[which][0]))):
        spoilt = [[list(row) for row in matrix] for matrix in matrices]
        spoilt[which][i][j] += Fraction(1, 64)
        outward, forward, inward = (tuple(map(tuple, matrix)) for matrix in spoilt)
        assert not holds((outward, forward, inward), outputs, taps), (i, j)


@pytest.mark.parametrize(("outputs", "taps"), SIZES)
def test_the_kernels_constants_are_exact_in_float32(outputs: int, taps: int) -> None:
    """G alone is rounded, as a part of the weights."""
    outward, _, inward = Filtering(outputs=outputs, taps=taps).matrices
    entries = [entry for matrix in (outward, inward) for row in matrix for entry in row]
    assert all(Fraction(float(np.float32(float(entry)))) == entry for entry in entries)


def test_the_points_of_a_pair_are_neighbours() -> None:
    """What `lowprec.schedules.linear` finds pairs by."""
    for points in POINTS.values():
        for point in points:
            if point and -point in points:
                assert abs(points.index(point) - points.index(-point)) == 1


def test_growth_of_the_smallest_by_hand() -> None:
    """F(2, 3): |B^T[j]|^2 |G[j]|^2 is 2, 3/2, 3/2, 2 at 0, 1, -1, infinity; an output adds three of them, over 3."""
    assert Filtering(outputs=2, taps=3).growth == pytest.approx(sqrt(5 / 3), rel=1e-14)


@pytest.mark.parametrize("taps", [2, 3])
def test_growth_grows_with_the_tile(taps: int) -> None:
    """From 2 outputs of 2 taps to 3 alone it does not: two points of opposite sign cost less than one."""
    tiles = TILES if taps == 3 else TILES[1:]
    growths = [Filtering(outputs=outputs, taps=taps).growth for outputs in tiles]
    assert growths == sorted(set(growths))


def test_one_tap_is_no_transform() -> None:
    axis = Filtering(outputs=5, taps=1)
    assert (axis.inputs, axis.growth) == (5, 1.0)


def test_points_are_of_the_least_growth_among_neighbours() -> None:
    """F(4, 3): 3/4 and 2 are better than the usual 1 and 2 with their negatives."""
    usual = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2))
    ours = Filtering(outputs=4, taps=3).growth
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(POINTS, 5, usual)
        cook_toom.cache_clear()
        theirs = Filtering(outputs=4, taps=3).growth
    cook_toom.cache_clear()
    assert ours < theirs
    assert Filtering(outputs=4, taps=3).growth == ours


def drawn(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Small whole numbers, whose transforms are exact in float64 up to G's own rounding."""
    return np.random.default_rng(3).integers(-8, 9, shape).astype(np.float32)


@pytest.mark.parametrize(("outputs", "taps"), [(2, 3), (4, 3), (6, 3), (3, 5), (5, 1)])
def test_weights_of_one_axis_are_transformed_as_fractions_are(outputs: int, taps: int) -> None:
    axis = Filtering(outputs=outputs, taps=taps)
    weights = drawn(2, 3, taps)
    found = transform_weights(weights, (axis,))
    assert found.shape == (2, 3, axis.inputs)
    for place in np.ndindex(2, 3):
        exact = times(axis.matrices[1], tuple(map(Fraction, weights[place].tolist())))
        assert np.allclose(found[place], list(map(float, exact)), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("high", "wide"), [((2, 3), (2, 3)), ((4, 3), (6, 2)), ((3, 1), (4, 3)), ((2, 5), (5, 1))])
def test_weights_of_two_axes_are_transformed_as_fractions_are(high: tuple[int, int], wide: tuple[int, int]) -> None:
    rows, columns = (Filtering(outputs=outputs, taps=taps) for outputs, taps in (high, wide))
    weights = drawn(2, 3, rows.taps, columns.taps)
    found = transform_weights(weights, (rows, columns))
    assert found.shape == (2, 3, rows.inputs, columns.inputs)
    for place in np.ndindex(2, 3):
        taps = [tuple(map(Fraction, row)) for row in weights[place].tolist()]
        along = [times(columns.matrices[1], row) for row in taps]
        across = [times(rows.matrices[1], column) for column in zip(*along, strict=True)]
        exact = np.array([[float(entry) for entry in column] for column in across]).T
        assert np.allclose(found[place], exact, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("outputs", "taps"), [(0, 3), (2, 0), (7, 3), (8, 7), (3, 7), (-1, 1)])
def test_sizes_without_points_are_refused(outputs: int, taps: int) -> None:
    with pytest.raises(ValueError, match="has no points"):
        Filtering(outputs=outputs, taps=taps)
