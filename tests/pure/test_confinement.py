"""Limits on a process: each in a child, because they are the process's own."""

import subprocess
import sys
import textwrap

import pytest

from lowprec.confinement import memory_limit, time_limit

PREPARED = """
import resource
from lowprec import confinement
from lowprec.confinement import OutOfTime, confined, widen
confinement.BASE_SECONDS = 0.3
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    script = PREPARED + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_limits_grow_with_the_file() -> None:
    assert time_limit(0) == time_limit(64 << 20)
    assert time_limit(575 << 20) > 15
    assert memory_limit(64 << 20) < 1 << 30
    assert memory_limit(575 << 20) > 3 * (575 << 20)


def test_python_that_runs_too_long_is_stopped() -> None:
    done = run(
        """
        try:
            with confined(0):
                while True:
                    pass
        except OutOfTime:
            print("stopped")
        """
    )
    assert done.stdout == "stopped\n", done.stderr


def test_native_code_that_runs_too_long_ends_the_process() -> None:
    done = run(
        """
        with confined(0):
            sum(range(10**12))
        """
    )
    assert done.returncode == -24, done.stderr


@pytest.mark.parametrize("size", [0, 100 << 20])
def test_memory_beyond_the_limit_is_an_error(size: int) -> None:
    done = run(
        f"""
        import numpy
        try:
            with confined({size}):
                numpy.empty(confinement.memory_limit({size}) // 8 - 1_000_000)
                numpy.empty(confinement.memory_limit({size}) // 8 + 1_000_000)
        except MemoryError:
            print("refused")
        """
    )
    assert done.stdout == "refused\n" or "MemoryError" in done.stderr, done.stderr


def test_the_limits_widen_and_end() -> None:
    done = run(
        """
        import numpy
        before = resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)
        with confined(0):
            widen(1 << 30)
            numpy.empty(1 << 30, numpy.uint8)
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == confinement.memory_limit(1 << 30)
        assert (resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)) == before
        while resource.getrusage(resource.RUSAGE_SELF).ru_utime < 1:
            pass
        print("free")
        """
    )
    assert done.stdout == "free\n", done.stderr
