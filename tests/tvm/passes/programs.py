"""Small Relax programs for the passes' tests: writing them, running them, reading them."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import IRModule, ir, relax

from lowprec.building import build_library
from lowprec.passes.calling import KIND, OPERATORS
from lowprec.passes.editing import LAYERS, MAIN, Emitter, bindings, op_name
from lowprec.passes.lowering import lower_units
from lowprec.pipeline import rewrite
from lowprec.targets import Target, parse_target

Array = NDArray[Any]
Body = Callable[[Emitter, list[relax.Var]], relax.Expr]


def program(shapes: list[tuple[int, ...]], body: Body, *, layers: dict[str, str] | None = None) -> IRModule:
    """A module whose main takes float32 tensors of those shapes."""
    params = [relax.Var(f"x{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(shapes)]
    emitter = Emitter()
    result = body(emitter, params)
    return IRModule({ir.GlobalVar(MAIN): emitter.function(params, result, {LAYERS: layers or {}})})


def weights(*shape: int, seed: int = 0) -> relax.Expr:
    return relax.const(np.random.default_rng(seed).standard_normal(shape, np.float32))


def run(module: IRModule, inputs: list[Array]) -> list[Array]:
    """What main returns, by TVM's own unscheduled build."""
    built = tvm.compile(module, target="llvm")
    answer = relax.VirtualMachine(built, tvm.cpu())[MAIN](*map(tvm.runtime.tensor, inputs))
    return [answer.numpy()] if hasattr(answer, "numpy") else [part.numpy() for part in answer]


def inputs_of(module: IRModule, seed: int = 1) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal([int(n) for n in p.ty.shape.values], np.float32) for p in module[MAIN].params]


def assert_same_meaning(before: IRModule, after: IRModule) -> None:
    """Both modules give the same answers up to the order of sums."""
    inputs = inputs_of(before)
    for expected, got in zip(run(before, inputs), run(after, inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def operators(module: IRModule) -> list[str]:
    """Main's operators in order; calls of units by what they do, as conv2d+add+relu."""
    names = []
    for _, value in bindings(module[MAIN]):
        if isinstance(value, relax.Call) and isinstance(value.op, ir.GlobalVar):
            function = module[value.op]
            names.append("+".join(map(str, function.attrs[OPERATORS])) if KIND in function.attrs else "call")
        else:
            names.append(op_name(value).rsplit(".", 1)[-1])
    return names


def units(module: IRModule) -> list[relax.Function]:
    """The units main calls, in order."""
    calls = (value for _, value in bindings(module[MAIN]) if isinstance(value, relax.Call))
    return [module[call.op] for call in calls if isinstance(call.op, ir.GlobalVar)]


def run_lowered(module: IRModule, inputs: list[Array], target: Target | None = None) -> list[Array]:
    """What main returns when it is compiled as the product compiles it."""
    return run_units(rewrite(module), inputs, target or parse_target("native"))


def run_units(module: IRModule, inputs: list[Array], target: Target) -> list[Array]:
    """What main returns when its units are compiled as they are."""
    lowered = lower_units(module, target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.so"
        build_library(lowered.module, lowered.kernels, target, threads=1, path=path)
        machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
        answer = machine[MAIN](*map(tvm.runtime.tensor, (*inputs, *lowered.weights)))
        return [part.numpy() for part in ([answer] if hasattr(answer, "numpy") else answer)]


def integer_program(shape: tuple[int, ...], body: Body, dtype: str = "uint8") -> IRModule:
    """A module whose main takes one tensor of integers."""
    param = relax.Var("x", relax.TensorType(shape, dtype))
    emitter = Emitter()
    return IRModule({ir.GlobalVar(MAIN): emitter.function([param], body(emitter, [param]), {LAYERS: {}})})


def whole_numbers(module: IRModule, seed: int = 1) -> list[Array]:
    """Any bytes for its parameters."""
    rng = np.random.default_rng(seed)
    types = [(str(p.ty.dtype), [int(n) for n in p.ty.shape.values]) for p in module[MAIN].params]
    return [
        rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True) for dtype, shape in types
    ]


def widened(e: Emitter, x: relax.Expr, zero: int = 3, dtype: str = "float32") -> relax.Var:
    """What is a DequantizeLinear's, or a centred operand's."""
    wide = e.emit(relax.op.subtract(e.emit(relax.op.astype(x, "int32")), relax.const(zero, "int32")))
    if dtype == "int32":
        return wide
    return e.emit(relax.op.multiply(e.emit(relax.op.astype(wide, "float32")), relax.const(0.5, "float32")))
