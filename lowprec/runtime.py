"""TVM's runtime without TVM: a library of kernels opened, its weights bound, its virtual machine called.

Only `tvm_ffi` and `libtvm_runtime.so` (3 MB) are loaded, never TVM's Python package or its compiler library (259 MB).

Invariants:

1. Kernels assume 64-byte aligned, contiguous arrays, but for the model's inputs, which a manifest may let lie anywhere.
   Nothing in TVM checks it: whatever is passed in is so.
2. A virtual machine and TVM's thread pool belong to one thread: a `Machine` is made and called by one thread only.
3. The caller's process keeps its CPU affinity: TVM would pin the calling thread to the first cores.
"""

import concurrent.futures
import ctypes
import functools
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import EnvironmentMismatch
from lowprec.manifest import ALIGNMENT, NARROW_BITS, dtype_of
from lowprec.tensors import TensorSpec
from lowprec.tile_permission import ask_for_tiles

Array = NDArray[np.generic]

_CPU, _DEVICE_ID, _POOLED = 1, 0, 2
_SHARE_ALL_CORES = -3  # TVM's affinity mode; with TVM_BIND_THREADS=0 it sets the number of workers and pins nothing
_SPIN_COUNT = "10000"  # looks for work before a worker sleeps: about 2 ms; TVM's own 300,000 burn a core for 75 ms

_import_lock = threading.Lock()
_opened: dict[Path, list[tuple[int, int]]] = {}
"""The files that have been opened at each place, by device and number."""
_fork_generation = 0


@functools.cache
def ffi() -> Any:
    """`tvm_ffi` with TVM's runtime library loaded."""
    with _import_lock:
        module = _import_without_torch()
    # Read whenever a pool of workers is made. Unset, TVM pins the calling thread, which is the user's.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", _SPIN_COUNT)
    try:
        ctypes.CDLL(str(runtime_library()), ctypes.RTLD_GLOBAL)
    except OSError as problem:
        raise EnvironmentMismatch(f"TVM's runtime library cannot be loaded ({problem}); {_REINSTALL}") from None
    return module


_REINSTALL = "reinstall lowprec with its pinned versions, then run `lowprec doctor`"


def runtime_library() -> Path:
    """Where the installed TVM keeps its runtime library; finds the package without importing it."""
    spec = importlib.util.find_spec("tvm")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        candidate = Path(folder) / "lib" / "libtvm_runtime.so"
        if candidate.is_file():
            return candidate
    raise EnvironmentMismatch(f"apache-tvm is not installed with its runtime library; {_REINSTALL}")


def _import_without_torch() -> Any:
    """`import tvm_ffi`, which imports torch when that is installed, for conversions that are not used here.

    That costs 1 s and 200 MB, so torch is hidden for the length of this import alone, and only if nobody has loaded it.
    NumPy arrays, and torch tensors too, still go through the standard `__dlpack__` protocol.
    """
    hide = "torch" not in sys.modules and "tvm_ffi" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]  # the import system's own mark for "not importable"
    try:
        return importlib.import_module("tvm_ffi")
    except (ImportError, OSError, RuntimeError) as problem:
        raise EnvironmentMismatch(f"apache-tvm-ffi cannot be loaded ({problem}); {_REINSTALL}") from None
    finally:
        if hide:
            del sys.modules["torch"]


def allow_amx() -> None:
    """Ask Linux to let this process use AMX tiles; without that the first tile instruction is SIGILL."""
    if reason := ask_for_tiles():
        raise EnvironmentMismatch(f"Linux refuses AMX to this process ({reason}): Linux 5.16 or later is needed")


def allow_amx_with(features: Iterable[str]) -> None:
    """`allow_amx` where code for a CPU with these features, by Linux's names, may use tiles."""
    if any(feature.startswith("amx") for feature in features):
        allow_amx()


def open_library(path: Path) -> Any:
    """The compiled library at `path`, which must have been checked already: opening it runs its code."""
    try:
        return ffi().load_module(_spelled(path.resolve()))
    except RuntimeError as problem:
        reason = str(problem).strip().splitlines()[-1]
        raise EnvironmentMismatch(f"{path} cannot be opened ({reason}); compile the model again") from None


def _spelled(path: Path) -> str:
    """A name of the file that none before it at this place was opened by: the loader knows what it has opened by name,
    and would take a library that has been replaced since for the new one."""
    status = path.stat()
    with _import_lock:
        found = _opened.setdefault(path, [])
        if (status.st_dev, status.st_ino) not in found:
            found.append((status.st_dev, status.st_ino))
        number = found.index((status.st_dev, status.st_ino))
    return f"{path.parent}/{'./' * number}{path.name}"


