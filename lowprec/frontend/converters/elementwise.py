"""Arithmetic, comparison, logic and bits, one element at a time.

Compiled integer division traps on a zero divisor and on the smallest integer over -1, and a shift by the width or
more is undefined in LLVM: integer division and shifts are therefore computed by functions of ours that cannot trap.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from tvm import relax, te, tirx, topi

from lowprec.frontend.converters.bounds import kind
from lowprec.frontend.converters.site import Converter, Expr, Site, constant

WIDTH = {"int8": 8, "int16": 16, "int32": 32, "int64": 64, "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}


def unary(operator: Callable[[Expr], Expr]) -> Converter:
    return lambda site: operator(site.input(0))


def binary(operator: Callable[[Expr, Expr], Expr]) -> Converter:
    """Two inputs that broadcast; before opset 7 the second one's place could be stated by an axis."""

    def convert(site: Site) -> Expr:
        if site.attribute("axis") is not None or site.attribute("broadcast") is not None:
            return operator(site.input(0), aligned(site))
        return operator(lifted(site, 0), lifted(site, 1))

    return convert


def lifted(site: Site, index: int) -> Expr:
    """The input; a run-time scalar beside a tensor gets an axis, so that kernels address every operand alike."""
    if site.rank(index) or site.known(index) is not None or not site.out().shape:
        return site.input(index)
    return site.emit(relax.op.reshape(site.input(index), (1,)))


def aligned(site: Site) -> Expr:
    """The second input of an opset 6 operator, its axes moved to where `axis` says."""
    behind = site.rank(0) - site.rank(1) - site.integer("axis", site.rank(0) - site.rank(1))
    shape = (*site.shape(1), *(1,) * behind)
    return site.emit(relax.op.reshape(site.input(1), shape)) if behind else site.input(1)


def many(operator: Callable[[Expr, Expr], Expr]) -> Converter:
    """Any number of inputs, folded from the left."""

    def convert(site: Site) -> Expr:
        first, *rest = [site.input(index) for index in range(len(site.node.inputs))]
        return reduce(lambda a, b: operator(site.emit(a) if isinstance(a, relax.Call) else a, b), rest, first)

    return convert


def convert_mean(site: Site) -> Expr:
    total = many(relax.op.add)(site)
    count = len(site.node.inputs)
    if count == 1:
        return site.input(0)
    return relax.op.multiply(site.emit(total), constant(1 / count, site.out().dtype))


def is_integer(site: Site, index: int = 0) -> bool:
    return site.dtype(index) in WIDTH


def broadcast(operator: Callable[[Any, Any], Any], name: str) -> Callable[[te.Tensor, te.Tensor], te.Tensor]:
    """A two-input computation over the common shape."""

    def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        shape = np.broadcast_shapes(tuple(int(n) for n in a.shape), tuple(int(n) for n in b.shape))
        left, right = topi.broadcast_to(a, shape), topi.broadcast_to(b, shape)
        return te.compute(shape, lambda *i: operator(left(*i), right(*i)), name=name)

    return compute


def divide_integers(a: Any, b: Any) -> Any:
    """Towards zero; x / 0 is 0 (ONNX leaves it open), the smallest over -1 wraps."""
    zero, one = tirx.const(0, kind(a)), tirx.const(1, kind(a))
    if kind(a).startswith("uint"):
        return tirx.Select(b == zero, zero, tirx.truncdiv(a, tirx.Select(b == zero, one, b)))
    safe = tirx.Select(tirx.any(b == zero, b == -one), one, b)
    return tirx.Select(b == zero, zero, tirx.Select(b == -one, zero - a, tirx.truncdiv(a, safe)))


def opposed(rest: Any, b: Any, zero: Any) -> Any:
    """Whether a remainder has the other sign than its divisor."""
    return tirx.any(tirx.all(rest < zero, b > zero), tirx.all(rest > zero, b < zero))


