"""Which tensors hold nothing but bfloat16 numbers, though they are of float32.

    h = astype(x, bfloat16);  y = astype(h, float32)        y does, and so does draw_bfloat16(x, words)
    z = max_pool2d(y);  z = concat(y, y');  z = pad(y)      so does what moves, joins, picks or pads them

Units are looked into, with what is known of the tensors they are called with.
"""

from collections.abc import Collection

from tvm import IRModule, relax

from lowprec.passes.calling import unit_of
from lowprec.passes.editing import bindings, dtype_of, is_constant, is_tensor, op_name, result_of, tensors_in
from lowprec.passes.elementwise import CONVERSION
from lowprec.passes.halves import WHOLE
from lowprec.schedules.arithmetic import BFLOAT
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
DRAWN = "lowprec.draw_bfloat16"
PAD = "relax.nn.pad"


def bfloats_of(module: IRModule, main: relax.Function) -> set[relax.Expr]:
    """Those of main."""
    return _known(module, main, set())


def _known(module: IRModule, function: relax.Function, before: Collection[relax.Expr]) -> set[relax.Expr]:
    """Variables of a function; of its parameters `before`."""
    known = set(before)
    for var, value in bindings(function):
        unit = unit_of(module, value)
        if unit is None:
            holds = _holds(value, known)
        else:
            pairs = zip(unit.params, value.args, strict=True)
            inner = _known(module, unit, {param for param, argument in pairs if argument in known})
            holds = result_of(unit) in inner
        if holds and is_tensor(var):
            known.add(var)
    return known


def _holds(value: relax.Expr, known: Collection[relax.Expr]) -> bool:
    name = op_name(value)
    if name == CONVERSION:
        return dtype_of(value) == FLOAT and dtype_of(value.args[0]) == BFLOAT
    if name in (DRAWN, WHOLE):
        return True
    sources = list(tensors_in(value))
    kept = bool(sources) and all(source in known and not is_constant(source) for source in sources)
    if name == PAD:
        return kept and str(value.attrs.pad_mode) == "constant" and float(value.attrs.pad_value) == 0
    return kept and name in KEEPING