def aligned_empty(shape: Sequence[int], dtype: np.dtype[np.generic]) -> Array:
    """An uninitialized array whose first element is at a multiple of 64 bytes."""
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(count + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + count].view(dtype).reshape(shape)


def is_ready(array: Array, alignment: int) -> bool:
    """Whether kernels can read the array where it is. NumPy's DLPack refuses read-only arrays."""
    flags = array.flags
    return array.ctypes.data % alignment == 0 and flags.aligned and flags.c_contiguous and flags.writeable


def to_tensor(array: Array) -> Any:
    """The array's own memory as a TVM tensor; the array must be ready."""
    if array.dtype.isbuiltin == 1 and array.size:
        return ffi().from_dlpack(array)
    # NumPy's DLPack knows no bfloat16, and gives empty arrays strides that TVM does not take for contiguous.
    words = ffi().from_dlpack(array.reshape(-1).view(f"u{array.dtype.itemsize}"))
    kind = "uint8" if array.dtype.name in NARROW_BITS else array.dtype.name
    return _create_view()(words, ffi().Shape(array.shape), ffi().dtype(kind), 0)


def to_array(tensor: Any, spec: TensorSpec, *, shared: bool) -> Array:
    """The tensor as an array that belongs to the caller: its own memory, which goes back to TVM's pool with the array,
    or a copy where that memory is something else's too."""
    dtype = dtype_of(spec.dtype)
    if dtype.isbuiltin != 1:
        words = ffi().dtype(f"uint{8 * dtype.itemsize}")
        tensor = _create_view()(tensor, ffi().Shape(spec.shape), words, 0)
    values = borrow(tensor).view(dtype)
    assert values.shape == spec.shape, (spec, values.shape)
    return values.copy() if shared else values


def borrow(tensor: Any) -> Array:
    """The tensor's own memory as an array, which keeps it from going back to TVM's pool."""
    return np.from_dlpack(tensor)


@functools.cache
def _create_view() -> Callable[..., Any]:
    function: Callable[..., Any] = ffi().get_global_func("runtime.TVMTensorCreateView")
    return function


@functools.cache
def _config_threadpool() -> Callable[..., Any]:
    function: Callable[..., Any] = ffi().get_global_func("runtime.config_threadpool")
    return function


@functools.cache
def _count_threads() -> Callable[[], int]:
    function: Callable[[], int] = ffi().get_global_func("runtime.NumThreads")
    return function


class _Pool(threading.local):
    """What this thread's pool of TVM workers has been set to: 0 when it has none yet."""

    threads = 0
    generation = 0


_pool = _Pool()


def set_threads(count: int) -> bool:
    """Give the calling thread's pool `count` workers. False when that cannot be: TVM's pool never grows past the size
    it was made with, and does not survive a fork."""
    if _pool.threads == 0:
        _pool.generation = _fork_generation
    if _pool.generation != _fork_generation:
        return False
    if _pool.threads != count or _count_threads()() != count:
        _config_threadpool()(_SHARE_ALL_CORES, count, _cores(count))
        _pool.threads = _count_threads()()
    return _pool.threads == count


def _cores(count: int) -> list[str]:
    """As many core numbers as workers: TVM takes the list's length for the size of the pool."""
    allowed = sorted(os.sched_getaffinity(0))
    return [str(allowed[index % len(allowed)]) for index in range(count)]


def fork_generation() -> int:
    """A number that differs between this process and the one it was forked from."""
    return _fork_generation


def _note_fork() -> None:
    global _fork_generation
    _fork_generation += 1


os.register_at_fork(after_in_child=_note_fork)


class Machine:
    """One virtual machine over an open library, weights bound, for the thread that makes it."""

    __slots__ = ("_executor", "_main", "_threads", "_vm")

    def __init__(self, library: Any, weights: Sequence[Any], threads: int) -> None:
        self._vm = library["vm_load_executable"]()
        self._vm["vm_initialization"](_CPU, _DEVICE_ID, _POOLED)
        # Closes over the weights, main's last arguments: a call then passes its inputs alone.
        self._vm["save_function"]("main", "bound", True, *weights)
        self._main = self._vm["bound"]
        self._threads = threads
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The output tensors, in the model's order."""
        if self._executor is None and not set_threads(self._threads):
            self._executor = _fresh_thread(self._threads)
        result = self._main(*inputs) if self._executor is None else self._executor.submit(self._main, *inputs).result()
        return (result,) if isinstance(result, ffi().Tensor) else tuple(result)

    def instrument(self, observer: Callable[..., None]) -> None:
        """Have `observer(function, symbol, before, result, *arguments)` called around every kernel, for good."""
        self._vm["set_instrument"](ffi().convert(observer))


def _fresh_thread(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    """A thread whose pool can still get any size."""
    return concurrent.futures.ThreadPoolExecutor(1, "lowprec", initializer=set_threads, initargs=(threads,))
