"""What a kernel multiplies, and with which instructions: float32, or four 8-bit channels of a pixel at once.

    float32:     sum[k] += x[c] * w[c, k]
    8 bits:      sum[k] += x[c] * w[c, k] + ... + x[c + 3] * w[c + 3, k]        exactly, in 32 bits

A `word` is what of a pixel is taken for all lanes: one float, or four bytes. Bytes are multiplied unsigned by signed
ones: a signed x is taken as x + 128, and 128 times the sum of the weights is in the bias.

By CPU flags: one instruction for a word (VNNI), two for pairs of 16-bit numbers (AVX-512, AVX2, SSE2; `vpmaddubsw`
would be one, but saturates), else one channel at a time.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.views import FLOAT, Index, load, splat
from lowprec.targets import X86, Target

LOW_BYTES = 0x00FF00FF
SIGNS = -0x7F7F7F80  # 0x80808080, as int32
BITS = 8
SPARE = 4
"""Registers for products that are not added at once."""

_VNNI = {16: "llvm.x86.avx512.vpdpbusd.512", 8: "llvm.x86.avx512.vpdpbusd.256"}
_PAIRS = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}


class Way(StrEnum):
    """The instructions."""

    FLOATS = "float32 multiply-adds"
    WORDS = "VNNI"
    PAIRS = "16-bit pairs"
    SINGLE = "32-bit multiply-adds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """Of one kernel; `signed` says whether its bytes are, `wide` whether weights take more than 8 bits."""

    way: Way = Way.FLOATS
    signed: bool = False
    wide: bool = False

    @property
    def word(self) -> int:
        """Channels of a pixel that one step takes."""
        return 4 if self.way in (Way.WORDS, Way.PAIRS) else 1

    @property
    def sums(self) -> str:
        """The type of sums."""
        return "float32" if self.way is Way.FLOATS else "int32"

    @property
    def weights(self) -> str:
        """The type of packed weights."""
        narrow = "int16" if self.wide else "int8"
        return {Way.FLOATS: "float32", Way.PAIRS: "int16"}.get(self.way, narrow)

    @property
    def lane_bytes(self) -> int:
        """What the weights of a word take for one lane."""
        return {Way.FLOATS: 4, Way.WORDS: 4, Way.PAIRS: 8, Way.SINGLE: 2 if self.wide else 1}[self.way]

    @property
    def folds(self) -> bool:
        """Whether a factor can be an operand of the instruction."""
        return self.way is Way.FLOATS

    def registers(self, target: Target) -> int:
        """Vector registers for sums, weights and factors."""
        return target.vector_registers if self.way in (Way.FLOATS, Way.WORDS) else target.vector_registers - SPARE

    @property
    def shift(self) -> int:
        """What is added to every x before it is multiplied."""
        return 1 << (BITS - 1) if self.signed and self.way is not Way.SINGLE else 0

    def factor(self, x: tirx.Buffer, position: Index, lanes: int) -> list[ir.Expr]:
        """The word of a pixel, in every lane."""
        if self.way is Way.FLOATS:
            return [splat(load(x, position, 1), lanes)]
        if self.way is Way.SINGLE:
            return [splat(tirx.Cast("int32", load(x, position, 1)), lanes)]
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
                return [load(w, number, lanes)]
            case Way.WORDS:
                return [load(w, number * 4, 4 * lanes)]
            case Way.PAIRS:
                return [load(w, number * 4 + half * 2 * lanes, 2 * lanes) for half in (0, 1)]
            case Way.SINGLE:
                return [tirx.Cast(f"int32x{lanes}", load(w, number, lanes))]

    def multiply_add(self, total: ir.Expr, factor: list[ir.Expr], weights: list[ir.Expr], lanes: int) -> ir.Expr:
        """The sums, and a word's products."""
        if self.way is Way.WORDS:
            return _call(lanes, _VNNI[lanes], total, factor[0], weights[0])
        for part, weight in zip(factor, weights, strict=True):
            product = _call(lanes, _PAIRS[lanes], part, weight) if self.way is Way.PAIRS else part * weight
            total = total + product
        return total

    def pack(self, panels: NDArray[np.generic], lanes: int) -> NDArray[np.generic]:
        """[..., word, channel of the word, vectors * lanes] -> [..., word, what `vector` loads]."""
        *outer, words, count, columns = panels.shape
        vectors = panels.reshape(*outer, words, count, columns // lanes, lanes)
        ordered = np.moveaxis(vectors, -3, -1)  # [..., word, vector, lane, channel]
        if self.way is Way.PAIRS:
            ordered = np.stack([ordered[..., 0::2], ordered[..., 1::2]], axis=-3)
        return np.ascontiguousarray(ordered.reshape(*outer, words, -1).astype(self.weights))


FLOATS = Arithmetic()


def arithmetic_of(dtype: str, target: Target, *, wide: bool = False) -> Arithmetic:
    """That of a target for pixels of a type: float32, or int8 or uint8 with integer weights, `wide` ones of 9 bits."""
    if dtype == FLOAT:
        return FLOATS
    way = _way(target)
    if wide and way is Way.WORDS:
        way = Way.PAIRS
    return Arithmetic(way=way, signed=dtype == "int8", wide=wide)


def _way(target: Target) -> Way:
    wide, narrow = target.has("avx512_vnni"), target.has("avx_vnni")
    if (target.lanes == 16 and wide) or (target.lanes == 8 and narrow):
        return Way.WORDS
    if target.arch == X86 and (target.lanes != 16 or target.has("avx512bw")):
        return Way.PAIRS
    return Way.SINGLE


def _reinterpret(dtype: str, value: ir.Expr) -> ir.Expr:
    return tirx.call_intrin(dtype, "tirx.reinterpret", value)


def _call(lanes: int, name: str, *arguments: ir.Expr) -> ir.Expr:
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, *arguments)
