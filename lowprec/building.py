"""Kernels and main -> one shared library.

Kernels are compiled in parallel, a module each round of workers takes; main becomes bytecode of TVM's virtual machine,
which finds the kernels by name in the same library.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tvm
from tvm import IRModule, relax, tirx

from lowprec.errors import BuildFailed
from lowprec.targets import Target

_PASSES = (
    "ToNonDataflow",
    "RemovePurityChecking",
    "RewriteDataflowReshape",
    "CallTIRRewrite",
    "StaticPlanBlockMemory",
    "LowerAllocTensor",
    "KillAfterLastUse",
    "LowerRuntimeBuiltin",
    "ComputePrimValue",
    "VMShapeLower",
    "AttachGlobalSymbol",
)


def build_library(
    module: IRModule, kernels: Mapping[str, tirx.PrimFunc], target: Target, *, threads: int, path: Path
) -> None:
    """Write the library of main and its kernels to `path`."""
    machine = tvm.target.Target(target.tvm_target(threads))
    workers = max(1, len(os.sched_getaffinity(0)))
    shares = [dict(list(kernels.items())[index::workers]) for index in range(min(workers, len(kernels)))]
    try:
        with ThreadPoolExecutor(workers) as pool:
            built = list(pool.map(lambda share: _build_kernels(share, machine), shares))
        executable = relax.build(module, machine, relax_pipeline=_pipeline(), exec_mode="bytecode")
        _export(executable, built, path)
    except (tvm.error.InternalError, RuntimeError) as error:
        line = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise BuildFailed(f"TVM could not build the network for {target.name}: {line}") from error


def _build_kernels(kernels: Mapping[str, tirx.PrimFunc], machine: tvm.target.Target) -> Any:
    return tvm.tirx.build(IRModule(dict(kernels)), machine)


def _pipeline() -> tvm.transform.Pass:
    return tvm.transform.Sequential([getattr(relax.transform, name)() for name in _PASSES])


def _export(executable: Any, built: Sequence[Any], path: Path) -> None:
    for module in built:
        executable.mod.import_module(module)
    executable.export_library(str(path))
