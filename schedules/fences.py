"""Every operator's product is rounded by itself, as ONNX has it: LLVM would fuse it with what is added to it.

    y = a * b + c    -->    y = fence(a * b) + c

and a quotient that is rounded to an integer is, to the same bit, made of products: a division takes as long as ten.

    y = nearbyint(x / 0.02)    -->    y = nearbyint(quotient(x, 0.02))

Terms of a sum are fused all the same: its order is ours to choose anyway.
"""

from dataclasses import replace

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr

from lowprec.schedules.stages import AnyStage, Stage
from lowprec.schedules.vector_math import rounded_quotient
from lowprec.schedules.views import FLOAT

FENCE = "llvm.arithmetic.fence.f32"
NEARBYINT = "llvm.nearbyint.f32"


def with_fences(stage: AnyStage) -> AnyStage:
    """The stage with its products fenced, if it is an elementwise one; what finishes a reduction is."""
    if not isinstance(stage, Stage):
        return stage
    if not stage.reduce:
        return replace(stage, value=_fenced(stage.value))
    return stage if stage.finish is None else replace(stage, finish=_fenced(stage.finish))


def _fenced(value: Expr) -> Expr:
    def fence(product: tirx.Mul) -> Expr:
        if str(product.ty) != FLOAT:
            return product
        return tirx.call_llvm_pure_intrin(FLOAT, FENCE, product)

    fenced = tvm_ffi.structural_map(value, (tirx.Mul, fence), order="post")
    return tvm_ffi.structural_map(fenced, (Call, _rounding), order="post")


def _rounding(call: Call) -> Expr:
    """nearbyint by LLVM's name: TVM makes no vector of a loop with its own."""
    if getattr(call.op, "name", "") != "tirx.nearbyint" or str(call.ty) != FLOAT:
        return call
    return rounded_quotient(call.args[0], lambda x: tirx.call_llvm_pure_intrin(FLOAT, NEARBYINT, x))
