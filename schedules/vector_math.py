"""Transcendental functions as plain arithmetic, so that LLVM keeps them in vector registers.

LLVM turns a vector of expf calls into sixteen calls, about fifty times slower than the arithmetic below. Every function
takes a float32 expression of any lane count and returns one of the same type. Errors (asserted by the tests against
float64): exp, log and erf at most 2 ulp, sigmoid 3, tanh 4, with or without fused multiply-add. NaN comes out as NaN,
infinities and signed zeros as in C. Results below 2^-126 may lose bits, and sigmoid gives 0 below about -88.7.

Select, and not max or min, does the clamping: a false comparison must let a NaN through.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr, PrimType
from tvm.tirx import BufferStore, PrimFunc, Stmt

from lowprec.schedules.affine import uses

LOG2_E = 1.4426950408889634
# ln 2 split so that the product of the first part with any exponent is exact (Cody and Waite).
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
# Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the float's pattern.
ROUNDER, ROUNDER_BITS = 12582912.0, 0x4B400000
BRANCH = "prim.if_then_else"
ROOT_BITS = 0x4F584000
"""Less a quarter of x's pattern: the pattern of what is within 3.2 % of x^(-1/4)."""
ONE_BITS, SIGN_BIT = 0x3F800000, -0x80000000


class Bindings:
    """Names for floats used more than once: expressions are trees, so an unnamed one is computed at each use.

    Integers stay unnamed, for LLVM to compute once: TVM bounds every integer on its own, and fails where a Cast to an
    integer around it all has shown it a name's bound before ("conflicts with memorization").
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[tirx.Var, Expr]] = []

    def __call__(self, value: Expr) -> Expr:
        if not str(value.ty).startswith("float32"):
            return value
        var = tirx.Var(f"t{len(self._pairs)}", value.ty)
        self._pairs.append((var, value))
        return var

    def close(self, result: Expr) -> Expr:
        for var, value in reversed(self._pairs):
            result = tirx.Let(var, value, result)
        return result


def lanes_of(x: Expr) -> int:
    return int(x.ty.dtype.lanes)


def _typed(kind: str, x: Expr) -> PrimType:
    lanes = lanes_of(x)
    return PrimType(kind if lanes == 1 else f"{kind}x{lanes}")


def _splat(value: Expr, x: Expr) -> Expr:
    lanes = lanes_of(x)
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def constant(value: float, x: Expr) -> Expr:
    """`value` as float32, in as many lanes as `x` has."""
    return _splat(tirx.const(value, "float32"), x)


def _int(value: int, x: Expr) -> Expr:
    return _splat(tirx.const(value, "int32"), x)


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret(_typed("int32", x), x)


def _from_bits(x: Expr) -> Expr:
    return tirx.reinterpret(_typed("float32", x), x)


def _horner(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """coefficients[0] * x^n + ... + coefficients[n]"""
    result = constant(coefficients[0], x)
    for coefficient in coefficients[1:]:
        result = result * x + constant(coefficient, x)
    return result


def _check(x: Expr) -> None:
    if not str(x.ty).startswith("float32"):
        raise TypeError(f"vector math on {x.ty}: only float32 is supported, scalar or vector")


def exp(x: Expr) -> Expr:
    """2^n * e^r with n = round(x / ln 2); e^r by Cephes' polynomial on |r| <= ln(2) / 2.

    The scale is applied in two steps, so that 2^n may overflow or be subnormal where the result just is not.
    """
    _check(x)
    let = Bindings()
    x = let(x)
    high = let(tirx.Select(x > constant(89.0, x), constant(89.0, x), x))
    y = let(tirx.Select(high < constant(-104.0, x), constant(-104.0, x), high))
    shifted = let(y * constant(LOG2_E, x) + constant(ROUNDER, x))
    n = let(shifted - constant(ROUNDER, x))
    r = let(y - n * constant(LN2_HIGH, x) - n * constant(LN2_LOW, x))
    tail = _horner(r, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5))
    e_r = tail * (r * r) + r + constant(1.0, x)
    power = let(_bits(shifted) - _int(ROUNDER_BITS, x))
    half = let(power >> _int(1, x))
    first = _from_bits((half << _int(23, x)) + _int(ONE_BITS, x))
    second = _from_bits(((power - half) << _int(23, x)) + _int(ONE_BITS, x))
    return let.close(e_r * first * second)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x); exp overflows to infinity, whose reciprocal is the right 0."""
    _check(x)
    one = constant(1.0, x)
    return one / (one + exp(constant(0.0, x) - x))


