"""Philox4x32-10 as TIR, the bits of `lowprec.philox` inside any kernel.

A 32-bit word lives in the low half of a 64-bit lane, and what stands in the high half does not matter: multiplication
looks at low halves alone, and a product's high half is its next use's garbage. So a round is two multiplications, two
shuffles and two three-way xors for as many blocks as a vector has 64-bit lanes. Words that all lanes share (the step,
and what the first rounds make of it) stay scalars until a lane differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr, PrimType
from tvm.script.ir_builder import tirx as T

from lowprec.philox import BLOCK, KEY_STEPS, LOW, MULTIPLIERS, ROUNDS
from lowprec.schedules.vector_math import lanes_of
from lowprec.schedules.views import load, named, room, splat, store

STRAIGHT = 3
"""Rounds before the loop: in the first two some words are still the same in all blocks, and nine are odd."""

Words = tuple[Expr, Expr, Expr, Expr]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What all blocks of a kernel share: the round keys of a tensor and the step, uint64 numbers below 2^32.

    `pairs`, of rounds, is 3, but the compiler does not know it.
    """

    keys: tuple[tirx.Buffer, tirx.Buffer]
    step: Expr
    pairs: Expr


def stream(key0: Expr, key1: Expr, step: Expr, *, zero: Expr) -> Stream:
    """From the tensor's key and the step, uint32 values; `zero` is an int32 that the compiler does not know to be 0.

    The rounds are a loop that may not be unrolled: in one straight line LLVM would put block after block, and each
    block is a chain of instructions that wait for each other.
    """
    keys = [named(tirx.Cast("uint64", key)) for key in (key0, key1)]
    rooms = tuple(room(ROUNDS, "uint64") for _ in keys)
    for kept, key, added in zip(rooms, keys, KEY_STEPS, strict=True):
        for place in range(ROUNDS):  # in 64 bits: a sum of 32 that wraps around is undefined to LLVM
            store(kept, place, (key + tirx.const(place * added, "uint64")) & tirx.const(LOW, "uint64"), 1)
    return Stream(
        keys=(rooms[0], rooms[1]),
        step=named(tirx.Cast("uint64", step)),
        pairs=named(zero + tirx.const((ROUNDS - 1 - STRAIGHT) // 2, "int32")),
    )


def blocks(source: Stream, numbers: Sequence[Expr], high: Expr) -> list[Words]:
    """The four words of each block in `numbers`, all with `high` as the high half of their number.

    Numbers are uint64 vectors or scalars whose own high half is not looked at; so are the words.
    """
    products = [_product(number, MULTIPLIERS[0]) for number in numbers]
    return _round(_before_last(source, products, high), source, ROUNDS - 1)


def rows_of_words(source: Stream, products: Sequence[Expr], high: Expr) -> list[Words]:
    """The same of vectors of blocks, by each number's `first_product`, as uint32 in the order of `places_in_rows`: in
    the last round halves are put beside each other as they come, in place of each into its own half and then together.
    """
    return [_last_rows(state, source) for state in _before_last(source, products, high)]


def first_product(number: Expr) -> Expr:
    """What the first round makes of a block's number, of 32 bits: numbers that are sums have sums of products."""
    return number * splat(tirx.const(MULTIPLIERS[0], "uint64"), lanes_of(number))


def places_in_rows(lanes: int) -> tuple[int, ...]:
    """Which element of a row of words each lane's block belongs to: the even ones of them come first."""
    return (*range(0, lanes, 2), *range(1, lanes, 2))


def _last_rows(state: Words, source: Stream) -> Words:
    c0, c1, c2, c3 = state
    a, b = _product(c0, MULTIPLIERS[0]), _product(c2, MULTIPLIERS[1])
    lanes = lanes_of(c0)
    key0, key1 = (splat(tirx.Cast("uint32", load(keys, ROUNDS - 1, 1)), lanes) for keys in source.keys)
    first, third = _row(b, 1) ^ _row(c1, 0) ^ key0, _row(a, 1) ^ _row(c3, 0) ^ key1
    return named(first), named(_row(b, 0)), named(third), named(_row(a, 0))


def _row(words: Expr, half: int) -> Expr:
    """One half of each 64-bit lane, in the order of elements."""
    lanes = lanes_of(words)
    halves = tirx.reinterpret(_kind("uint32", 2 * lanes), words)
    return _shuffled([halves], [half + place + odd for place in range(0, lanes, 2) for odd in (0, lanes)])


def _before_last(source: Stream, products: Sequence[Expr], high: Expr) -> list[Words]:
    """The states of blocks whose numbers were multiplied, before the last round."""
    lanes = lanes_of(products[0])
    key0, key1 = (load(keys, 0, 1) for keys in source.keys)
    step = _product(source.step, MULTIPLIERS[1])
    first, second = _xor(_high(step), high, key0), step
    states: list[Words] = [(first, second, _xor(_high(product), key1), product) for product in products]
    for place in range(1, STRAIGHT):
        states = _round(states, source, place)
    rooms = [[_room(word, lanes) for word in state] for state in states]
    with T.serial(0, source.pairs) as pair:
        after = [_read(slots, lanes) for slots in rooms]
        for place in range(2):
            after = _round(after, source, pair * 2 + STRAIGHT + place)
        for slots, state in zip(rooms, after, strict=True):
            for slot, word in zip(slots, state, strict=True):
                store(slot, 0, word, lanes)
    return [_read(slots, lanes) for slots in rooms]


def _round(states: Sequence[Words], source: Stream, place: Expr | int) -> list[Words]:
    key0, key1 = (load(keys, place, 1) for keys in source.keys)
    products = [(_product(c0, MULTIPLIERS[0]), _product(c2, MULTIPLIERS[1])) for c0, _, c2, _ in states]
    return [
        (_xor(_high(b), c1, key0), b, _xor(_high(a), c3, key1), a)
        for (a, b), (_, c1, _, c3) in zip(products, states, strict=True)
    ]


def _room(word: Expr, lanes: int) -> tirx.Buffer:
    slot = room(lanes, "uint64")
    store(slot, 0, word if lanes_of(word) == lanes else splat(word, lanes), lanes)
    return slot


def _read(slots: Sequence[tirx.Buffer], lanes: int) -> Words:
    c0, c1, c2, c3 = (load(slot, 0, lanes) for slot in slots)
    return c0, c1, c2, c3


def element_word(source: Stream, position: Expr) -> Expr:
    """The uint32 of the element at `position`, a uint64 scalar or vector: a whole block for each element."""
    lanes = lanes_of(position)
    number = named(position >> splat(tirx.const(2, "uint64"), lanes))
    (block,) = blocks(source, [number], named(_high(number)))
    words = [named(tirx.Cast(_kind("uint32", lanes), word)) for word in block]
    place = named(position & splat(tirx.const(BLOCK - 1, "uint64"), lanes))
    found = words[0]
    for index, word in enumerate(words[1:], start=1):
        found = tirx.Select(place == splat(tirx.const(index, "uint64"), lanes), word, found)
    return named(found)


class Interleaved:
    """The words of elements in a row, as vectors in the elements' order, from vectors of `lanes` blocks.

    Lane 2j holds block j and lane 2j + 1 block lanes/2 + j: so the words, two of a block in each lane, are put in order
    by one unpacking instruction for each half. The words come complemented: that is free, done to the keys of the last
    round, which are applied at the very end.
    """

    def __init__(self, source: Stream, lanes: int) -> None:
        self._source, self.lanes = source, lanes
        self._order = _vector([tirx.const(lane // 2 + lane % 2 * (lanes // 2), "uint64") for lane in range(lanes)])
        last = [load(keys, ROUNDS - 1, 1) ^ tirx.const((1 << 64) - 1, "uint64") for keys in source.keys]
        self._last_keys = _vector([last[lane % 2] for lane in range(lanes)])

    def complements(self, first: Expr, vectors: int) -> list[Expr]:
        """The complements of the words of `vectors * lanes` blocks from `first` on, a uint64 scalar, as twice as many
        vectors; the blocks must share their number's high half."""
        order = load(self._order, 0, self.lanes)
        starts = [named(first + tirx.const(i * self.lanes, "uint64")) for i in range(vectors)]
        numbers = [named(splat(start, self.lanes) + order) for start in starts]
        products = [_product(number, MULTIPLIERS[0]) for number in numbers]
        states = _before_last(self._source, products, named(_high(first)))
        return [half for state in states for half in self._last_round(state)]

    def _last_round(self, state: Words) -> tuple[Expr, Expr]:
        c0, c1, c2, c3 = state
        pairs = [self._pair(_product(c2, MULTIPLIERS[1]), c1), self._pair(_product(c0, MULTIPLIERS[0]), c3)]
        kind, keys = _kind("uint32", 2 * self.lanes), load(self._last_keys, 0, self.lanes)
        low, high = (tirx.reinterpret(kind, self._unpacked(pairs, odd) ^ keys) for odd in (0, 1))
        return named(low), named(high)

    def _pair(self, product: Expr, word: Expr) -> Expr:
        """Two words of each block but for the key: the product's halves change places, and the low one takes `word`."""
        halves = tirx.reinterpret(_kind("uint32", 2 * self.lanes), product)
        swapped = _shuffled([halves], [lane ^ 1 for lane in range(2 * self.lanes)])
        low = word & splat(tirx.const(LOW, "uint64"), self.lanes)
        return named(tirx.reinterpret(_kind("uint64", self.lanes), swapped) ^ low)

    def _unpacked(self, pairs: Sequence[Expr], odd: int) -> Expr:
        return _shuffled(pairs, [lane + odd + half * self.lanes for lane in range(0, self.lanes, 2) for half in (0, 1)])


def _shuffled(vectors: Sequence[Expr], places: Sequence[int]) -> Expr:
    return tirx.Shuffle(list(vectors), [tirx.const(place, "int32") for place in places])


def _kind(kind: str, lanes: int) -> PrimType:
    return PrimType(kind if lanes == 1 else f"{kind}x{lanes}")


def _product(word: Expr, factor: int) -> Expr:
    lanes = lanes_of(word)
    low = word & splat(tirx.const(LOW, "uint64"), lanes)
    return named(low * splat(tirx.const(factor, "uint64"), lanes))


def _high(word: Expr) -> Expr:
    """The high half where the low one was. Of vectors it stands in both: x86 shifts where it multiplies, and shuffles
    elsewhere."""
    lanes = lanes_of(word)
    if lanes == 1:
        return word >> tirx.const(32, "uint64")
    halves = tirx.reinterpret(_kind("uint32", 2 * lanes), word)
    return tirx.reinterpret(_kind("uint64", lanes), _shuffled([halves], [lane | 1 for lane in range(2 * lanes)]))


def _xor(*words: Expr) -> Expr:
    """Scalars are joined as scalars before they meet a vector."""
    lanes = max(map(lanes_of, words))
    result: Expr | None = None
    for word in sorted(words, key=lanes_of):
        if result is not None and lanes_of(result) < lanes_of(word):
            result = splat(named(result), lanes)
        result = word if result is None else result ^ word
    return named(result)


def _wide(word: Expr) -> Expr:
    return named(tirx.Cast("uint64", word))


def _vector(values: list[Expr]) -> tirx.Buffer:
    """A vector in memory, which LLVM keeps in a register or reads where it is used."""
    buffer = room(len(values), "uint64")
    for lane, value in enumerate(values):
        store(buffer, lane, value, 1)
    return buffer
