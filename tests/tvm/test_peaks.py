"""The kernels that measure the machine do what they are counted for, and the child that times them answers."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray

from lowprec.peak_timing import SIZES
from lowprec.peaks import measure_peaks
from lowprec.schedules import peaks as kernels
from lowprec.schedules.arithmetic import Way, arithmetic_of
from lowprec.targets import Target, native, parse_target

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
def test_products_of_bytes_do_all_of_their_rounds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chain adds the products of its own bits with ones, round after round, as int32 wraps."""
    monkeypatch.setattr(kernels, "ROUNDS", 5)
    target, threads = parse_target(name), 2
    if target.has("amx_int8"):
        target = replace(target, features=target.features - {"amx_int8"})
    how = arithmetic_of("uint8", target)
    library = tvm.compile(tvm.IRModule({"byte_products": kernels.byte_products(target, threads)}), _machine(target))
    result = tvm.runtime.tensor(np.zeros((threads, target.lanes), np.int32))
    library["byte_products"](tvm.runtime.tensor(np.ones(how.word * target.lanes, how.weights)), result)
    chains = np.arange(1, kernels.byte_chains(target) + 1, dtype=np.int32)
    for _ in range(5):
        chains = chains + _own_products(chains, how.way)
    assert np.array_equal(result.numpy(), np.full((threads, target.lanes), chains.sum(dtype=np.int32)))
    assert kernels.byte_operations_per_call(target, threads) % (2 * 5 * how.word * target.lanes * threads) == 0


@pytest.mark.skipif(not native().has("amx_int8"), reason="this CPU has no AMX")
def test_products_of_tiles_do_all_of_their_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sum of every chain is one of 64 products of twos, round after round."""
    monkeypatch.setattr(kernels, "ROUNDS", 5)
    target, threads = native(), 2
    library = tvm.compile(tvm.IRModule({"byte_products": kernels.byte_products(target, threads)}), _machine(target))
    result = tvm.runtime.tensor(np.zeros((threads, target.lanes), np.int32))
    library["byte_products"](tvm.runtime.tensor(np.full(64, 2, np.int8)), result)
    assert (result.numpy() == kernels.AMX_CHAINS * 5 * 64 * 4).all()
    assert kernels.byte_operations_per_call(target, threads) == 2 * 5 * kernels.AMX_CHAINS * 16 * 16 * 64 * threads


def _own_products(chains: NDArray[np.int32], way: Way) -> NDArray[np.int32]:
    """Of bytes, unsigned; of halves, twice; of all."""
    if way is Way.WORDS:
        return np.asarray(chains.view(np.uint8).reshape(-1, 4).sum(1, dtype=np.int32))
    if way is Way.PAIRS:
        return np.asarray(2 * chains.view(np.int16).reshape(-1, 2).sum(1, dtype=np.int32))
    return chains


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
    assert peaks.byte_operations > peaks.flops / 4
    assert tuple(peaks.read_bandwidth) == SIZES
    assert min(peaks.read_bandwidth.values()) > 0
    assert 0 < peaks.granted <= 1
    assert capfd.readouterr() == ("", "")


def _machine(target: Target) -> tvm.target.Target:
    return tvm.target.Target(target.tvm_target(1))