def tanh(x: Expr) -> Expr:
    """Cephes: an odd polynomial below 0.625, else 1 - 2 / (e^2|x| + 1) with x's sign."""
    _check(x)
    let = Bindings()
    x = let(x)
    pattern = let(_bits(x))
    magnitude = let(_from_bits(pattern & _int(0x7FFFFFFF, x)))
    square = let(x * x)
    odd = _horner(square, (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1))
    big = constant(1.0, x) - constant(2.0, x) / (exp(magnitude + magnitude) + constant(1.0, x))
    small = odd * square * magnitude + magnitude
    result = tirx.Select(magnitude < constant(0.625, x), small, big)
    return let.close(_from_bits(_bits(result) | (pattern & _int(SIGN_BIT, x))))


def erf(x: Expr) -> Expr:
    """Two minimax polynomials after N. Juffa: x + x P(x^2) below 475/512, else 1 - exp(Q(|x|)) with x's sign."""
    _check(x)
    let = Bindings()
    x = let(x)
    pattern = let(_bits(x))
    t = let(_from_bits(pattern & _int(0x7FFFFFFF, x)))
    s = let(x * x)
    small = _horner(s, (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1))
    upper = _horner(t, (-1.72853470e-5, 3.83197126e-4)) * s + _horner(t, (-3.88396438e-3, 2.42546219e-2))
    exponent = upper * t - constant(1.06777877e-1, x)
    exponent = exponent * t - constant(6.34846687e-1, x)
    exponent = exponent * t - constant(1.28717512e-1, x)
    big = constant(1.0, x) - exp(exponent * t - t)
    signed = _from_bits(_bits(big) | (pattern & _int(SIGN_BIT, x)))
    return let.close(tirx.Select(t > constant(0.927734375, x), signed, small * x + x))


def log(x: Expr) -> Expr:
    """k ln 2 + log1p(m) with m in [-1/3, 1/3], polynomial after N. Juffa; subnormal arguments are scaled first."""
    _check(x)
    let = Bindings()
    x = let(x)
    tiny = x < constant(2.0**-126, x)  # no name: TVM's analyzer fails on a bound vector of booleans
    y = let(tirx.Select(tiny, x * constant(2.0**23, x), x))
    bits = let(_bits(y))
    scale = let((bits - _int(0x3F2AAAAB, x)) & _int(-0x800000, x))
    m = let(_from_bits(bits - scale) - constant(1.0, x))
    s = let(m * m)
    odd = _horner(s, (-0.130310059, -0.121483512, -0.166846126, -0.249996200))
    even = _horner(s, (0.140869141, 0.139814854, 0.200120345))
    r = let(even * m + odd)
    r = let((r * m + constant(0.333331972, x)) * m - constant(0.5, x))
    k = tirx.Select(tiny, constant(-23.0, x), constant(0.0, x))
    k = tirx.Cast(_typed("float32", x), scale) * constant(2.0**-23, x) + k
    result = let(k * constant(0.693147182, x) + (r * s + m))
    infinite = constant(float("inf"), x)
    result = tirx.Select(x < infinite, result, x)  # infinity and NaN answer themselves
    result = tirx.Select(x < constant(0.0, x), constant(float("nan"), x), result)
    return let.close(tirx.Select(tirx.EQ(x, constant(0.0, x)), constant(-float("inf"), x), result))


HELD = 2.0**24
"""Beyond it, every float32 is whole, and a quotient is wherever it is rounded."""


def quotient(x: Expr, divisor: np.float32, named: Callable[[Expr], Expr]) -> Expr:
    """x / divisor for a simple constant, to the last bit where rounding to an integer may see it (Markstein 1990).

    q = x * r, with r = 1 / divisor, is nearly right; the rest x - q * divisor is exact, so that q + rest * r is rounded
    right, unless all bits of the divisor's mantissa are ones. Beyond 2^24, where q might overflow, it is held.
    """
    bound = constant(HELD, x)
    return near_quotient(x, divisor, lambda near: named(tirx.min(tirx.max(near, -bound), bound)))


def near_quotient(x: Expr, divisor: np.float32, named: Callable[[Expr], Expr]) -> Expr:
    """The same where q is known not to overflow."""
    inverse = constant(float(np.float32(1) / divisor), x)
    near = named(x * inverse)
    rest = fma(-near, constant(float(divisor), x), x)
    return fma(rest, inverse, near)


def is_simple_divisor(divisor: np.float32) -> bool:
    """Whether it and its inverse are far from the ends of the range, and its mantissa has a zero."""
    mantissa = int(divisor.view(np.uint32)) & 0x7FFFFF
    return 2.0**-60 < abs(float(divisor)) < 2.0**60 and mantissa != 0x7FFFFF


def fma(x: Expr, y: Expr, z: Expr) -> Expr:
    """x * y + z, rounded once."""
    return tirx.call_intrin(x.ty, "tirx.fma", x, y, z)


