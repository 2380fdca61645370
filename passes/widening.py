"""Chains that turn a tensor of narrow numbers into one of wide ones, element by element.

    u = astype(x, int32);  v = subtract(u, 3);  w = astype(v, float32);  y = multiply(w, 0.02)        x: uint8

Whoever reads y computes it from x for itself: the narrow tensor is what lies in memory.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from tvm import relax

from lowprec.passes.editing import array_of, dtype_of, is_constant, is_tensor, op_name, shape_of, tensors_in
from lowprec.passes.elementwise import CONVERSION

NARROW = ("int8", "uint8", "int16")
INTEGERS = ("int32", "int64")
FLOAT = ("float32",)
STEPS = ((CONVERSION, INTEGERS), ("relax.subtract", INTEGERS), (CONVERSION, FLOAT), ("relax.multiply", FLOAT))
"""What a chain is made of, in this order, each as often as it likes: what is subtracted becomes zero."""


def source_of(value: relax.Expr) -> relax.Var | None:
    """The tensor that a step of a chain reads, if it may be one: all else it reads is a constant of one element."""
    if _place_of(value) is None:
        return None
    first, *others = tensors_in(value)
    if op_name(value) == "relax.multiply" and is_constant(first) and others:
        first, others = others[0], [first]
    if not isinstance(first, relax.Var) or shape_of(first) != shape_of(value):
        return None
    return first if all(map(_is_number, others)) else None


def _place_of(value: relax.Expr) -> int | None:
    """Which of STEPS a value is."""
    if not is_tensor(value):
        return None
    name, dtype = op_name(value), dtype_of(value)
    return next((place for place, (step, dtypes) in enumerate(STEPS) if step == name and dtype in dtypes), None)


def _is_number(value: relax.Expr) -> bool:
    return is_constant(value) and array_of(value).size == 1 and bool(np.isfinite(array_of(value)).all())


def chain_of(var: relax.Expr, values: Mapping[relax.Var, relax.Expr]) -> Sequence[relax.Var]:
    """The variables of the chain that makes `var`, in order; none where no chain does."""
    found: list[relax.Var] = []
    last = len(STEPS)
    while isinstance(var, relax.Var) and is_tensor(var):
        if found and dtype_of(var) in NARROW:
            chain = found[::-1]
            return chain if _holds(dtype_of(var), zero_of([values[step] for step in chain])) else ()
        value = values.get(var)
        source, place = (None, None) if value is None else (source_of(value), _place_of(value))
        if source is None or place is None or place > last:
            return ()
        last = place
        found.append(var)
        var = source
    return ()


def zero_of(steps: Sequence[relax.Expr]) -> int:
    """What of the narrow tensor a chain's steps make zero of."""
    zeros = (step.args[1] for step in steps if op_name(step) == "relax.subtract")
    return sum(int(array_of(zero).reshape(())) for zero in zeros)


def _holds(dtype: str, number: int) -> bool:
    return int(np.iinfo(dtype).min) <= number <= int(np.iinfo(dtype).max)
