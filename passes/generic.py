"""Units that no template computes: one fused TIR function each, scheduled by the one generic rule.

before:  v = unit(x, r)                    unit: any operators, constants inside
after:   v = call_tir(fused, (x, r, constants))
"""

import tvm
import tvm_ffi
from tvm import IRModule, ir, relax, tirx
from tvm.relax.transform import FuseTIR, LegalizeOps

from lowprec.errors import Unsupported
from lowprec.passes.calling import LAYER, OPERATORS, Caller
from lowprec.passes.editing import (
    MAIN,
    Array,
    Constant,
    Emitter,
    array_of,
    bindings,
    op_name,
    replace_tensors,
    result_of,
    shape_of,
    tensors_in,
)
from lowprec.passes.templates import KernelCall
from lowprec.schedules.generic import schedule_generic
from lowprec.targets import Target

FOLDING = frozenset(
    f"relax.{name}" for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power")
)
"""Operators whose legalization takes a constant of rank 0 as a number."""

_TVM_FAILURES = (tvm.error.InternalError, AssertionError, NotImplementedError, TypeError, ValueError)
"""What TVM raises for an operator whose legalization does not cover the case at hand."""

Cache = dict[int, list[tuple[relax.Function, tirx.PrimFunc]]]


def lower_generic(module: IRModule, function: relax.Function, target: Target, cache: Cache) -> KernelCall:
    """The kernel call that replaces a call of the unit; equal units share a kernel through `cache`."""
    lifted, constants = _lift_constants(function)
    kernel = _cached(lifted, cache)
    if kernel is None:
        kernel = schedule_generic(_fuse(module, lifted, function), target)
        cache.setdefault(tvm_ffi.structural_hash(lifted), []).append((lifted, kernel))
    return KernelCall(identity=_Same(kernel), family="generic", arguments=(*function.params, *constants), kernel=kernel)


class _Same:
    """Identity of a kernel object, for a dictionary key."""

    def __init__(self, kernel: tirx.PrimFunc) -> None:
        self._kernel = kernel

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._kernel.same_as(other._kernel)

    def __hash__(self) -> int:
        return hash(self._kernel)


def _cached(lifted: relax.Function, cache: Cache) -> tirx.PrimFunc | None:
    for known, kernel in cache.get(tvm_ffi.structural_hash(lifted), []):
        if tvm_ffi.structural_equal(known, lifted):
            return kernel
    return None


def _lift_constants(function: relax.Function) -> tuple[relax.Function, list[Array]]:
    """The unit with its arrays as further parameters; numbers stay inside where they become part of the code."""
    constants: dict[Constant, relax.Var] = {}
    emitter = Emitter()
    params = [relax.Var(param.name, param.ty) for param in function.params]
    new: dict[relax.Expr, relax.Expr] = dict(zip(function.params, params, strict=True))
    for var, value in bindings(function):
        for source in tensors_in(value):
            stays = op_name(value) in FOLDING and not shape_of(source)
            if isinstance(source, Constant) and not stays and source not in constants:
                constants[source] = new[source] = relax.Var("constant", source.ty)
        new[var] = emitter.emit(replace_tensors(value, new), "v")
    lifted = emitter.function([*params, *constants.values()], new[result_of(function)], {"Primitive": 1})
    return lifted, [array_of(constant) for constant in constants]


def _fuse(module: IRModule, lifted: relax.Function, function: relax.Function) -> tirx.PrimFunc:
    """The unit's operators as TIR, in one function."""
    params = [relax.Var(param.name, param.ty) for param in lifted.params]
    caller = Caller()
    main = caller.function(params, caller.call(lifted, params), {"global_symbol": MAIN})
    operators = ", ".join(str(name) for name in function.attrs[OPERATORS])
    refusal = f"layer {function.attrs[LAYER]!r}: no kernel can be made for {operators}"
    try:
        fused = FuseTIR()(LegalizeOps()(caller.module(main, module)))
    except _TVM_FAILURES as error:
        raise Unsupported(f"{refusal}: {_last_line(error)}") from error
    calls = [value for _, value in bindings(fused[MAIN])]
    if len(calls) != 1 or not isinstance(calls[0].args[0], ir.GlobalVar):
        raise Unsupported(f"{refusal}: it is none, or several, in TVM's terms")
    return fused[calls[0].args[0]]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