def rounded_quotient(value: Expr, rounded: Callable[[Expr], Expr]) -> Expr:
    """rounded(x / constant) --> rounded(`quotient`); any other value is rounded as it is."""
    if not isinstance(value, tirx.Div) or not isinstance(value.b, tirx.FloatImm):
        return rounded(value)
    divisor = np.float32(value.b.value)
    if not is_simple_divisor(divisor):
        return rounded(value)
    let = Bindings()
    return let.close(rounded(quotient(let(value.a), divisor, let)))


def to_bfloat16(x: Expr) -> Expr:
    """The nearest bfloat16, as float32; ties go to even, and what lies beyond its range is infinite.

    Half a step is added to the pattern, less one where the last kept bit is even; the lower half is cut off.
    """
    _check(x)
    let = Bindings()
    x = let(x)
    pattern = _bits(x)
    half = _int(0x7FFF, x) + ((pattern >> _int(16, x)) & _int(1, x))
    is_nan = (pattern & _int(0x7FFFFFFF, x)) > _int(0x7F800000, x)
    moved = tirx.Select(is_nan, pattern | _int(0x400000, x), pattern + half)
    return let.close(_from_bits(moved & _int(-0x10000, x)))


def upper_half(x: Expr) -> Expr:
    """The upper half of a float32's pattern."""
    sixteen = tirx.Cast(_typed("uint32", x), _int(16, x))
    return tirx.Cast(_typed("uint16", x), tirx.reinterpret(_typed("uint32", x), x) >> sixteen)


def from_upper_half(half: Expr) -> Expr:
    """The float32 whose pattern has that upper half, and zeros below."""
    pattern = tirx.Cast(_typed("uint32", half), half) << tirx.Cast(_typed("uint32", half), _int(16, half))
    return tirx.reinterpret(_typed("float32", half), pattern)


def sign(x: Expr) -> Expr:
    """1 where x >= 0, else -1, which is the sign of what is no number: bytes."""
    kind = _typed("int8", x)
    one, other = (_splat(tirx.const(number, "int8"), x) for number in (1, -1))
    return tirx.Cast(kind, tirx.Select(x >= _splat(tirx.const(0.0, "float32"), x), one, other))


def to_float16(x: Expr) -> Expr:
    """The nearest float16, as float32."""
    return tirx.Cast(_typed("float32", x), tirx.Cast(_typed("float16", x), x))


def _three_quarters_below(x: Expr) -> Expr:
    """x^(-3/4), which LRN's beta is, without a root or a division: z near x^(-1/4) from its exponent, two steps of
    Newton's method, and a third for z^3.

    d = 1 - x z^4  -->  z + z d / 4;  z^3 + z^3 d 3 / 4
    """
    let = Bindings()
    x = let(x)
    small = x < constant(2.0**-126, x)
    scaled = let(tirx.Select(small, x * constant(2.0**24, x), x))
    z = let(_from_bits(_int(ROOT_BITS, x) - (_bits(scaled) >> _int(2, x))))
    for _ in range(2):
        square = let(z * z)
        z = let(z * (constant(1.25, x) - scaled * constant(0.25, x) * (square * square)))
    square = let(z * z)
    rest = let(constant(1.0, x) - scaled * (square * square))
    cube = let(square * z)
    power = let(cube + cube * (rest * constant(0.75, x)))
    power = let(tirx.Select(small, power * constant(2.0**18, x), power))
    infinite = tirx.Select(x < constant(0.0, x), constant(float("nan"), x), constant(float("inf"), x))
    power = let(tirx.Select(x <= constant(0.0, x), infinite, power))
    beyond = tirx.max(x, -x) >= constant(float("inf"), x)
    return let.close(tirx.Select(beyond, constant(0.0, x), power))


def _quarter_power(x: Expr, quarters: int) -> Expr:
    """x^(quarters / 4) by square roots and products."""
    if quarters == -3:
        return _three_quarters_below(x)
    let = Bindings()
    x = let(x)
    whole, rest = divmod(abs(quarters), 4)
    if rest:
        # -0 and -infinity have positive powers here, unlike their square roots.
        magnitude = tirx.Select(tirx.EQ(x, constant(-float("inf"), x)), constant(float("inf"), x), x)
        x = let(tirx.Select(tirx.EQ(x, constant(0.0, x)), constant(0.0, x), magnitude))
    root = let(tirx.sqrt(x)) if rest else x
    factors = [x] * whole + [root] * (rest >= 2) + [tirx.sqrt(root)] * (rest % 2)
    product = constant(1.0, x)
    for index, factor in enumerate(factors):
        product = let(factor if index == 0 else product * factor)
    return let.close(product if quarters > 0 else constant(1.0, x) / product)