def remainder_integers(a: Any, b: Any, *, floored: bool) -> Any:
    """The sign of the divisor (floored) or of the dividend; x mod 0 is 0."""
    zero, one = tirx.const(0, kind(a)), tirx.const(1, kind(a))
    risky = (b == zero) if kind(a).startswith("uint") else tirx.any(b == zero, b == -one)
    rest = tirx.truncmod(a, tirx.Select(risky, one, b))
    if floored and not kind(a).startswith("uint"):
        rest = tirx.Select(opposed(rest, b, zero), rest + b, rest)
    return tirx.Select(risky, zero, rest)


def convert_divide(site: Site) -> Expr:
    if not is_integer(site):
        return binary(relax.op.divide)(site)
    return site.te(broadcast(divide_integers, "divide"), site.input(0), site.input(1))


def remainder_floats(site: Site, left: Expr, right: Expr, *, floored: bool) -> Expr:
    """C's fmod, moved to the divisor's sign where the remainder has the other."""
    rest = relax.op.mod(left, right)
    if not floored:
        return rest
    rest = site.emit(rest)
    zero = constant(0, str(rest.ty.dtype))
    crossed = site.emit(relax.op.less(site.emit(relax.op.multiply(rest, right)), zero))
    return relax.op.where(crossed, site.emit(relax.op.add(rest, right)), rest)


def convert_modulo(site: Site) -> Expr:
    floored = site.integer("fmod", 0) == 0
    if is_integer(site):
        compute = broadcast(lambda a, b: remainder_integers(a, b, floored=floored), "modulo")
        return site.te(compute, site.input(0), site.input(1))
    return remainder_floats(site, site.input(0), site.input(1), floored=floored)


def convert_shift(site: Site) -> Expr:
    """Shifts by the width or more, or by a negative number, give 0, or the sign of a signed number shifted right."""
    width = WIDTH[site.dtype()]
    to_left = site.text("direction", "") == "LEFT"

    def shift(a: Any, b: Any) -> Any:
        too_far = b >= tirx.const(width, kind(b))
        if not kind(b).startswith("uint"):
            too_far = tirx.any(too_far, b < tirx.const(0, kind(b)))
        amount = tirx.Select(too_far, tirx.const(width - 1, kind(b)), b)
        zero = tirx.const(0, kind(a))
        if to_left:
            return tirx.Select(too_far, zero, a << amount)
        shifted = a >> amount
        return tirx.Select(too_far, zero, shifted) if kind(a).startswith("uint") else shifted

    return site.te(broadcast(shift, "shift"), site.input(0), site.input(1))


def small_power(site: Site, exponent: float) -> Expr | None:
    """Powers that are multiplications or roots."""
    data = site.input(0)
    if exponent == 1:
        return data
    if exponent == 2:
        return relax.op.multiply(data, data)
    if exponent == 3:
        return relax.op.multiply(site.emit(relax.op.multiply(data, data)), data)
    if exponent == 0.5 and not is_integer(site):
        return relax.op.sqrt(data)
    if exponent == -1 and not is_integer(site):
        return relax.op.divide(constant(1, site.dtype()), data)
    return None


def convert_power(site: Site) -> Expr:
    """In the base's type; integers through double."""
    known = site.known(1)
    if known is not None and known.size == 1 and known.ndim <= site.rank():
        simple = small_power(site, float(known.reshape(-1)[0]))
        if simple is not None and simple is not site.input(0):
            return simple
    base_type = site.dtype()
    wide = "float64" if is_integer(site) or (is_integer(site, 1) and WIDTH[site.dtype(1)] > 32) else base_type
    base, exponent = (
        site.input(i) if site.dtype(i) == wide else site.emit(relax.op.astype(site.input(i), wide)) for i in range(2)
    )
    result = relax.op.power(base, exponent)
    return result if wide == base_type else relax.op.astype(site.emit(result), base_type)


