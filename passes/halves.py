"""Relax operators of bfloat16 numbers as they lie in memory: the upper halves of float32.

h = lowprec.upper_half(x)            x: float32 that are bfloat16 numbers; h: uint16
x = lowprec.from_upper_half(h)
"""

from tvm import ir, relax

from lowprec.passes.editing import shape_of
from lowprec.passes.registering import register
from lowprec.schedules import vector_math
from lowprec.schedules.views import FLOAT, UPPER_HALVES

HALF = "lowprec.upper_half"
WHOLE = "lowprec.from_upper_half"


def upper_half(x: relax.Expr) -> relax.Expr:
    """What is stored of x."""
    return relax.Call(ir.Op.get(HALF), [x])


def from_upper_half(half: relax.Expr) -> relax.Expr:
    """The numbers that are stored so."""
    return relax.Call(ir.Op.get(WHOLE), [half])


register(HALF, lambda call: relax.TensorType(shape_of(call.args[0]), UPPER_HALVES), vector_math.upper_half)
register(WHOLE, lambda call: relax.TensorType(shape_of(call.args[0]), FLOAT), vector_math.from_upper_half)
