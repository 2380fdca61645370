"""The child's task `peaks`: what the machine does at best, timed with all threads busy at once."""

import mmap
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from lowprec import runtime
from lowprec.schedules.peaks import (
    byte_factors,
    byte_operations_per_call,
    byte_products,
    flops_per_call,
    multiply_adds,
    reading,
    step_elements,
)
from lowprec.targets import Target, native

SIZES = tuple(1 << power for power in (15, 18, 20, 22, 24, 26, 28))
"""Bytes read over and over, all threads together: from inside a first-level cache to beyond most last-level ones."""

SECONDS, FEWEST = 0.06, 3
"""How long each figure is looked for, and how often at least."""

PASS_BYTES = 32 << 20  # a timed call reads as much at least


def peaks_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """{"flops": and "byte_operations" per second, "granted": share of the time, "bandwidth": [[bytes, bytes a second],
    ...]} on request["threads"] threads."""
    threads, target = int(request["threads"]), native()
    runtime.allow_amx_with(target.features)
    makers = {"multiply_adds": multiply_adds, "byte_products": byte_products, "reading": reading}
    kernels = {name: make(target, threads) for name, make in makers.items()}
    library = tvm.compile(tvm.IRModule(kernels), target=tvm.target.Target(target.tvm_target(threads)))
    runtime.set_threads(threads)
    sums = runtime.to_tensor(runtime.aligned_empty((threads, target.lanes), np.dtype(np.float32)))
    began, used = time.perf_counter(), time.process_time()
    flops = _flops(library["multiply_adds"], sums, target, threads)
    byte_operations = _byte_operations(library["byte_products"], target, threads)
    granted = (time.process_time() - used) / (time.perf_counter() - began) / threads
    bandwidth = _bandwidths(library["reading"], sums, target, threads)
    return {
        "flops": flops,
        "byte_operations": byte_operations,
        "granted": min(1.0, granted),
        "bandwidth": bandwidth,
    }


def _flops(kernel: Callable[..., None], sums: Any, target: Target, threads: int) -> float:
    operands = runtime.aligned_empty((2, target.lanes), np.dtype(np.float32))
    operands[:] = [[0.5], [1.0]]  # every chain tends to 2: no overflow, no denormals
    tensor = runtime.to_tensor(operands)
    return flops_per_call(target, threads) / _best(lambda: kernel(tensor, sums))


def _byte_operations(kernel: Callable[..., None], target: Target, threads: int) -> float:
    weights = runtime.aligned_empty(*byte_factors(target))
    weights.fill(3)
    sums = runtime.aligned_empty((threads, target.lanes), np.dtype(np.int32))
    tensors = runtime.to_tensor(weights), runtime.to_tensor(sums)
    return byte_operations_per_call(target, threads) / _best(lambda: kernel(*tensors))


def _bandwidths(kernel: Callable[..., None], sums: Any, target: Target, threads: int) -> list[tuple[int, float]]:
    buffer = _touched(max(SIZES))
    tensor = runtime.to_tensor(buffer)
    step = buffer.itemsize * step_elements(target, threads)
    found = []
    for size in SIZES:
        steps, passes = max(1, size // step), max(1, PASS_BYTES // size)
        seconds = _best(lambda steps=steps, passes=passes: kernel(steps, passes, tensor, sums))  # type: ignore[misc]
        found.append((size, steps * passes * step / seconds))
    return found


def _touched(size: int) -> NDArray[np.float32]:
    """Real pages of their own: what was never written reads from one page of zeros."""
    buffer = np.frombuffer(mmap.mmap(-1, size), np.float32)
    buffer.fill(1)
    return buffer


def _best(work: Callable[[], None]) -> float:
    """The shortest of several times: whatever disturbs a timing makes it longer."""
    seconds: list[float] = []
    while len(seconds) < FEWEST or sum(seconds) < SECONDS:
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
