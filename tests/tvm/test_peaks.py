"""The kernels that measure the machine do what they are counted for, and the child that times them answers."""

import numpy as np
import pytest
import tvm

from lowprec.peak_timing import SIZES
from lowprec.peaks import measure_peaks
from lowprec.schedules import peaks as kernels
from lowprec.targets import Target, parse_target

NAMES = ("x86-64", "x86-64-v3", "native")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("threads", [1, 3])
def test_multiply_adds_does_all_of_its_rounds(name: str, threads: int) -> None:
    """chain * 1 + 2**-6, from chain k's start of k / 64: a sum that float32 holds exactly."""
    target = parse_target(name)
    library = tvm.compile(tvm.IRModule({"multiply_adds": kernels.multiply_adds(target, threads)}), _machine(target))
    operands = np.array([[1.0], [1 / 64]], np.float32).repeat(target.lanes, axis=1)
    result = tvm.runtime.tensor(np.full((threads, target.lanes), np.nan, np.float32))
    library["multiply_adds"](tvm.runtime.tensor(operands), result)
    starts = sum(range(kernels.chains(target)))
    expected = (kernels.chains(target) * kernels.ROUNDS + starts) / 64
    assert np.array_equal(result.numpy(), np.full((threads, target.lanes), expected, np.float32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("threads", "steps", "passes"), [(1, 1, 1), (1, 7, 3), (2, 5, 2), (3, 4, 1)])
def test_reading_reads_every_element_in_every_pass(name: str, threads: int, steps: int, passes: int) -> None:
    target = parse_target(name)
    library = tvm.compile(tvm.IRModule({"reading": kernels.reading(target, threads)}), _machine(target))
    count = steps * kernels.step_elements(target, threads)
    values = np.random.default_rng(0).integers(0, 9, count).astype(np.float32)
    beyond = np.full(64, np.nan, np.float32)
    result = tvm.runtime.tensor(np.full((threads, target.lanes), np.nan, np.float32))
    library["reading"](steps, passes, tvm.runtime.tensor(np.concatenate([values, beyond])), result)
    shares = values.reshape(threads, -1, target.lanes).sum(axis=1)
    assert np.array_equal(result.numpy(), passes * shares)


def test_the_machine_is_measured_in_a_child(capfd: pytest.CaptureFixture[str]) -> None:
    peaks = measure_peaks(1)
    assert peaks.threads == 1
    assert peaks.flops > 0
    assert tuple(peaks.read_bandwidth) == SIZES
    assert min(peaks.read_bandwidth.values()) > 0
    assert 0 < peaks.granted <= 1
    assert capfd.readouterr() == ("", "")


def _machine(target: Target) -> tvm.target.Target:
    return tvm.target.Target(target.tvm_target(1))
