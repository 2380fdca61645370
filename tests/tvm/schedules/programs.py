"""PrimFuncs as the compiler makes them: a Relax expression, legalized and fused, and both ways to run it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax, tirx
from tvm.ir import Expr

from lowprec.schedules.generic import schedule_generic
from lowprec.targets import Target

Array = NDArray[Any]
Build = Callable[..., Expr]


def prim_funcs(build: Build, inputs: Sequence[Array]) -> list[tirx.PrimFunc]:
    """What `build`, a function of Relax expressions, is lowered to: one PrimFunc for each fused unit."""
    builder = relax.BlockBuilder()
    variables = [relax.Var(f"x{i}", relax.TensorType(x.shape, str(x.dtype))) for i, x in enumerate(inputs)]
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(build(*variables)))
        builder.emit_func_output(result)
    module = builder.get()
    for step in (
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ):
        module = step(module)
    return [func for func in module.functions.values() if isinstance(func, tirx.PrimFunc)]


def only_func(build: Build, inputs: Sequence[Array]) -> tirx.PrimFunc:
    (func,) = prim_funcs(build, inputs)
    return func


def compiled(func: tirx.PrimFunc, target: Target, *, scheduled: bool = True) -> tvm_ffi.Function:
    scheduled_func = schedule_generic(func, target) if scheduled else func
    module = tvm.IRModule({"main": scheduled_func.with_attr("global_symbol", "main")})
    function: tvm_ffi.Function = tvm.compile(module, target=tvm.target.Target(target.tvm_target(2)))["main"]
    return function


def run(function: tvm_ffi.Function, func: tirx.PrimFunc, inputs: Sequence[Array]) -> list[Array]:
    """The outputs (the parameters after the inputs), whose memory is full of NaN, or of odd integers, before."""
    outputs = []
    for buffer in func.params[len(inputs) :]:
        shape, dtype = tuple(int(size) for size in buffer.shape), str(buffer.dtype)
        stale = np.full(shape, np.nan if "float" in dtype else dtype != "bool" and 77, dtype)
        outputs.append(tvm.runtime.tensor(stale))
    function(*(tvm.runtime.tensor(x) for x in inputs), *outputs)
    return [output.numpy() for output in outputs]


def set_threads(count: int) -> None:
    tvm_ffi.get_global_func("runtime.config_threadpool")(1, count)
