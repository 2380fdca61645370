"""Random bits inside compiled kernels: the known answers of Philox4x32-10, and the oracle's words bit for bit.

A kernel's counter has 0 for its fourth word, and an element's second word is below 2^30. Both words meet nothing but
the first round's keys, by xor: so the known answers that need other words come by other keys there.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.philox import BLOCK, key_of, philox4x32, random_bits
from lowprec.schedules.philox import Interleaved, Stream, blocks, element_word, stream
from lowprec.schedules.views import load, named, splat, store
from lowprec.targets import Target, detect_features, machine_arch, parse_target

Words = NDArray[np.uint32]
Body = Callable[[Stream, Expr, tirx.Buffer], None]

WORD = 2**32
SCALARS = ("key0", "key1", "step", "second", "fourth", "zero", "first")
GARBAGE = 0x9E3779B97F4A7C15 & ~(WORD - 1)
"""For the high halves of lanes, at which nobody may look."""

WIDTHS = (1, 2, 4, 8)
TARGETS = ("x86-64", "native")

ANSWERS = {
    "zeros": ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": ((WORD - 1,) * 4, (WORD - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}
"""From the authors' Random123: counter, key, words."""

KINDS = [
    *(("blocks", lanes, 3) for lanes in WIDTHS),
    *(("elements", lanes, 1) for lanes in WIDTHS),
    *(("rows", lanes, count) for lanes in WIDTHS[1:] for count in (1, 6)),
]
"""What is written, the lanes of a vector, and how many vectors."""
SEEDS = st.tuples(st.integers(-(2**33), 2**33), st.text(max_size=9), st.integers(0, WORD - 1))


def target_of(name: str) -> Target:
    """A target that this CPU can run, or a skipped test."""
    target = parse_target(name)
    missing = sorted(target.features - detect_features())
    if target.arch != machine_arch() or missing:
        pytest.skip(f"{name} needs {target.arch} {' '.join(missing)}, which this CPU is not or has not")
    return target


def iota(lanes: int) -> Expr:
    """0, 1, 2, ... in the lanes of a uint64 vector, by way of memory."""
    room = T.alloc_buffer((lanes,), "uint64", scope="global")
    for lane in range(lanes):
        store(room, lane, tirx.const(lane, "uint64"), 1)
    return load(room, 0, lanes)


def row(first: Expr, lanes: int, count: int) -> list[Expr]:
    """`count` vectors that count on from `first`."""
    order = iota(lanes)
    return [named(splat(named(first + tirx.const(i * lanes, "uint64")), lanes) + order) for i in range(count)]


def write_blocks(lanes: int, count: int) -> Body:
    """All first words of a vector of blocks, then all second words, and so on, then the next vector."""

    def body(source: Stream, first: Expr, y: tirx.Buffer) -> None:
        garbage = tirx.const(GARBAGE, "uint64")
        high = named(first >> tirx.const(32, "uint64") | garbage)
        numbers = [named(number ^ splat(garbage, lanes)) for number in row(first, lanes, count)]
        words = [word for block in blocks(source, numbers, high) for word in block]
        for i, word in enumerate(words):
            store(y, i * lanes, tirx.Cast("uint32" if lanes == 1 else f"uint32x{lanes}", word), lanes)

    return body


def write_elements(lanes: int, count: int) -> Body:
    def body(source: Stream, first: Expr, y: tirx.Buffer) -> None:
        for i, position in enumerate(row(first, lanes, BLOCK * count)):
            store(y, i * lanes, element_word(source, position), lanes)

    return body


def write_rows(lanes: int, count: int) -> Body:
    def body(source: Stream, first: Expr, y: tirx.Buffer) -> None:
        for i, complements in enumerate(Interleaved(source, lanes).complements(first, count)):
            store(y, i * 2 * lanes, ~complements, 2 * lanes)

    return body


BODIES: dict[str, Callable[[int, int], Body]] = {
    "blocks": write_blocks,
    "elements": write_elements,
    "rows": write_rows,
}