def half_exponentials(site: Site) -> tuple[Expr, Expr]:
    """exp(x - ln 2) and exp(-x - ln 2): halved before they can overflow."""
    half = constant(math.log(2), site.dtype())
    mirrored = site.emit(relax.op.negative(site.input(0)))
    up, down = (site.emit(relax.op.subtract(value, half)) for value in (site.input(0), mirrored))
    return site.emit(relax.op.exp(up)), site.emit(relax.op.exp(down))


def convert_cosh(site: Site) -> Expr:
    return relax.op.add(*half_exponentials(site))


def convert_sinh(site: Site) -> Expr:
    """The difference of exponentials; within 1 of zero, where it would cancel, the series to x^15."""
    data, one = site.input(0), constant(1, site.dtype())
    square = site.emit(relax.op.multiply(data, data))
    series = one
    for k in range(7, 0, -1):
        step = site.emit(relax.op.multiply(square, constant(1 / (2 * k * (2 * k + 1)), site.dtype())))
        series = site.emit(relax.op.add(one, site.emit(relax.op.multiply(step, series))))
    near = site.emit(relax.op.less(square, one))
    far = site.emit(relax.op.subtract(*half_exponentials(site)))
    return relax.op.where(near, site.emit(relax.op.multiply(data, series)), far)


def convert_reciprocal(site: Site) -> Expr:
    return relax.op.divide(constant(1, site.dtype()), site.input(0))


def convert_is_infinite(site: Site) -> Expr:
    positive, negative = site.integer("detect_positive", 1), site.integer("detect_negative", 1)
    if positive and negative:
        return relax.op.isinf(site.input(0))
    if not positive and not negative:
        return constant(np.zeros(site.shape()), "bool")
    return relax.op.equal(site.input(0), constant(np.inf if positive else -np.inf, site.dtype()))


def convert_sign(site: Site) -> Expr:
    return relax.op.sign(site.input(0))


CONVERTERS: dict[str, Converter] = {
    "Abs": unary(relax.op.abs),
    "Acos": unary(relax.op.acos),
    "Acosh": unary(relax.op.acosh),
    "Add": binary(relax.op.add),
    "And": binary(relax.op.logical_and),
    "Asin": unary(relax.op.asin),
    "Asinh": unary(relax.op.asinh),
    "Atan": unary(relax.op.atan),
    "Atanh": unary(relax.op.atanh),
    "BitShift": convert_shift,
    "BitwiseAnd": binary(relax.op.bitwise_and),
    "BitwiseNot": unary(relax.op.bitwise_not),
    "BitwiseOr": binary(relax.op.bitwise_or),
    "BitwiseXor": binary(relax.op.bitwise_xor),
    "Ceil": unary(relax.op.ceil),
    "Cos": unary(relax.op.cos),
    "Cosh": convert_cosh,
    "Div": convert_divide,
    "Equal": binary(relax.op.equal),
    "Erf": unary(relax.op.erf),
    "Exp": unary(relax.op.exp),
    "Floor": unary(relax.op.floor),
    "Greater": binary(relax.op.greater),
    "GreaterOrEqual": binary(relax.op.greater_equal),
    "IsInf": convert_is_infinite,
    "IsNaN": unary(relax.op.isnan),
    "Less": binary(relax.op.less),
    "LessOrEqual": binary(relax.op.less_equal),
    "Log": unary(relax.op.log),
    "Max": many(relax.op.maximum),
    "Mean": convert_mean,
    "Min": many(relax.op.minimum),
    "Mod": convert_modulo,
    "Mul": binary(relax.op.multiply),
    "Neg": unary(relax.op.negative),
    "Not": unary(relax.op.logical_not),
    "Or": binary(relax.op.logical_or),
    "Pow": convert_power,
    "Reciprocal": convert_reciprocal,
    "Round": unary(relax.op.round),
    "Sign": convert_sign,
    "Sin": unary(relax.op.sin),
    "Sinh": convert_sinh,
    "Sqrt": unary(relax.op.sqrt),
    "Sub": binary(relax.op.subtract),
    "Sum": many(relax.op.add),
    "Tan": unary(relax.op.tan),
    "Xor": binary(relax.op.logical_xor),
}
