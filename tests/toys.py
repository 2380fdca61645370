"""Small artifacts made by hand with TVM: no front end, no passes, no schedules of ours."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from lowprec.artifact import write
from lowprec.layers import Cost
from lowprec.manifest import CallSpec
from lowprec.tensors import TensorSpec
from tests.manifests import hand_made

Array = NDArray[np.generic]
Body = Callable[[relax.BlockBuilder, Sequence[relax.Var]], relax.Expr]


def build_library(path: Path, shapes: Sequence[tuple[str, tuple[int, ...], str]], body: Body) -> None:
    """A library whose `main` takes parameters of these names, shapes and dtypes and computes `body` of them."""
    builder = relax.BlockBuilder()
    parameters = [relax.Var(name, relax.TensorType(shape, dtype)) for name, shape, dtype in shapes]
    with builder.function("main", parameters):
        with builder.dataflow():
            result = builder.emit_output(body(builder, parameters))
        builder.emit_func_output(result)
    tvm.compile(builder.get(), "llvm").export_library(str(path))


def linear(folder: Path, *, rows: int = 3, depth: int = 5, cols: int = 4, name: str = "linear.lowprec") -> Path:
    """y = x @ w + b: one input, two weights, one output. Returns the artifact's directory."""
    library = folder / f"{name}.so"
    build_library(
        library,
        [("x", (rows, depth), "float32"), ("w", (depth, cols), "float32"), ("b", (cols,), "float32")],
        lambda bb, p: relax.op.add(bb.emit(relax.op.matmul(p[0], p[1])), p[2]),
    )
    product = Cost(macs=rows * depth * cols, weight_bytes=4 * depth * cols, tensor_bytes=4 * rows * (depth + cols))
    addition = Cost(weight_bytes=4 * cols, tensor_bytes=8 * rows * cols)
    manifest = hand_made(
        [TensorSpec(name="x", dtype="float32", shape=(rows, depth))],
        [TensorSpec(name="y", dtype="float32", shape=(rows, cols))],
        calls=(
            CallSpec(symbol="matmul", layer="y", op="Gemm", output="y", family="generic", cost=product),
            CallSpec(symbol="add", layer="y", op="Gemm", output="y", family="generic", cost=addition),
        ),
    )
    write(folder / name, library, linear_weights(depth, cols), manifest)
    return folder / name


def linear_weights(depth: int = 5, cols: int = 4) -> list[NDArray[np.float32]]:
    """The weights of `linear`."""
    generator = np.random.default_rng(7)
    return [
        generator.standard_normal((depth, cols)).astype(np.float32),
        generator.standard_normal(cols).astype(np.float32),
    ]