def build(body: Body, size: int) -> tirx.PrimFunc:
    """A kernel of `SCALARS`, each in an int64, and `size` words to write."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        arguments = {name: T.arg(name, tirx.Var(name, "int64")) for name in SCALARS}
        y = T.arg("Y", T.buffer((size,), "uint32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        key0, key1, step = (named(tirx.Cast("uint32", arguments[name])) for name in SCALARS[:3])
        source = stream(key0, key1, step, zero=named(tirx.Cast("int32", arguments["zero"])))
        for keys, name in zip(source.keys, ("second", "fourth"), strict=True):
            store(keys, 0, named(load(keys, 0, 1) ^ tirx.Cast("uint64", arguments[name])), 1)
        body(source, named(tirx.Cast("uint64", arguments["first"])), y)
    return builder.get()


@cache
def kernel(kind: str, lanes: int, count: int, name: str) -> tvm_ffi.Function:
    target = tvm.target.Target(target_of(name).tvm_target(1))
    func = build(BODIES[kind](lanes, count), lanes * count * BLOCK)
    function: tvm_ffi.Function = tvm.compile(tvm.IRModule({"main": func}), target=target)["main"]
    return function


def words_of(
    kind: tuple[str, int, int],
    name: str,
    key: tuple[int, int],
    step: int,
    first: int,
    extra: tuple[int, int] = (0, 0),
) -> Words:
    """`lanes * count` blocks' words in order, from block `first` on, or from element `first` on."""
    way, lanes, count = kind
    result = tvm.runtime.tensor(np.full(lanes * count * BLOCK, 0xDEADBEEF, np.uint32))
    kernel(way, lanes, count, name)(*key, step, *extra, 0, (first + 2**63) % 2**64 - 2**63, result)
    found = np.array(result.numpy())
    return found.reshape(count, BLOCK, lanes).swapaxes(1, 2).reshape(-1) if way == "blocks" else found


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_known_answers(kind: tuple[str, int, int], name: str, answer: str) -> None:
    """The answer's block is the last of the kernel's, so that all have the same high half of their number."""
    counter, key, words = ANSWERS[answer]
    way, lanes, count = kind
    number = counter[0] + WORD * counter[1]
    reached = number % 2**62 if way == "elements" else number  # the last element's block is 2^62 - 1
    before = min(lanes * count - 1, counter[0])
    first = (reached - before) * (BLOCK if way == "elements" else 1)
    found = words_of(kind, name, key, counter[2], first, ((number - reached) // WORD, counter[3]))
    assert found[BLOCK * before :][:BLOCK].tolist() == list(words)


def firsts(size: int) -> st.SearchStrategy[int]:
    """Blocks from which `size` more have the same high half of their number, often with its last one among them."""
    lows = st.one_of(st.integers(0, 9), st.integers(0, 9).map(lambda i: WORD - i), st.integers(0, WORD))
    highs = st.one_of(st.sampled_from([0, 1, 2, 2**30 - 1]), st.integers(0, 2**30 - 1))
    return st.builds(lambda low, high: min(low, WORD - size) + WORD * high, lows, highs)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] != "elements"], ids=str)
@settings(max_examples=30)
@given(data=st.data(), seeds=SEEDS)
def test_blocks_are_the_oracles(
    kind: tuple[str, int, int], name: str, data: st.DataObject, seeds: tuple[int, str, int]
) -> None:
    seed, tensor, step = seeds
    size = kind[1] * kind[2]
    first = data.draw(firsts(size))
    found = words_of(kind, name, key_of(seed, tensor), step, first)
    expected = random_bits(seed, tensor, BLOCK * size, step=step, start=BLOCK * first)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] != "elements"], ids=str)
@settings(max_examples=10)
@given(seeds=SEEDS, low=st.integers(0, WORD), high=st.integers(2**30, WORD - 1))
def test_a_number_may_have_all_of_its_high_half(
    kind: tuple[str, int, int], name: str, seeds: tuple[int, str, int], low: int, high: int
) -> None:
    """Blocks beyond those that elements have."""
    seed, tensor, step = seeds
    size = kind[1] * kind[2]
    first = min(low, WORD - size)
    counters = np.array([(first + i, high, step, 0) for i in range(size)], np.uint32)
    found = words_of(kind, name, key_of(seed, tensor), step, first + WORD * high)
    np.testing.assert_array_equal(found, philox4x32(counters, key_of(seed, tensor)).reshape(-1))


CARRY = 2**34
"""The element with which the second word of the counter becomes 1."""

STARTS = st.one_of(
    st.integers(0, 9),
    st.integers(CARRY - 40, CARRY + 9),
    st.integers(3 * CARRY - 40, 3 * CARRY + 9),
    st.integers(2**63 - 40, 2**63 + 9),
    st.just(2**64 - 96),
    st.integers(0, 2**64 - 96),
)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] == "elements"], ids=str)
@settings(max_examples=30)
@given(seeds=SEEDS, start=STARTS)
def test_elements_are_the_oracles(
    kind: tuple[str, int, int], name: str, seeds: tuple[int, str, int], start: int
) -> None:
    """From any element on, and over the carry too: each lane has a block of its own."""
    seed, tensor, step = seeds
    found = words_of(kind, name, key_of(seed, tensor), step, start)
    np.testing.assert_array_equal(found, random_bits(seed, tensor, found.size, step=step, start=start))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[1] in (1, 4)], ids=str)
@pytest.mark.parametrize("back", range(0, 9, 4))
def test_the_low_word_ends_with_the_last_block(kind: tuple[str, int, int], name: str, back: int) -> None:
    """Up to the last block, or a few before it, and on from the first of the next: the carry is nowhere."""
    size = kind[1] * kind[2]
    key = key_of(5, "w")
    for first in (WORD - size - back, WORD + back):
        found = words_of(kind, name, key, 7, first * (BLOCK if kind[0] == "elements" else 1))
        expected = random_bits(5, "w", BLOCK * size, step=7, start=BLOCK * first)
        np.testing.assert_array_equal(found, expected)
