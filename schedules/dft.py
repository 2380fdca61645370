"""Discrete Fourier transforms of complex vectors in registers, written out, and of whole lines in two passes.

Lanes are independent: each is a channel, so nothing is ever shuffled. An inverse transform is a forward one with real
and imaginary parts exchanged before and after.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi, sin, sqrt
from typing import TypeAlias

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.fourier import FACTORS, radix_of
from lowprec.schedules.views import Index, load, splat, store

Complex: TypeAlias = tuple[ir.Expr, ir.Expr]

EXACT = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of `size` complex vectors: `read(n)` and `write(k, value)`; `work` has room for it between the passes."""

    size: int
    read: Callable[[Index, int], Complex]
    """Of n = N2 * n1 + n2 as n and n1, which is known."""
    write: Callable[[Index, Complex], None]
    work: tirx.Buffer
    table: Callable[[Index], Complex]
    """W^j, in every lane."""
    lanes: int
    apart: int
    """Elements from one vector in `work` to the next."""


def transform_line(line: Line) -> None:
    """Equation 3 of `lowprec.fourier`."""
    first, second = FACTORS[line.size]
    lanes, apart = line.lanes, line.apart
    with T.serial(0, second) as n2:
        values = dft([line.read(n1 * second + n2, n1) for n1 in range(first)], lanes)
        for k1, value in enumerate(values):
            turned = value if k1 == 0 else times(value, line.table(n2 * k1))
            place = (k1 * second + n2) * (2 * apart)
            store(line.work, place, turned[0], lanes)
            store(line.work, place + apart, turned[1], lanes)
    with T.serial(0, first) as k1:
        places = [(k1 * second + n2) * (2 * apart) for n2 in range(second)]
        values = [(T.bind(load(line.work, p, lanes)), T.bind(load(line.work, p + apart, lanes))) for p in places]
        for k2, value in enumerate(dft(values, lanes)):
            line.write(k1 + first * k2, value)


def dft(values: Sequence[Complex], lanes: int) -> list[Complex]:
    """The transform of a few values: by its smallest factors, fours first."""
    count = len(values)
    if count == 1:
        return list(values)
    radix = radix_of(count)
    parts = [dft(values[residue::radix], lanes) for residue in range(radix)]
    rest = count // radix
    results: list[Complex] = [values[0]] * count
    for k in range(rest):
        turned = [_turned(part[k], residue * k, count, lanes) for residue, part in enumerate(parts)]
        for j, value in enumerate(_BUTTERFLIES[radix](turned, lanes)):
            results[k + rest * j] = value
    return results


def times(value: Complex, factor: Complex) -> Complex:
    """A product of complex vectors."""
    (a, b), (c, d) = value, factor
    return T.bind(a * c - b * d), T.bind(a * d + b * c)


def _plus(left: Complex, right: Complex) -> Complex:
    return T.bind(left[0] + right[0]), T.bind(left[1] + right[1])


def _minus(left: Complex, right: Complex) -> Complex:
    return T.bind(left[0] - right[0]), T.bind(left[1] - right[1])


def _minus_i(value: Complex) -> Complex:
    """Times -i; the sign is left to who adds it."""
    return value[1], T.bind(-value[0])


def _constant(factor: float, lanes: int) -> ir.Expr:
    return splat(tirx.const(factor, "float32"), lanes)


def _turned(value: Complex, j: int, count: int, lanes: int) -> Complex:
    """Times W_count^j."""
    c, s = cos(2 * pi * j / count), -sin(2 * pi * j / count)
    a, b = value
    if j == 0:
        return value
    if abs(c) < EXACT:
        return _minus_i(value) if s < 0 else (T.bind(-b), a)
    if abs(abs(c) - abs(s)) < EXACT:
        root = _constant(sqrt(0.5), lanes)
        total, difference = T.bind((a + b) * root), T.bind((b - a) * root)
        return (total, difference) if c > 0 else (difference, T.bind(-total))
    return times(value, (_constant(c, lanes), _constant(s, lanes)))


def _two(values: list[Complex], lanes: int) -> list[Complex]:
    a, b = values
    return [_plus(a, b), _minus(a, b)]


def _three(values: list[Complex], lanes: int) -> list[Complex]:
    a, b, c = values
    total, (d_re, d_im) = _plus(b, c), _minus(b, c)
    half, height = _constant(0.5, lanes), _constant(sqrt(0.75), lanes)
    re, im = T.bind(a[0] - total[0] * half), T.bind(a[1] - total[1] * half)
    up = T.bind(re + d_im * height), T.bind(im - d_re * height)
    down = T.bind(re - d_im * height), T.bind(im + d_re * height)
    return [_plus(a, total), up, down]


def _four(values: list[Complex], lanes: int) -> list[Complex]:
    a, b, c, d = values
    even, odd = (_plus(a, c), _minus(a, c)), (_plus(b, d), _minus(b, d))
    (re, im), (other_re, other_im) = even[1], odd[1]
    first = T.bind(re + other_im), T.bind(im - other_re)
    third = T.bind(re - other_im), T.bind(im + other_re)
    return [_plus(even[0], odd[0]), first, _minus(even[0], odd[0]), third]


def _five(values: list[Complex], lanes: int) -> list[Complex]:
    a, b, c, d, e = values
    outer, inner = (_plus(b, e), _minus(b, e)), (_plus(c, d), _minus(c, d))
    results = [_plus(a, _plus(outer[0], inner[0]))]
    pairs: list[tuple[Complex, Complex]] = []
    for j in (1, 2):
        c1, s1, c2, s2 = (f(2 * pi * j * k / 5) for k in (1, 2) for f in (cos, sin))
        even = [T.bind(a[i] + outer[0][i] * _constant(c1, lanes) + inner[0][i] * _constant(c2, lanes)) for i in (0, 1)]
        odd = [T.bind(outer[1][i] * _constant(s1, lanes) + inner[1][i] * _constant(s2, lanes)) for i in (0, 1)]
        up = T.bind(even[0] + odd[1]), T.bind(even[1] - odd[0])
        down = T.bind(even[0] - odd[1]), T.bind(even[1] + odd[0])
        pairs.append((up, down))
    (first, fourth), (second, third) = pairs
    return [*results, first, second, third, fourth]


_BUTTERFLIES = {2: _two, 3: _three, 4: _four, 5: _five}
