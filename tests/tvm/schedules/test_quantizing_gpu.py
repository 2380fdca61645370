"""The kernel for GPUs, without one: the CUDA that TVM makes of it, run thread by thread by the C++ compiler's code.

What a real GPU does beside this is schedule the threads; `make test-gpu` is for that.
"""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray

from lowprec.formats import BF16, FP16, Binary, Fixed, Float, Format, Int, Specials
from lowprec.philox import key_of, random_bits
from lowprec.rounding import Rounding, round_to
from lowprec.schedules.quantizing import Quantizing, build_quantizing_gpu
from lowprec.targets import parse_target

COMPILER = shutil.which("c++")

# What CUDA has and C++ has not; a launch is a loop.
HOST = """
#include <cstdint>
#include <cstring>
#define CUDART_INF_F __builtin_inff()
using uint = unsigned int;
struct Place { int x; };
static Place blockIdx, threadIdx;
%s
extern "C" void launch(float* x, float* y, int64_t key0, int64_t key1, int64_t start, int64_t step, int groups) {
  for (blockIdx.x = 0; blockIdx.x < groups; blockIdx.x++)
    for (threadIdx.x = 0; threadIdx.x < 256; threadIdx.x++)
      main_kernel(x, y, %s);
}
"""


def cuda_source(spec: Quantizing) -> str:
    module = tvm.IRModule({"main": build_quantizing_gpu(spec)})
    target = tvm.target.Target({"kind": "cuda", "arch": "sm_90"}, host="llvm")
    built = tvm.compile(module, target=target)
    return str(built.mod.imports[0].inspect_source())


def on_the_host(source: str, folder: Path) -> ctypes.CDLL:
    body = source[source.rindex('extern "C" __global__') :]
    body = re.sub(r'extern "C" __global__ void __launch_bounds__\(\d+\)', "static void", body)
    named = re.search(r"main_kernel\(([^)]*)\)", body)
    assert named is not None
    scalars = [argument.split()[-1] for argument in named[1].split(",")][2:]
    (folder / "kernel.cc").write_text(HOST % (body, ", ".join(scalars)))
    command = [str(COMPILER), "-O1", "-fno-strict-aliasing", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
    subprocess.run([*command, str(folder / "kernel.cc"), "-o", str(folder / "kernel.so")], check=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


FORMATS: tuple[Format, ...] = (Fixed(2, 14), FP16, BF16, Float(4, 3, Specials.NAN), Int(8, signed=False), Binary())


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("rounding", [Rounding.STOCHASTIC, Rounding.NEAREST_EVEN])
def test_the_bits_are_the_oracles(fmt: Format, rounding: Rounding, tmp_path: Path) -> None:
    count = 3001
    target = parse_target("x86-64")
    spec = Quantizing(count=count, format=fmt, rounding=rounding, bits_used=24, target=target)
    library = on_the_host(cuda_source(spec), tmp_path)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(count) * 2.0 ** rng.integers(-20, 3, count)).astype(np.float32)
    x[:6] = [0.0, -0.0, np.inf, -np.inf, 0.5, -0.5]
    for start in (0, 1, 3, 4 * 2**32 - 1001):
        y: NDArray[np.float32] = np.full(count, np.nan, np.float32)
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (x, y))
        library.launch(*pointers, *map(ctypes.c_int64, (*key_of(5, "w"), start, 9)), (count // 4 + 2) // 256 + 1)
        bits = random_bits(5, "w", count, step=9, start=start)
        right = round_to(x, fmt, rounding, bits=bits, bits_used=24)
        np.testing.assert_array_equal(y.view(np.uint32), right.view(np.uint32))
