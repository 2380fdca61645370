"""Products of signs as products of bytes, on tiles, where AMX takes 16,384 of them at once.

    before:  c = greater_equal(x, 0);  s = where(c, 1, -1);  y = conv2d(s, a * t)         t: -1 and +1, a: of channels
    after:   b = sign(x);  i = astype(b, int32);  n = conv2d(i, t);  f = astype(n, float32);  y = multiply(f, a)

Whoever makes x writes b in its place, a byte an element, and its border of zeros. The numbers are the same: n is exact.
Declines when: the target has no tiles of bytes, or the product does not fill them.
"""

from collections.abc import Set
from math import prod

import numpy as np
from tvm import IRModule, ir, relax

from lowprec.passes.editing import (
    MAIN,
    Emitter,
    array_of,
    attributes_of,
    bindings,
    convolution_like,
    op_name,
    replace_main,
    result_of,
    shape_of,
    tensors_in,
)
from lowprec.passes.registering import register
from lowprec.passes.signs import magnitudes, multiplies_signs, signs_of
from lowprec.schedules import vector_math
from lowprec.targets import Target
from lowprec.tiles import Rows, joins_taps, multiplies_integers

SIGN = "lowprec.sign"
SIGNS = "int8"
MATMUL = "relax.matmul"
STEPS = ("relax.greater_equal", "relax.where")

register(SIGN, lambda call: relax.TensorType(shape_of(call.args[0]), SIGNS), vector_math.sign)


def signs_in_bytes(module: IRModule, target: Target) -> IRModule:
    """The pass, over main."""
    main = module[MAIN]
    values = dict(bindings(main))
    tiled = {var for var, value in values.items() if multiplies_signs(value, values) and _fills(var, value, target)}
    if not tiled:
        return module
    pairs = {var: pair for var in values if (pair := signs_of(var, values))}
    needless = {step for pair in pairs.values() for step in pair} - _read_elsewhere(main, tiled)
    emitter = Emitter()
    made: dict[relax.Expr, relax.Var] = {}
    for var, value in values.items():
        if var in tiled:
            condition, _ = pairs[value.args[0]]
            source = values[condition].args[0]
            if source not in made:
                made[source] = emitter.emit(relax.op.astype(emitter.emit(_sign(source)), "int32"))
            product, factors = _product(value, made[source])
            counted = emitter.emit(relax.op.astype(emitter.emit(product), "float32"))
            emitter.keep(var, relax.op.multiply(counted, factors))
        elif var not in needless:
            emitter.keep(var, value)
    updated = emitter.function(list(main.params), result_of(main), attributes_of(main))
    return replace_main(module, updated)


def _read_elsewhere(main: relax.Function, tiled: Set[relax.Expr]) -> set[relax.Expr]:
    """What is needed without these products."""
    needed = set(tensors_in(result_of(main)))
    for var, value in reversed(list(bindings(main))):
        if var not in tiled and (var in needed or op_name(value) not in STEPS):
            needed.update(tensors_in(value))
    return needed


def _sign(source: relax.Expr) -> relax.Expr:
    return relax.Call(ir.Op.get(SIGN), [source])


def _fills(var: relax.Var, value: relax.Call, target: Target) -> bool:
    """Whether the product is computed on tiles."""
    weights, result = shape_of(value.args[1]), shape_of(var)
    if op_name(value) == MATMUL:
        depth, columns = weights
        rows = Rows(groups=1, channels=(depth, columns), taps=1, pixels=prod(result[:-1]))
    else:
        depth = prod(weights[1:])
        merged = joins_taps(1, int(value.attrs.dilation[-1]))
        taps = weights[-1] if merged else 1
        rows = Rows(groups=1, channels=(weights[1], weights[0]), taps=taps, pixels=result[0] * prod(result[2:]))
    return multiplies_integers(rows, depth, (SIGNS, SIGNS), target)


def _product(value: relax.Call, signs: relax.Var) -> tuple[relax.Expr, relax.Expr]:
    """The product of whole numbers, and what it is multiplied by."""
    weights = array_of(value.args[1])
    whole = relax.const(np.sign(weights).astype(np.int32))
    if op_name(value) == MATMUL:
        return relax.op.matmul(signs, whole, out_dtype="int32"), relax.const(magnitudes(weights.T))
    factors = magnitudes(weights)
    assert factors is not None
    product = convolution_like(value, signs, whole, dtype="int32")
    return product, relax.const(factors.reshape(-1, *(1,) * (weights.ndim - 2)))
