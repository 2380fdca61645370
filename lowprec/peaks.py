"""What this machine can do at best, measured, and how long a kernel must take at least by that.

    peaks = measure_peaks(threads=2)
    peaks.bound(cost, far=weights_of_the_network)

A peak is multiply-adds in registers, of fp32 or of bytes; bandwidth is reading a buffer over and over, by size, so that
what fits a cache is not held against memory. An algorithm with fewer multiplications than the model's (Winograd) may
beat a bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lowprec import isolation
from lowprec.layers import Cost


class Limit(StrEnum):
    """What keeps a kernel from being faster."""

    COMPUTE = "compute"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The least seconds, and what takes them."""

    seconds: float
    limit: Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Measured with all `threads` busy at once: operations a second, bytes a second by size of what is read.

    `byte_operations` are those of products of 8-bit integers, summed in 32, by the instructions that kernels use here.
    `granted` is the share of the threads' time that the system gave them meanwhile: below 1, others had the rest.
    """

    threads: int
    flops: float
    byte_operations: float
    read_bandwidth: Mapping[int, float]
    granted: float = 1.0

    def bound(self, cost: Cost, *, far: int, byte_steps: int = 0) -> Bound:
        """Of one kernel; `far` bytes pass between two visits to its weights, so those come from as far away; a product
        takes as long as `byte_steps` of bytes, or where there are none as one of float32.

        Its tensors may be where the kernel before left them: all that moves is taken to lie as near as it fits.
        """
        compute = 2 * cost.macs / (self.byte_operations / byte_steps if byte_steps else self.flops)
        near_seconds = cost.bytes / self.bandwidth(cost.bytes)
        memory = max(near_seconds, cost.weight_bytes / self.bandwidth(max(far, cost.bytes)))
        return Bound(seconds=max(compute, memory), limit=Limit.COMPUTE if compute > memory else Limit.MEMORY)

    def bandwidth(self, working_set: int) -> float:
        """Of the largest measured buffer not larger than the working set: never pessimistic."""
        smallest = min(self.read_bandwidth)
        return self.read_bandwidth[max(size for size in self.read_bandwidth if size <= max(working_set, smallest))]

    def to_json(self) -> dict[str, Any]:
        curve = {str(size): speed for size, speed in self.read_bandwidth.items()}
        return {
            "threads": self.threads,
            "flops": self.flops,
            "byte_operations": self.byte_operations,
            "read_bandwidth": curve,
            "granted": self.granted,
        }

    def __str__(self) -> str:
        curve = ", ".join(f"{_size(size)} {speed / 1e9:.0f}" for size, speed in self.read_bandwidth.items())
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        peaks = f"fp32 peak {self.flops / 1e9:.0f} GFLOPS, int8 peak {self.byte_operations / 1e9:.0f} GOPS"
        return f"measured on {threads}: {peaks}, read GB/s: {curve}"


def measure_peaks(threads: int) -> Peaks:
    """The peaks of `threads` threads, in about two seconds, by kernels that a child process builds."""
    found = isolation.run("peaks", {"threads": threads}, model_bytes=0)
    curve = {int(size): float(speed) for size, speed in found["bandwidth"]}
    return Peaks(
        threads=threads,
        flops=found["flops"],
        byte_operations=found["byte_operations"],
        read_bandwidth=curve,
        granted=found["granted"],
    )


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
