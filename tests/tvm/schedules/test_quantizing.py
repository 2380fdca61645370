"""Whole tensors through the quantizing kernel: the oracle's bits, for any size, place, pieces and number of threads.

Output memory is full of NaN, and what lies about it must stay as it was.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.formats import BF16, Binary, DynamicFixed, Fixed, Float, Format, Int, Specials
from lowprec.philox import key_of, random_bits
from lowprec.rounding import DRAWN, Rounding, round_to
from lowprec.schedules.quantizing import TASK_GROUPS, Quantizing, build_quantizing
from lowprec.targets import detect_features, machine_arch, parse_target
from tests.amounts import thinned

Values = NDArray[np.float32]

FORMAT = Fixed(2, 14)
SEED, NAME = 7, "weight"
CARRY = 2**34
"""The element with which the second word of the counter becomes 1."""

LINE = 16
"""float32 values of a cache line, which is where buffers begin."""

NATIVE = "native"
OTHERS = ("x86-64", "x86-64-v3", "x86-64-v4")


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel, by the name of its target."""

    count: int
    format: Format = FORMAT
    rounding: Rounding = Rounding.STOCHASTIC
    bits_used: int = DRAWN
    target: str = NATIVE

    @property
    def spec(self) -> Quantizing:
        fmt, target = self.format, parse_target(self.target)
        return Quantizing(count=self.count, format=fmt, rounding=self.rounding, bits_used=self.bits_used, target=target)


def group_of(name: str) -> int:
    return Case(0, target=name).spec.group


def need(name: str) -> None:
    """Skip the test where this CPU cannot run code for the target."""
    target = parse_target(name)
    missing = sorted(target.features - detect_features()) if target.arch == machine_arch() else [target.arch]
    if missing:
        pytest.skip(f"this CPU has no {', '.join(missing)}")


@cache
def kernel(case: Case) -> tvm_ffi.Function:
    machine = tvm.target.Target(case.spec.target.tvm_target(2))
    function: tvm_ffi.Function = tvm.compile(tvm.IRModule({"main": build_quantizing(case.spec)}), target=machine)[
        "main"
    ]
    return function


def values(count: int, seed: int = 0) -> Values:
    """Some of which saturate, some are in the format and some are special."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, count).astype(np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 0.5, -0.5, 3e38, -3e38], np.float32)
    chosen = rng.random(count) < 0.1
    x[chosen] = rng.choice(special, np.count_nonzero(chosen))
    return x


def guarded(count: int) -> tuple[Values, Values]:
    """A tensor full of NaN, and the memory that it lies in, a line of 77 before it and one behind."""
    memory = np.full(count + 3 * LINE, 77, np.float32)
    first = LINE + -(memory.ctypes.data // 4) % LINE
    tensor = memory[first : first + count]
    tensor[:] = np.nan
    return tensor, memory


def quantized(case: Case, x: Values, *, step: int = 0, start: int = 0, seed: int = SEED) -> Values:
    """What the kernel makes of `x`, which it leaves as it is; nothing outside is written."""
    (source, before), (result, after) = guarded(x.size), guarded(x.size)
    source[:] = x
    kernel(case)(tvm_ffi.from_dlpack(source), *key_of(seed, NAME), step, start, tvm_ffi.from_dlpack(result))
    assert source.tobytes() == x.tobytes()
    assert np.count_nonzero(before == 77) == np.count_nonzero(after == 77) == 3 * LINE
    return result


def expected(case: Case, x: Values, *, step: int = 0, start: int = 0, seed: int = SEED) -> Values:
    """The oracle's answer; NaN for NaN, which it refuses where the format has none."""
    bits = random_bits(seed, NAME, x.size, step=step, start=start)
    nan = np.isnan(x)
    known = round_to(np.where(nan, np.float32(0), x), case.format, case.rounding, bits=bits, bits_used=case.bits_used)
    return np.where(nan, np.float32(np.nan), known)


