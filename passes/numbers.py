"""Which tensors of float32 hold nothing but numbers of bfloat16, or of float16.

    h = astype(x, bfloat16);  y = astype(h, float32)        y does, and so does draw_bfloat16(x, words)
    z = max_pool2d(y);  z = concat(y, y');  z = pad(y)      so does what moves, joins, picks or pads them

Units are looked into, with what is known of the tensors they are called with.
"""

from collections.abc import Mapping

from tvm import IRModule, relax

from lowprec.passes.calling import unit_of
from lowprec.passes.editing import bindings, dtype_of, is_constant, is_tensor, op_name, result_of, tensors_in
from lowprec.passes.elementwise import CONVERSION
from lowprec.passes.halves import WHOLE
from lowprec.schedules.arithmetic import BFLOAT, HALF
from lowprec.schedules.views import FLOAT

KEEPING = frozenset(
    f"relax.{name}"
    for name in (
        "concat",
        "expand_dims",
        "flatten",
        "flip",
        "maximum",
        "minimum",
        "nn.max_pool1d",
        "nn.max_pool2d",
        "nn.max_pool3d",
        "nn.relu",
        "permute_dims",
        "repeat",
        "reshape",
        "squeeze",
        "strided_slice",
        "tile",
    )
)
MADE = {"lowprec.draw_bfloat16": BFLOAT, "lowprec.draw_float16": HALF, WHOLE: BFLOAT}
"""By which operators, of which type."""
PAD = "relax.nn.pad"


def numbers_of(module: IRModule, main: relax.Function) -> dict[relax.Expr, str]:
    """Those of main, each with the type that has its numbers."""
    return _known(module, main, {})


def _known(module: IRModule, function: relax.Function, before: Mapping[relax.Expr, str]) -> dict[relax.Expr, str]:
    """Variables of a function; of its parameters `before`."""
    known = dict(before)
    for var, value in bindings(function):
        unit = unit_of(module, value)
        if unit is None:
            kind = _kind(value, known)
        else:
            pairs = zip(unit.params, value.args, strict=True)
            inner = _known(module, unit, {param: known[argument] for param, argument in pairs if argument in known})
            kind = inner.get(result_of(unit), FLOAT)
        if kind != FLOAT and is_tensor(var):
            known[var] = kind
    return known


def _kind(value: relax.Expr, known: Mapping[relax.Expr, str]) -> str:
    """The type of a value's numbers."""
    name = op_name(value)
    if name == CONVERSION:
        before = dtype_of(value.args[0])
        return before if dtype_of(value) == FLOAT and before in (BFLOAT, HALF) else FLOAT
    if name in MADE:
        return MADE[name]
    kinds = {FLOAT if is_constant(source) else known.get(source, FLOAT) for source in tensors_in(value)}
    if len(kinds) != 1 or name not in (PAD, *KEEPING):
        return FLOAT
    if name == PAD and (str(value.attrs.pad_mode) != "constant" or float(value.attrs.pad_value)):
        return FLOAT
    return kinds.pop()
