"""Chains that turn a tensor of narrow numbers into one of wide ones, element by element.

    u = astype(x, int32);  v = subtract(u, 3);  w = astype(v, float32);  y = multiply(w, 0.02)        x: uint8

Whoever reads y computes it from x for itself: the narrow tensor is what lies in memory.
"""

from collections.abc import Mapping, Sequence

from tvm import relax

from lowprec.passes.editing import dtype_of, is_constant, is_tensor, op_name, shape_of, tensors_in
from lowprec.passes.elementwise import CONVERSION

NARROW = ("int8", "uint8", "int16")
STEPS = frozenset({CONVERSION, "relax.subtract", "relax.multiply"})
"""What a chain is made of, beside constants of one element."""


def source_of(value: relax.Expr) -> relax.Var | None:
    """The tensor that a step of a chain reads, if it may be one."""
    if op_name(value) not in STEPS:
        return None
    sources = list(tensors_in(value))
    variables = [source for source in sources if isinstance(source, relax.Var)]
    constants = [source for source in sources if is_constant(source)]
    if len(variables) != 1 or any(len(shape_of(constant)) and max(shape_of(constant)) > 1 for constant in constants):
        return None
    return variables[0]


def chain_of(var: relax.Expr, values: Mapping[relax.Var, relax.Expr]) -> Sequence[relax.Var]:
    """The variables of the chain that makes `var`, in order; none where no chain does."""
    found: list[relax.Var] = []
    while isinstance(var, relax.Var) and is_tensor(var):
        if found and dtype_of(var) in NARROW:
            return found[::-1]
        source = source_of(values[var]) if var in values else None
        if source is None:
            return ()
        found.append(var)
        var = source
    return ()
