"""The machine under a benchmark: its name and state, and what it can do at best, measured.

The peak is fp32 multiply-adds in registers, ten independent chains (peaks.c), one copy a thread; bandwidth is reading a
buffer over and over, by size, so that what fits a cache is not held against memory. Both are compiled by the system's C
compiler, for this CPU, at the vector width the compiler of this project would use: independent of every engine.

A bound is the least time that any direct convolution could take: the larger of operations over the peak and bytes over
the bandwidth. An algorithm with fewer operations (Winograd) may beat it, and is meant to.
"""

import ctypes
import math
import mmap
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lowprec.errors import EnvironmentMismatch
from lowprec.targets import Target, available_cores, detect_features, native

SOURCE = Path(__file__).with_name("peaks.c")
SIZES = (256 << 10, 4 << 20, 32 << 20, 256 << 20, 1 << 30)
PACKAGES = ("lowprec", "apache-tvm", "numpy", "onnx", "onnxruntime", "openvino", "torch")
FLOAT_BYTES = 4
QUIET_LOAD = 0.3
"""Load average, beyond the benchmark's own threads, from which neighbours may disturb a timing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Measured with all `threads` busy at once: operations a second, bytes a second by size of what is read."""

    threads: int
    flops: float
    read_bandwidth: Mapping[int, float]

    def bound_s(self, *, macs: int, read: int, working_set: int) -> float:
        """The least seconds for so many multiply-adds and bytes, when `working_set` bytes pass between two visits."""
        return max(2 * macs / self.flops, read / self.bandwidth(working_set))

    def bandwidth(self, working_set: int) -> float:
        """Of the largest measured buffer not larger than the working set: never pessimistic."""
        smallest = min(self.read_bandwidth)
        return self.read_bandwidth[max(size for size in self.read_bandwidth if size <= max(working_set, smallest))]

    def __str__(self) -> str:
        curve = ", ".join(f"{_size(size)} {speed / 1e9:.0f}" for size, speed in self.read_bandwidth.items())
        return f"fp32 peak {self.flops / 1e9:.0f} GFLOPS, read GB/s: {curve} ({self.threads} threads, measured)"


def describe() -> dict[str, Any]:
    """What identifies the machine and its state now, for a result's record."""
    load = os.getloadavg()
    return {
        "cpu": _cpu_name(),
        "features": sorted(detect_features()),
        "cores": available_cores(),
        "cache": _caches(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not shown",
        "load_average": [round(value, 2) for value in load],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def measure(threads: int, target: Target | None = None) -> Peaks:
    """The peaks, in about two seconds, with vectors as wide as the target's."""
    vector = FLOAT_BYTES * (target or native()).lanes
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(_compile(Path(folder), vector)))
        library.fma_chains.argtypes = [ctypes.c_long, ctypes.c_float]
        library.fma_chains.restype = ctypes.c_float
        library.read_passes.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
        library.read_passes.restype = ctypes.c_float
        flops = _flops(library, threads)
        bandwidth = {size: _bandwidth(library, size, threads, vector) for size in SIZES}
    return Peaks(threads=threads, flops=flops, read_bandwidth=bandwidth)


def record(peaks: Peaks) -> dict[str, Any]:
    """Machine and peaks as JSON."""
    measured = asdict(peaks) | {"read_bandwidth": {str(size): speed for size, speed in peaks.read_bandwidth.items()}}
    return describe() | {"peaks": measured}


def noise(threads: int) -> str:
    """A warning when others use the machine now, or an empty string."""
    load = os.getloadavg()[0]
    spare = available_cores() - threads
    if load <= spare + QUIET_LOAD:
        return ""
    return f"the load average is {load:.1f} before the start: others use this machine, and the figures are noisy"


def _compile(folder: Path, vector: int) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        raise EnvironmentMismatch("no C compiler `cc` found: the machine's peaks are measured with one; install gcc")
    library = folder / "peaks.so"
    width = f"-DBYTES={vector}"
    command = [
        compiler,
        "-O3",
        "-march=native",
        "-ffp-contract=fast",
        width,
        "-shared",
        "-fPIC",
        str(SOURCE),
        "-o",
        str(library),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentMismatch(f"{compiler} cannot compile {SOURCE.name}: {done.stderr.strip().splitlines()[0]}")
    return library


def _flops(library: ctypes.CDLL, threads: int) -> float:
    rounds = 1_000_000
    seconds = _best(lambda _: library.fma_chains(rounds, 1.0), threads)
    return threads * rounds * int(library.fma_flops_per_round()) / seconds


def _bandwidth(library: ctypes.CDLL, size: int, threads: int, vector: int) -> float:
    """Every thread reads a buffer of its own, together of the size."""
    passes = max(1, (256 << 20) // size)
    share = size // threads
    buffers = [mmap.mmap(-1, share + vector) for _ in range(threads)]
    starts = []
    for buffer in buffers:
        for begin in range(0, share, 1 << 20):  # real pages: what was never written reads from one page of zeros
            buffer[begin : begin + (1 << 20)] = b"\1" * len(buffer[begin : begin + (1 << 20)])
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        starts.append(math.ceil(address / vector) * vector)
    seconds = _best(lambda k: library.read_passes(starts[k], share // vector, passes), threads)
    return threads * (share // vector * vector) * passes / seconds


def _best(work: Callable[[int], object], threads: int, repeats: int = 10) -> float:
    """The shortest time in which every thread does its work; ctypes lets go of the interpreter's lock."""

    def timed() -> float:
        began = time.perf_counter()
        list(pool.map(work, range(threads)))
        return time.perf_counter() - began

    with ThreadPoolExecutor(threads) as pool:
        return min(timed() for _ in range(repeats))


def _cpu_name() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    kinds = {"Data": "d", "Instruction": "i"}
    return {
        f"L{_read(folder / 'level')}{kinds.get(_read(folder / 'type'), '')}": _read(folder / "size")
        for folder in folders
    }


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _size(count: int) -> str:
    return (
        f"{count >> 30} GiB" if count >= 1 << 30 else f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
    )


if __name__ == "__main__":
    for key, value in describe().items():
        print(f"{key}: {value}")
    print(measure(available_cores()))