def power(x: Expr, y: Expr) -> Expr:
    """x^y for a constant y in quarters from -1 to 4, in a few roundings; any other stays a call of C's powf.

    Below -1 the reciprocal's denominator may be subnormal where the result is not.
    """
    _check(x)
    exponent = y.value if isinstance(y, tirx.Broadcast) else y
    if not isinstance(exponent, tirx.FloatImm):
        return tirx.pow(x, y)
    quarters = 4 * float(exponent.value)
    if quarters not in (-4, -3, -2, -1, *range(1, 17)):
        return tirx.pow(x, y)
    return _quarter_power(x, int(quarters))


FUNCTIONS: Mapping[str, Callable[..., Expr]] = MappingProxyType(
    {
        "tirx.exp": exp,
        "tirx.erf": erf,
        "tirx.log": log,
        "tirx.pow": power,
        "tirx.sigmoid": sigmoid,
        "tirx.tanh": tanh,
    }
)


def with_vector_math(func: PrimFunc) -> PrimFunc:
    """T.exp(x) --> the arithmetic of `exp`, and so on, wherever the argument is float32."""
    body = tvm_ffi.structural_map(func.body, [(tirx.For, _unnest_vector), (BufferStore, _unnest_scalar)], order="pre")
    return func.with_body(tvm_ffi.structural_map(body, [(Call, _as_arithmetic)], order="post"))


def _is_function(call: Call) -> bool:
    return getattr(call.op, "name", "") in FUNCTIONS and str(call.ty).startswith("float32")


def _as_arithmetic(call: Call) -> Expr:
    return FUNCTIONS[call.op.name](*call.args) if _is_function(call) else call


def _unnest_vector(loop: tirx.For) -> Stmt:
    """for lane: y = tanh(log(x)) --> for lane: t = log(x); for lane: y = tanh(t).

    TVM's analyzer puts bound values back in place of their names, so the size of a function of a function is the
    product of their sizes: tanh(log(1 + exp(x))) took minutes. What a buffer holds it does not look into.
    """
    if loop.kind != tirx.ForKind.VECTORIZED or not isinstance(loop.body, BufferStore):
        return loop
    value = loop.body.value
    if lanes_of(value) == 1 and _calls_in(value) and not uses(value, {loop.loop_var}):
        return _computed_once(loop)
    return _unnested(loop.body, int(loop.extent.value), loop.loop_var)


def _computed_once(loop: tirx.For) -> Stmt:
    """for lane: y = a  -->  t = a; for lane: y = t.

    TVM visits what is the same in all lanes twice to make a vector of it, and fails where that has names.
    """
    store = loop.body
    buffer = tirx.decl_buffer((1,), str(store.value.ty), "same", scope="global")
    first = tirx.const(0, "int64")
    repeated = BufferStore(store.buffer, tirx.BufferLoad(buffer, [first]), store.indices)
    lanes = _for_lanes(loop.loop_var, int(loop.extent.value), repeated)
    return tirx.SeqStmt([tirx.AllocBuffer(buffer), BufferStore(buffer, store.value, [first]), lanes])


def _unnest_scalar(store: BufferStore) -> Stmt:
    return _unnested(store, 1, None)


def _unnested(store: BufferStore, lanes: int, lane: tirx.Var | None) -> Stmt:
    place = tirx.const(0, "int64") if lane is None else lane
    inner: list[BufferStore] = []

    def name_argument(call: Call) -> Expr:
        if not _is_function(call) or not any(_is_function(other) for other in _calls_in(call.args[0])):
            return call
        buffer = tirx.decl_buffer((lanes,), "float32", "argument", scope="global")
        inner.append(BufferStore(buffer, call.args[0], [place]))
        return Call(call.op, [tirx.BufferLoad(buffer, [place]), *call.args[1:]], ret_ty=call.ty)

    value = store.value
    if not any(getattr(call.op, "name", "") == BRANCH for call in _calls_in(value)):  # it may guard a load
        value = tvm_ffi.structural_map(value, (Call, name_argument), order="post")
    statements = [*inner, BufferStore(store.buffer, value, store.indices)]
    if lane is not None:
        statements = [_for_lanes(lane, lanes, statement) for statement in statements]
    return tirx.SeqStmt([tirx.AllocBuffer(x.buffer) for x in inner] + statements) if inner else statements[0]


def _for_lanes(lane: tirx.Var, lanes: int, statement: Stmt) -> Stmt:
    own = tirx.Var(lane.name, lane.ty)
    body = tvm_ffi.structural_map(statement, (tirx.Var, lambda var: own if var.same_as(lane) else var), order="post")
    return tirx.For(own, tirx.const(0, lane.ty), tirx.const(lanes, lane.ty), tirx.ForKind.VECTORIZED, body)


def _calls_in(node: object) -> list[Call]:
    found: list[Call] = []
    tvm_ffi.structural_walk(node, (Call, found.append), order="post")
    return found
