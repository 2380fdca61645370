"""Kernels and main -> one shared library.

Kernels are compiled to objects in parallel; main becomes bytecode of TVM's virtual machine, which finds the kernels by
name in the library they are linked into.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tvm
from tvm import IRModule, relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.errors import BuildFailed, EnvironmentMismatch
from lowprec.targets import Target, machine_arch

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
    """Write the library of main and its kernels to `path`, whose folder is the workspace."""
    link = linker(target)
    machine = tvm.target.Target(target.tvm_target(threads))
    workers = max(1, len(os.sched_getaffinity(0)))
    # Several small shares a worker: kernels differ in how long they take.
    count = min(4 * workers, len(kernels))
    shares = [dict(list(kernels.items())[index::count]) for index in range(count)]
    objects = [path.with_name(f"kernels{index}.o") for index in range(count)]
    try:
        with ThreadPoolExecutor(workers) as pool:
            written = pool.map(lambda share, file: write_object(share, machine, file), shares, objects)
            executable = relax.build(module, machine, relax_pipeline=_pipeline(), exec_mode="bytecode")
            list(written)
        # The library stands for the modules imported here; whatever else is linked in is found through it.
        executable.mod.import_module(_build({"lowprec_anchor": _anchor()}, machine))
        executable.mod.export_library(str(path), fcompile=link, addons=list(map(str, objects)))
    except (tvm.error.InternalError, RuntimeError) as error:
        line = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise BuildFailed(f"TVM could not build the network for {target.name}: {line}") from error


def linker(target: Target) -> Callable[..., None]:
    """What turns a target's objects into a shared library; found before the work of compiling starts."""
    own = target.arch == machine_arch()
    names = ("cc", "gcc", "clang") if own else (f"{target.arch}-linux-gnu-gcc",)
    command = next((found for name in names if (found := shutil.which(name))), None)
    if command is None:
        package = "gcc" if own else f"gcc-{target.arch.replace('_', '-')}-linux-gnu"
        raise EnvironmentMismatch(
            f"no linker for {target.arch} ({' or '.join(names)}) is installed: apt-get install {package}"
        )

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        done = subprocess.run(
            [command, "-shared", "-o", output, *objects, "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
            raise BuildFailed(f"linking the library for {target.name} failed: {reason}")

    return link


def write_object(kernels: Mapping[str, tirx.PrimFunc], machine: tvm.target.Target, path: Path) -> None:
    """Compile kernels to an object file; nothing of it is run or loaded."""
    _build(kernels, machine).write_to_file(str(path))


def _build(kernels: Mapping[str, tirx.PrimFunc], machine: tvm.target.Target) -> Any:
    with quick_passes():
        return tvm.tirx.build(IRModule(dict(kernels)), machine)


def quick_passes() -> tvm.transform.PassContext:
    """TVM without what takes seconds a kernel and has nothing to do: buffers are as small as they can be."""
    return tvm.transform.PassContext(disabled_pass=["s_tir.CompactBufferAllocation"])


def _anchor() -> tirx.PrimFunc:
    """A kernel that does nothing."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("lowprec_anchor")
        T.arg("X", T.buffer((1,), "float32"))
        T.func_attr({"global_symbol": "lowprec_anchor"})
        T.evaluate(0)
    return builder.get()


def _pipeline() -> tvm.transform.Pass:
    return tvm.transform.Sequential([getattr(relax.transform, name)() for name in _PASSES])
