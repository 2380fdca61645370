"""Units: private functions that main calls, each for one kernel, which carry what they are and the layer they work for.

Passes that change units write main and all that it calls anew.
"""

from collections.abc import Sequence
from enum import StrEnum

from tvm import IRModule, ir, relax

from lowprec.passes.editing import MAIN, UNNAMED, Emitter

KIND = "lowprec.kind"
LAYER = "lowprec.layer"
OPERATORS = "lowprec.operators"


class Kind(StrEnum):
    """Which family of kernels computes a unit."""

    CONVOLUTION = "convolution"
    PRODUCT = "product"
    GENERIC = "generic"


def unit_of(module: IRModule, value: relax.Expr) -> relax.Function | None:
    """The unit that a value of main calls, if it calls one."""
    if isinstance(value, relax.Call) and isinstance(value.op, ir.GlobalVar):
        function = module[value.op]
        return function if _is_unit(function) else None
    return None


def unit_attributes(kind: Kind, layer: str, operators: Sequence[str]) -> dict[str, object]:
    """What a unit carries."""
    return {KIND: str(kind), LAYER: layer, OPERATORS: list(operators), "Primitive": 1}


class Caller(Emitter):
    """Writes main, and the units it calls."""

    def __init__(self) -> None:
        super().__init__()
        self._units: dict[ir.GlobalVar, relax.Function] = {}

    def call(self, unit: relax.Function, arguments: Sequence[relax.Expr], name: str = UNNAMED) -> relax.Var:
        """Bind a call of a unit to a new variable of exactly that name."""
        var = ir.GlobalVar(f"unit{len(self._units)}")
        relax.expr._update_type(var, unit.ty)  # the call needs it
        self._units[var] = unit
        return self.emit(relax.Call(var, list(arguments)), name)

    def module(self, main: relax.Function, before: IRModule) -> IRModule:
        """Main and its units, beside the functions of `before` that are neither."""
        others = {var: f for var, f in before.functions_items() if var.name_hint != MAIN and not _is_unit(f)}
        return IRModule({**others, **self._units, ir.GlobalVar(MAIN): main}, attrs=before.attrs)


def _is_unit(function: ir.BaseFunc) -> bool:
    return KIND in (function.attrs or {})
