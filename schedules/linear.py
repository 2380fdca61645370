"""A constant matrix times vectors in registers, in few instructions: what fast transforms are made of.

Symmetric points make most rows and columns come in pairs that differ in signs alone. Of such a pair

    a + b and a - b        are computed from a and b, once each.

The rest are chains of multiply-adds; a zero costs nothing, a one a multiplication less.
"""

from collections.abc import Sequence
from fractions import Fraction

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.views import splat, zeros

Row = Sequence[Fraction]
Term = tuple[Fraction, ir.Expr]


def apply(matrix: Sequence[Row], values: Sequence[ir.Expr], lanes: int) -> list[ir.Expr]:
    """matrix @ values, each of `lanes` float32."""
    pair = next((j for j in range(len(values) - 1) if _mirrored_columns(matrix, j)), None)
    if pair is not None:
        left, right = values[pair], values[pair + 1]
        together = [T.bind(left + right), T.bind(left - right)]
        return apply([_joined(row, pair) for row in matrix], [*values[:pair], *together, *values[pair + 2 :]], lanes)
    results: list[ir.Expr] = []
    while len(results) < len(matrix):
        row, *below = matrix[len(results) :]
        if below and _mirrored(row, below[0]):
            results += _sum_and_difference(row, below[0], values, lanes)
        else:
            results.append(_combined(_terms(row, values), lanes))
    return results


def _mirrored_columns(matrix: Sequence[Row], j: int) -> bool:
    """Whether columns j and j + 1 differ in signs alone, and in some."""
    pairs = [(row[j], row[j + 1]) for row in matrix]
    return all(abs(a) == abs(b) for a, b in pairs) and {a == b for a, b in pairs if a} == {True, False}


def _joined(row: Row, j: int) -> Row:
    """The row for the columns' sum and difference."""
    a, b = row[j], row[j + 1]
    zero = Fraction(0)
    return (*row[:j], a if a == b else zero, zero if a == b else a, *row[j + 2 :])


def _mirrored(row: Row, below: Row) -> bool:
    pairs = list(zip(row, below, strict=True))
    both = {a == b for a, b in pairs if a}
    return all(abs(a) == abs(b) for a, b in pairs) and both == {True, False} and sum(map(bool, row)) > 2


def _sum_and_difference(row: Row, below: Row, values: Sequence[ir.Expr], lanes: int) -> list[ir.Expr]:
    terms = list(zip(row, below, values, strict=True))
    same = _combined([(a, value) for a, b, value in terms if a and a == b], lanes)
    opposite = _combined([(a, value) for a, b, value in terms if a and a != b], lanes)
    return [T.bind(same + opposite), T.bind(same - opposite)]


def _terms(row: Row, values: Sequence[ir.Expr]) -> list[Term]:
    return [(factor, value) for factor, value in zip(row, values, strict=True) if factor]


def _combined(terms: list[Term], lanes: int) -> ir.Expr:
    """The sum of the terms; those with a factor of one begin it."""
    if not terms:
        return zeros(lanes)
    (factor, total), *rest = sorted(terms, key=lambda term: (term[0] != 1, abs(term[0]) != 1))
    if factor != 1:
        total = total * _constant(factor, lanes)
    for factor, value in rest:
        if abs(factor) == 1:
            total = total + value if factor > 0 else total - value
        elif factor > 0:
            total = total + value * _constant(factor, lanes)
        else:
            total = total - value * _constant(-factor, lanes)
    return T.bind(total)


def _constant(factor: Fraction, lanes: int) -> ir.Expr:
    return splat(tirx.const(float(factor), "float32"), lanes)
