"""Limits on the process that reads a stranger's file: memory and processor time, in force until the model is accepted.

They bound what the checks before them may have missed. Processor time, not wall time: a busy machine refuses nobody.
"""

import ctypes
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

MEBI = 1 << 20
BASE_BYTES = 700 * MEBI
BYTES_PER_BYTE = 3
BASE_SECONDS = 3.5
SECONDS_PER_MEBI = 0.03
FREE_MEBI = 64


class OutOfTime(Exception):
    """The time limit was met between two steps of Python."""


def memory_limit(model_bytes: int) -> int:
    """Bytes of private memory that reading a model of that size may take."""
    return BASE_BYTES + BYTES_PER_BYTE * model_bytes


def time_limit(model_bytes: int) -> float:
    """Seconds of processor time that reading a model of that size may take."""
    return BASE_SECONDS + SECONDS_PER_MEBI * max(0, model_bytes // MEBI - FREE_MEBI)


@contextmanager
def confined(model_bytes: int) -> Iterator[None]:
    """Runs its body under the limits; raises `OutOfTime` or MemoryError, or (inside native code) ends the process."""
    memory = resource.getrlimit(resource.RLIMIT_DATA)
    processor = resource.getrlimit(resource.RLIMIT_CPU)
    seconds = time_limit(model_bytes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    handler = signal.signal(signal.SIGPROF, _out_of_time)
    try:
        _set_soft(resource.RLIMIT_DATA, memory_limit(model_bytes), memory)
        _set_soft(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds + 1.0), processor)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_CPU, processor)
        resource.setrlimit(resource.RLIMIT_DATA, memory)


def widen(model_bytes: int) -> None:
    """Inside `confined`, once it is known how much data the model brings beside its file."""
    memory = resource.getrlimit(resource.RLIMIT_DATA)
    _set_soft(resource.RLIMIT_DATA, memory_limit(model_bytes), memory)
    left, _ = signal.getitimer(signal.ITIMER_PROF)
    if left:
        extra = time_limit(model_bytes) - time_limit(0)
        signal.setitimer(signal.ITIMER_PROF, left + extra)
        soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
        _set_soft(resource.RLIMIT_CPU, soft + int(extra) + 1, (soft, hard))


def _set_soft(which: int, wanted: int, current: tuple[int, int]) -> None:
    hard = current[1]
    resource.setrlimit(which, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise OutOfTime


def die_with_parent() -> None:
    """Linux: this process is killed when the one that started it is gone (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
