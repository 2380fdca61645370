"""What a kernel multiplies, and with which instructions: float32, four 8-bit channels of a pixel at once, or two of 16.

    float32:     sum[k] += x[c] * w[c, k]
    8 bits:      sum[k] += x[c] * w[c, k] + ... + x[c + 3] * w[c + 3, k]                 exactly, in 32 bits
    16 bits:     low[k] += l[c] * w[c, k] + l[c + 1] * w[c + 1, k];  high[k] likewise with h, where x = 256 h + l

A `word` is what of a pixel is taken for all lanes: one float, four bytes, or two numbers of 16 bits. Bytes that are
multiplied are unsigned, by signed weights: a signed x is taken as x + 128, and so often the sum of the weights is taken
away where sums begin. Numbers of 16 bits are x = 256 h + l, halved once before all else: all l of a tensor, then all h,
each in 16 bits, so that a word of either is one load. A sum of products is 256 high + low + bias, exact in float64.

By CPU flags: one instruction for a word (VNNI), two for pairs of 16-bit numbers (AVX-512, AVX2, SSE2; `vpmaddubsw`
would be one, but saturates), else one channel at a time.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.tasks import start_of
from lowprec.schedules.tiling import ceil_div
from lowprec.schedules.views import FLOAT, Index, load, splat, store
from lowprec.targets import X86, Target

LOW_BYTES = 0x00FF00FF
SIGNS = -0x7F7F7F80  # 0x80808080, as int32
BITS = 8
BFLOAT, HALF = "bfloat16", "float16"
PIECE = 1 << 14
"""Numbers that a task halves."""
SPARE = 4
"""Registers for products that are not added at once."""

_VNNI = {16: "llvm.x86.avx512.vpdpbusd.512", 8: "llvm.x86.avx512.vpdpbusd.256"}
_DOTS = {16: "llvm.x86.avx512.vpdpwssd.512", 8: "llvm.x86.avx512.vpdpwssd.256"}
_PAIRS = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}


class Way(StrEnum):
    """The instructions."""

    FLOATS = "float32 multiply-adds"
    HALVES = "16-bit pairs, twice"
    SINGLE_HALVES = "32-bit multiply-adds, twice"
    WORDS = "VNNI"
    PAIRS = "16-bit pairs"
    SINGLE = "32-bit multiply-adds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """Of one kernel; `signed` says whether its bytes are, `wide` whether weights take more than 8 bits, `dots` whether
    one instruction multiplies pairs and adds them to a sum. Weights of floats may be `stored` in half as many bits."""

    way: Way = Way.FLOATS
    signed: bool = False
    wide: bool = False
    dots: bool = False
    stored: str = FLOAT

    @property
    def word(self) -> int:
        """Channels of a pixel that one step takes."""
        return {Way.WORDS: 4, Way.PAIRS: 4, Way.HALVES: 2}.get(self.way, 1)

    @property
    def parts(self) -> int:
        """Sums of an output channel: low and high, or one."""
        return 2 if self.is_split else 1

    @property
    def is_split(self) -> bool:
        """Whether pixels have 16 bits."""
        return self.way in (Way.HALVES, Way.SINGLE_HALVES)

    @property
    def sums(self) -> str:
        """The type of sums."""
        return "float32" if self.way is Way.FLOATS else "int32"

    @property
    def weights(self) -> str:
        """The type of packed weights."""
        narrow = "int16" if self.wide or self.is_split else "int8"
        floats = "uint16" if self.stored == BFLOAT else self.stored
        return {Way.FLOATS: floats, Way.PAIRS: "int16"}.get(self.way, narrow)

    @property
    def lane_bytes(self) -> int:
        """What the weights of a word take for one lane."""
        return self.word * np.dtype(self.weights).itemsize

    @property
    def folds(self) -> bool:
        """Whether a factor can be an operand of the instruction."""
        return self.way is Way.FLOATS

    def registers(self, target: Target) -> int:
        """Vector registers for sums, weights and factors, if there is one sum of each kind."""
        spare = 0 if self.dots or self.way in (Way.FLOATS, Way.WORDS) else SPARE
        whole = target.vector_registers - spare
        return whole // self.parts

    @property
    def shift(self) -> int:
        """What is added to every x before it is multiplied."""
        if self.way is Way.SINGLE_HALVES:
            return 1 << (2 * BITS - 1)
        if self.way is Way.HALVES:
            return 0
        return 1 << (BITS - 1) if self.signed and self.way is not Way.SINGLE else 0

    def factor(self, x: tirx.Buffer, position: Index, lanes: int) -> list[ir.Expr]:
        """The word of a pixel, in every lane."""
        if self.way is Way.FLOATS:
            return [splat(load(x, position, 1), lanes)]
        if self.way is Way.SINGLE:
            return [splat(tirx.Cast("int32", load(x, position, 1)), lanes)]
        if self.way is Way.SINGLE_HALVES:
            number = T.bind(tirx.Cast("int32", load(x, position, 1)) + (1 << 15))
            return [splat(part, lanes) for part in (number & 0xFF, number >> BITS)]
        if self.way is Way.HALVES:
            places = (position, position + int(x.shape[0]) // 2)
            halves = (_reinterpret("int32", load(x, place, self.word)) for place in places)
            return [_reinterpret(f"int16x{2 * lanes}", splat(half, lanes)) for half in halves]
        word = _reinterpret("int32", load(x, position, self.word))
        if self.signed:
            word = word ^ tirx.const(SIGNS, "int32")
        word = T.bind(word)
        if self.way is Way.WORDS:
            return [_reinterpret(f"int8x{4 * lanes}", splat(word, lanes))]
        mask = tirx.const(LOW_BYTES, "int32")
        parts = (word & mask, (word >> BITS) & mask)
        return [_reinterpret(f"int16x{2 * lanes}", splat(part, lanes)) for part in parts]

    def vector(self, w: tirx.Buffer, number: Index, lanes: int) -> list[ir.Expr]:
        """The weights of a word for `lanes` output channels, `number` lanes from the first."""
        match self.way:
            case Way.FLOATS:
                return [_widened(load(w, number, lanes), self.stored)]
            case Way.WORDS:
                return [load(w, number * 4, 4 * lanes)]
            case Way.PAIRS:
                return [load(w, number * 4 + half * 2 * lanes, 2 * lanes) for half in (0, 1)]
            case Way.HALVES:
                return [load(w, number * 2, 2 * lanes)]
            case Way.SINGLE | Way.SINGLE_HALVES:
                return [tirx.Cast(f"int32x{lanes}", load(w, number, lanes))]

    def multiply_add(
        self, totals: list[ir.Expr], factor: list[ir.Expr], weights: list[ir.Expr], lanes: int
    ) -> list[ir.Expr]:
        """The sums, and a word's products."""
        (total, *_), (weight, *_) = totals, weights
        if self.way is Way.WORDS:
            return [_call(lanes, _VNNI[lanes], total, factor[0], weight)]
        if self.way is Way.HALVES:
            return [self._pairs(part, half, weight, lanes) for part, half in zip(totals, factor, strict=True)]
        if self.way is Way.SINGLE_HALVES:
            return [part + half * weight for part, half in zip(totals, factor, strict=True)]
        for part, weight in zip(factor, weights, strict=True):
            total = self._pairs(total, part, weight, lanes) if self.way is Way.PAIRS else total + part * weight
        return [total]

    def _pairs(self, total: ir.Expr, factor: ir.Expr, weight: ir.Expr, lanes: int) -> ir.Expr:
        if self.dots:
            return _call(lanes, _DOTS[lanes], total, factor, weight)
        return total + _call(lanes, _PAIRS[lanes], factor, weight)

    def joined(self, totals: list[ir.Expr], bias: ir.Expr | None, lanes: int) -> ir.Expr:
        """The one number that sums stand for: of two, rounded to float32 once."""
        if not self.is_split:
            return totals[0]
        low, high, *rest = (doubles(value, lanes) for value in (*totals, *([] if bias is None else [bias])))
        exact = high * splat(tirx.const(256.0, "float64"), lanes) + low
        exact = exact + rest[0] if rest else exact
        return tirx.Cast("float32" if lanes == 1 else f"float32x{lanes}", exact)

    def pack(self, panels: NDArray[np.generic], lanes: int) -> NDArray[np.generic]:
        """[..., word, channel of the word, vectors * lanes] -> [..., word, what `vector` loads]."""
        *outer, words, count, columns = panels.shape
        vectors = panels.reshape(*outer, words, count, columns // lanes, lanes)
        ordered = np.moveaxis(vectors, -3, -1)  # [..., word, vector, lane, channel]
        if self.way is Way.PAIRS:
            ordered = np.stack([ordered[..., 0::2], ordered[..., 1::2]], axis=-3)
        if self.stored == BFLOAT:
            ordered = ordered.astype(BFLOAT).view(np.uint16)
        return np.ascontiguousarray(ordered.reshape(*outer, words, -1).astype(self.weights))


def halve(x: tirx.Buffer, count: int, lanes: int) -> tirx.Buffer:
    """A tensor of `count` numbers of 16 bits as `factor` reads it: all low halves, then all high ones."""
    halves = T.alloc_buffer((2 * count,), "int16", scope="global")
    width = min(2 * lanes, count)
    piece = min(PIECE, count) // width * width
    low, eight = (splat(tirx.const(number, "int16"), width) for number in ((1 << BITS) - 1, BITS))
    with T.parallel(0, ceil_div(count, piece)) as task, T.serial(0, piece // width) as vector:
        place = start_of(task, piece, count) + vector * width
        number = T.bind(load(x, place, width))
        store(halves, place, number & low, width)
        store(halves, place + count, number >> eight, width)
    return halves


FLOATS = Arithmetic()


def halves_of(weights: NDArray[np.float32], target: Target) -> str:
    """The type of half as many bits that has all the weights, and that the target reads; float32 where none does."""
    if not np.any(np.ascontiguousarray(weights).view(np.uint32) & 0xFFFF):
        return BFLOAT
    reads = target.has("f16c") or target.arch != X86
    with np.errstate(over="ignore"):
        same = reads and np.array_equal(weights.astype(np.float16), weights)
    return HALF if same else FLOAT


def arithmetic_of(dtype: str, target: Target, *, wide: bool = False) -> Arithmetic:
    """That of a target for pixels of a type: float32, or int8 or uint8 with integer weights, `wide` ones of 9 bits."""
    if dtype == FLOAT:
        return FLOATS
    way = _way(target)
    dots = way is Way.WORDS
    if dtype == "int16":
        return Arithmetic(way=Way.SINGLE_HALVES if way is Way.SINGLE else Way.HALVES, signed=True, dots=dots)
    if wide and dots:
        return Arithmetic(way=Way.PAIRS, signed=dtype == "int8", wide=True, dots=True)
    return Arithmetic(way=way, signed=dtype == "int8", wide=wide)


def _way(target: Target) -> Way:
    wide, narrow = target.has("avx512_vnni"), target.has("avx_vnni")
    if (target.lanes == 16 and wide) or (target.lanes == 8 and narrow):
        return Way.WORDS
    if target.arch == X86 and (target.lanes != 16 or target.has("avx512bw")):
        return Way.PAIRS
    return Way.SINGLE


def _widened(value: ir.Expr, stored: str) -> ir.Expr:
    """float32 of what is stored; a bfloat16 is the upper half of one."""
    if stored == FLOAT:
        return value
    lanes = value.ty.dtype.lanes
    if stored != BFLOAT:
        return tirx.Cast(f"float32x{lanes}", value)
    pattern = tirx.Cast(f"uint32x{lanes}", value) << splat(tirx.const(16, "uint32"), lanes)
    return _reinterpret(f"float32x{lanes}", pattern)


def doubles(value: ir.Expr, lanes: int) -> ir.Expr:
    """As float64."""
    return tirx.Cast("float64" if lanes == 1 else f"float64x{lanes}", value)


def _reinterpret(dtype: str, value: ir.Expr) -> ir.Expr:
    return tirx.call_intrin(dtype, "tirx.reinterpret", value)


def _call(lanes: int, name: str, *arguments: ir.Expr) -> ir.Expr:
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, *arguments)