def assert_same(found: Values, wanted: Values) -> None:
    """Equal to the bit, but for what NaN says."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(found[numbers].view(np.uint32), wanted[numbers].view(np.uint32))


def check(case: Case, *, step: int = 0, start: int = 0, seed: int = SEED) -> None:
    x = values(case.count, case.count)
    found = quantized(case, x, step=step, start=start, seed=seed)
    assert_same(found, expected(case, x, step=step, start=start, seed=seed))


def starts(group: int) -> list[int]:
    """Each place in a block; the carry before, in and behind the first groups, and exactly between two; far places."""
    carries = [
        CARRY - back for back in (1, 3, 4, 100, group - 4, group, group + 1, group + 4, 2 * group, 2 * group + 6)
    ]
    return [*range(10), *carries, CARRY, CARRY + 1, 3 * CARRY - group - 3, 2**40 + 1, 2**62 + 5]


def sizes(group: int) -> list[int]:
    return [0, 1, 3, 4, 5, 101, group - 1, group, group + 1, 2 * group + 3, 997]


GROUP = group_of(NATIVE)
TASK = TASK_GROUPS * GROUP


@pytest.mark.parametrize("count", sizes(GROUP))
def test_any_size_at_any_place(count: int) -> None:
    for start in starts(GROUP):
        check(Case(count), start=start)


@pytest.mark.parametrize("count", [TASK - 1, TASK + 3, 3 * TASK + GROUP + 2])
def test_tasks_end_where_the_next_begins(count: int) -> None:
    """With the carry in the first task, between two and in the last."""
    for start in (0, 1, CARRY - TASK - 2, CARRY - TASK, CARRY - count + 9, CARRY - 5):
        check(Case(count), start=start)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("groups", [0, 2])
def test_other_targets(name: str, groups: int) -> None:
    need(name)
    group = group_of(name)
    for start in starts(group):
        check(Case(groups * group + 3, target=name), start=start)


def test_the_carry_in_the_middle_of_a_tensor() -> None:
    """Its 4 * 2^32 elements are where the low word of the counter begins again."""
    for back in range(100, 105):
        check(Case(1000), start=4 * 2**32 - back)


FORMATS: tuple[Format, ...] = (Int(8), DynamicFixed(12, -20), BF16, Float(4, 3, Specials.NAN), Binary())


@pytest.mark.parametrize(("fmt", "bits_used"), list(zip(FORMATS, (32, 1, 8, 24, 8), strict=True)), ids=str)
def test_formats(fmt: Format, bits_used: int) -> None:
    for start in (0, 3, CARRY - GROUP - 1):
        check(Case(GROUP + 5, fmt, bits_used=bits_used), start=start)


@pytest.mark.parametrize("rounding", [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC])
def test_other_roundings_draw_nothing(rounding: Rounding) -> None:
    case = Case(2 * GROUP + 3, rounding=rounding)
    x = values(case.count)
    for start, step, seed in ((0, 0, 0), (3, 9, 9), (CARRY - 50, 1, 1)):
        assert_same(quantized(case, x, start=start, step=step, seed=seed), expected(case, x))


@given(st.integers(-(2**40), 2**40), st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1 - 4 * GROUP))
def test_any_key_step_and_place(seed: int, step: int, start: int) -> None:
    check(Case(GROUP + 5), step=step, start=start, seed=seed)


@pytest.mark.parametrize("step", [1, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("seed", [-1, 2**31, 2**32 - 1])
def test_keys_and_steps_have_all_bits_of_a_word(seed: int, step: int) -> None:
    check(Case(GROUP + 5), step=step, seed=seed)


PIECES = sorted({1, 3, 4, 5, 101, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP + 3}, reverse=True)
WHOLE = 997


@st.composite
def splits(draw: st.DrawFn) -> list[int]:
    """Sizes out of `PIECES` that add up to `WHOLE`, in any order."""
    found: list[int] = []
    while left := WHOLE - sum(found):
        fitting = [size for size in PIECES if size <= left]
        found.append(draw(st.sampled_from(fitting)) if len(found) < 12 else fitting[0])
    return draw(st.permutations(found))


@given(splits(), st.one_of(st.integers(0, 9), st.integers(CARRY - WHOLE, CARRY), st.integers(0, 2**62)))
def test_pieces_are_the_whole(sizes: list[int], start: int) -> None:
    x = values(WHOLE)
    whole = quantized(Case(WHOLE), x, start=start)
    ends = np.cumsum(sizes).tolist()
    pieces = [
        quantized(Case(size), x[end - size : end], start=start + end - size)
        for size, end in zip(sizes, ends, strict=True)
    ]
    assert_same(np.concatenate(pieces), whole)


CHILD = """
import sys
sys.modules["torch"] = None  # which tvm_ffi would import
import numpy as np
import tvm
import tvm_ffi
from lowprec.formats import Fixed
from lowprec.rounding import Rounding
from lowprec.runtime import set_threads
from lowprec.schedules.quantizing import Quantizing, build_quantizing
from lowprec.targets import parse_target

source, result, threads, *scalars = sys.argv[1:]
assert set_threads(int(threads))
x, target = np.load(source), parse_target("native")
spec = Quantizing(count=x.size, format=Fixed(2, 14), rounding=Rounding.STOCHASTIC, target=target)
machine = tvm.target.Target(target.tvm_target(int(threads)))
function = tvm.compile(tvm.IRModule({"main": build_quantizing(spec)}), target=machine)["main"]
for turn in range(3):
    tensors = [tvm.runtime.tensor(array) for array in (x, np.full_like(x, np.nan))]
    function(tensors[0], *map(int, scalars), tensors[1])
    np.save(result + str(turn), tensors[1].numpy())
print(tvm_ffi.get_global_func("runtime.NumThreads")())
"""


@pytest.mark.parametrize("threads", thinned([1, 2, 3, 7], first=1))
def test_threads_do_not_change_bits(threads: int, tmp_path: Path) -> None:
    """Nine tasks, three times, in a process with so many threads, be that more than there are cores."""
    case, step, start = Case(7 * TASK + GROUP + 5), 3, CARRY - 2 * TASK - 3
    x = values(case.count)
    source, result = tmp_path / "x.npy", tmp_path / "y"
    np.save(source, x)
    words = map(str, (source, result, threads, *key_of(SEED, NAME), step, start))
    environment = {**os.environ, "TVM_NUM_THREADS": str(threads)}
    command = [sys.executable, "-W", "ignore", "-c", CHILD, *words]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) == threads
    for turn in range(3):
        assert_same(np.load(f"{result}{turn}.npy"), expected(case, x, step=step, start=start))
