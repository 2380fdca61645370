"""Relax operators of our own."""

from collections.abc import Callable

import tvm_ffi
from tvm import ir, relax, te
from tvm.ir import Expr
from tvm.relax.transform.legalize_ops.common import register_legalize

Infer = Callable[[relax.Call], relax.Type]


def register(name: str, infer: Infer, function: Callable[..., Expr] | None = None) -> None:
    """An operator, once, and what its result is; `function` computes an element from those of its arguments at the same
    place, and without one no generic kernel computes it."""
    if name in set(ir.Op.list_op_names()):
        return
    tvm_ffi.get_global_func("ir.RegisterOp")(name, "an operator of lowprec's passes")
    ir.register_op_attr(name, "FInferType", lambda call, _: infer(call))
    ir.register_op_attr(name, "FPurity", True)
    ir.register_op_attr(name, "TScriptPrinterName", name)
    if function is not None:
        register_legalize(name, _legalization(name, function))


def _legalization(name: str, function: Callable[..., Expr]) -> Callable[..., relax.Expr]:
    def compute(*tensors: te.Tensor) -> te.Tensor:
        return te.compute(
            tensors[0].shape, lambda *place: function(*(tensor(*place) for tensor in tensors)), "computed"
        )

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        return builder.call_te(compute, *call.args, primfunc_name_hint=name.replace(".", "_"))

    return legalize
