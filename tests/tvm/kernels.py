"""Building and running one kernel in a test."""

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import tirx

from lowprec.schedules.windows import Window
from lowprec.targets import Target

Array = NDArray[np.float32]


def run_kernel(kernel: tirx.PrimFunc, target: Target, arguments: list[Array], result: Array, threads: int = 1) -> Array:
    """What the kernel leaves in `result`."""
    machine = tvm.target.Target(target.tvm_target(threads))
    function = tvm.compile(tvm.IRModule({"main": kernel}), target=machine)
    tensors = [tvm.runtime.tensor(array) for array in (*arguments, result)]
    function(*tensors)
    return np.array(tensors[-1].numpy())


def place(window: Window, values: Array, *, outside: float = 0.0) -> Array:
    """A physical tensor with `values` in the window."""
    physical = np.full(window.shape, outside, np.float32)
    physical[_slices(window)] = values
    return physical


def cut(window: Window, physical: Array) -> Array:
    """The window of a physical tensor."""
    return physical[_slices(window)]


def padded(extents: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]) -> Window:
    """A window of `extents` with borders."""
    shape = tuple(b + n + a for b, n, a in zip(before, extents, after, strict=True))
    return Window(shape=shape, begin=before, extents=extents)


def _slices(window: Window) -> tuple[slice, ...]:
    return tuple(slice(begin, begin + n) for begin, n in zip(window.begin, window.extents, strict=True))
