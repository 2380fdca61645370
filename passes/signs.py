"""Tensors of signs, and products of two of them.

    c = greater_equal(x, 0);  s = where(c, 1, -1);  y = conv2d(s, w)          |w| the same for all of an output channel

Whoever multiplies signs takes them from x for himself, as bits: neither c nor s is made in memory.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from lowprec.passes.editing import Array, array_of, dtype_of, is_constant, op_name, shape_of

PRODUCTS = frozenset({"relax.matmul", *(f"relax.nn.conv{n}d" for n in (1, 2, 3))})


def signs_of(var: relax.Expr, values: Mapping[relax.Var, relax.Expr]) -> Sequence[relax.Var]:
    """The condition and the signs that `var` is, in order; none where it is no tensor of signs."""
    value = values.get(var)
    if value is None or op_name(value) != "relax.where" or dtype_of(var) != "float32":
        return ()
    condition, one, other = value.args
    asked = values.get(condition) if isinstance(condition, relax.Var) else None
    if asked is None or op_name(asked) != "relax.greater_equal" or not isinstance(asked.args[0], relax.Var):
        return ()
    same = shape_of(asked.args[0]) == shape_of(var) and dtype_of(asked.args[0]) == "float32"
    known = _is(asked.args[1], 0.0) and _is(one, 1.0) and _is(other, -1.0)
    return (condition, var) if same and known else ()


def _is(value: relax.Expr, number: float) -> bool:
    return is_constant(value) and array_of(value).size == 1 and float(array_of(value).reshape(())) == number


def magnitudes(weights: Array) -> NDArray[np.float32] | None:
    """Of weights [K, ...] that are -a or +a, a for each output channel; None of others."""
    rows = (
        np.abs(weights.reshape(len(weights), -1)).astype(np.float32) if weights.size else np.zeros((0, 0), np.float32)
    )
    if not rows.size or not (rows == rows[:, :1]).all() or not (rows > 0).all() or not np.isfinite(rows).all():
        return None
    return rows[:, 0].copy()


def multiplies_signs(value: relax.Expr, values: Mapping[relax.Var, relax.Expr]) -> bool:
    """Whether an operator multiplies signs by weights that are signs but for a factor."""
    if op_name(value) not in PRODUCTS or not is_constant(value.args[1]) or not signs_of(value.args[0], values):
        return False
    weights = array_of(value.args[1])
    if op_name(value) == "relax.matmul":
        return weights.ndim == 2 and magnitudes(weights.T) is not None
    return int(value.attrs.groups) == 1 and magnitudes(weights) is not None
