"""Every operator's product is rounded by itself, as ONNX has it: LLVM would fuse it with what is added to it.

    y = a * b + c    -->    y = fence(a * b) + c

Terms of a sum are fused all the same: its order is ours to choose anyway.
"""

from dataclasses import replace

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr

from lowprec.schedules.stages import AnyStage, Stage
from lowprec.schedules.views import FLOAT

FENCE = "llvm.arithmetic.fence.f32"


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

    return tvm_ffi.structural_map(value, (tirx.Mul, fence), order="post")
