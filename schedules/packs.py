"""Codes of 8 bits for four vectors of 16 numbers at once: AVX-512's instructions that narrow two vectors to one.

    q = uint8(nearest(min(max(x, -3), 252)) + 3)          of each vector: 6 instructions
    i = nearest(min(252, x));  h = narrow(i, i');  q = max(narrow(h + 3, h' + 3), 0);  in order         3 and a half

Narrowing saturates: what is less than the type holds becomes its least number, so what is held from below there need
not be held before. A number too large would become the least integer, and so would none: the larger ones are held
before, where there may be some, and none becomes the lower end, as it does when it is held from below first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.ir import Expr

from lowprec.schedules.bounding import ENDS
from lowprec.schedules.epilogue import FMA, NEAREST, Constant, Epilogue, Step
from lowprec.schedules.views import named, splat
from lowprec.targets import Target
from lowprec.tiles import LANES

TOGETHER = 4
"""Vectors."""
_BYTES = TOGETHER * LANES
_NEAREST_EVEN, _ALL = 4, 0xFFFF
_NARROW = {"uint8": "llvm.x86.avx512.packuswb.512", "int8": "llvm.x86.avx512.packsswb.512"}
_ORDER = tuple(TOGETHER * place + vector for vector in range(TOGETHER) for place in range(TOGETHER))
"""Where a vector's words are: narrowing takes four numbers of each vector in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What is written at once: `width` values, for channels from `first` on."""

    first: int
    value: Expr
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Packs:
    """An epilogue's end: what is `before` it, held up to `high`, rounded, `moved`, and held between the codes `low` and
    `top`."""

    before: Epilogue
    high: float | None
    moved: int
    low: int | None
    top: int | None
    dtype: str

    def rows(self, numbers: Sequence[Expr], starts: Sequence[int]) -> list[list[Piece]]:
        """The codes of each row, whose vectors begin at channels `starts`; two that lie side by side are one piece."""
        fours = [self.codes(numbers[place : place + TOGETHER]) for place in range(0, len(numbers), TOGETHER)]
        return [_pieces(fours, first, starts) for first in range(0, len(numbers), len(starts))]

    def codes(self, numbers: Sequence[Expr]) -> Expr:
        """Of up to four vectors, one after the other in one."""
        four = [numbers[min(place, len(numbers) - 1)] for place in range(TOGETHER)]
        whole = [self._nearest(number) for number in four]
        pairs = [self._moved(_pair(*whole[place : place + 2])) for place in (0, 2)]
        narrow = tirx.call_llvm_pure_intrin(f"int8x{_BYTES}", _NARROW[self.dtype], *pairs)
        words = tirx.reinterpret(f"int32x{LANES}", narrow)
        order = tirx.Shuffle(
            [tirx.const(place, "int32") for place in _ORDER], [tirx.const(lane, "int32") for lane in range(LANES)]
        )
        ordered = tirx.call_llvm_pure_intrin(f"int32x{LANES}", "llvm.x86.avx512.permvar.si.512", words, order)
        codes = tirx.reinterpret(f"{self.dtype}x{_BYTES}", ordered)
        if self.low is not None:
            codes = tirx.max(codes, splat(tirx.const(self.low, self.dtype), _BYTES))
        if self.top is not None:
            codes = tirx.min(codes, splat(tirx.const(self.top, self.dtype), _BYTES))
        return named(codes)

    def _nearest(self, number: Expr) -> Expr:
        if self.high is not None:
            number = tirx.min(splat(tirx.const(self.high, "float32"), LANES), number)
        zeros = splat(tirx.const(0, "int32"), LANES)
        mask, rounding = tirx.const(_ALL, "uint16"), tirx.const(_NEAREST_EVEN, "int32")
        name = "llvm.x86.avx512.mask.cvtps2dq.512"
        return tirx.call_llvm_pure_intrin(f"int32x{LANES}", name, number, zeros, mask, rounding)

    def _moved(self, pair: Expr) -> Expr:
        if not self.moved:
            return pair
        by = splat(tirx.const(self.moved, "int16"), 2 * LANES)
        return tirx.call_llvm_pure_intrin(pair.ty, f"llvm.sadd.sat.v{2 * LANES}i16", pair, by)


def _pieces(fours: Sequence[Expr], number: int, starts: Sequence[int]) -> list[Piece]:
    """Of a row whose first vector is that `number` among all."""
    pieces: list[Piece] = []
    place = 0
    while place < len(starts):
        four, first = divmod(number + place, TOGETHER)
        joined = first % 2 == 0 and place + 1 < len(starts) and starts[place + 1] == starts[place] + LANES
        count = 2 if joined else 1
        lanes = range(first * LANES, (first + count) * LANES)
        value = tirx.Shuffle([fours[four]], [tirx.const(lane, "int32") for lane in lanes])
        pieces.append(Piece(first=starts[place], value=value, width=len(lanes)))
        place += count
    return pieces


def packs_of(epilogue: Epilogue, target: Target) -> Packs | None:
    """The epilogue's end, if it is one that the target has the instructions for."""
    steps = list(epilogue.steps)
    if not target.has("avx512bw") or not steps or steps[-1].op not in _NARROW:
        return None
    dtype, moved = steps.pop().op, 0
    if steps and steps[-1].op == "add" and isinstance(constant := steps[-1].arguments[1], Constant):
        steps.pop()
        moved = int(constant.number)
    if not steps or steps.pop().op != NEAREST:
        return None
    high, low = _held(steps, "minimum"), _held(steps, "maximum")
    least, largest = ENDS[dtype]
    small = bool(steps) and steps[-1].op == FMA
    return Packs(
        before=replace(epilogue, steps=tuple(steps)),
        high=None if small else high,
        moved=moved,
        low=None if low is None or low + moved <= least else int(low) + moved,
        top=None if not small or high is None or high + moved >= largest else int(high) + moved,
        dtype=dtype,
    )


def _pair(first: Expr, second: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(f"int16x{2 * LANES}", "llvm.x86.avx512.packssdw.512", first, second)


def _held(steps: list[Step], op: str) -> float | None:
    """The constant that the last step holds its value with, which is taken from the steps."""
    if op == "maximum" and steps and steps[-1].op == "relu":
        steps.pop()
        return 0.0
    constant = steps[-1].arguments[-1] if steps and steps[-1].op == op else None
    if not isinstance(constant, Constant):
        return None
    steps.pop()
    return constant.number
