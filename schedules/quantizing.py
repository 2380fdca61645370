"""Rounding a whole tensor, values in and values out, as one pass over memory.

    Y[i] = X[i] rounded to the format, by word (start + i) mod 4 of Philox block (start + i) div 4

`start` is where the part at hand lies in the logical tensor, so that a tensor may be worked on in any pieces. Vectors
begin with a block: what comes before the first whole block and after the last group of blocks goes element by element.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.formats import Format
from lowprec.philox import BLOCK
from lowprec.rounding import DRAWN, Rounding
from lowprec.schedules.philox import Interleaved, Stream, blocks, element_word, stream
from lowprec.schedules.prefetch import prefetch_stream
from lowprec.schedules.rounding import Rounder
from lowprec.schedules.views import FLOAT_BYTES, inside_a_thread, load, named, store
from lowprec.schedules.walkers import TASK_BITS
from lowprec.targets import Target

SIDE_BY_SIDE = 6
"""Vectors of blocks in flight: a round is a chain of three instructions, and so many chains hide its latency."""

TASK_GROUPS = 64
"""Groups of vectors a task: enough work to be worth a thread."""

GPU_THREADS = 256

AHEAD = 1 << 14
"""Elements that are fetched before their turn: what is written too, for a line is read before it is written."""

SPAN = 1 << 32
"""Blocks that share the high half of their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizing:
    """A kernel's parameters. Arguments: X, key0, key1, step (int64, below 2^32), start (int64), Y."""

    count: int
    format: Format
    rounding: Rounding
    bits_used: int = DRAWN
    target: Target

    @property
    def lanes(self) -> int:
        return self.target.lanes

    @property
    def group(self) -> int:
        """Elements that one turn of the innermost loop makes."""
        return SIDE_BY_SIDE * 2 * self.lanes

    @property
    def rounder(self) -> Rounder:
        return Rounder(format=self.format, rounding=self.rounding, bits_used=self.bits_used, target=self.target)


def build_quantizing(spec: Quantizing) -> tirx.PrimFunc:
    """The kernel for a CPU."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        part = _begin(spec)
        head = T.bind(tirx.min(spec.count, (BLOCK - part.start % BLOCK) % BLOCK))
        groups = T.bind((spec.count - head) // spec.group)
        tasks = T.bind((groups + TASK_GROUPS - 1) // TASK_GROUPS)
        with T.parallel(0, tasks + 1) as task:
            source = part.source(tirx.Cast("int32", task >> tirx.const(TASK_BITS, task.ty.dtype)))
            with T.If(task < tasks):
                with T.Then():
                    part.groups(source, head, task * TASK_GROUPS, tirx.min(groups, (task + 1) * TASK_GROUPS))
                with T.Else():
                    part.single(source, 0, head)
                    part.single(source, head + groups * spec.group, spec.count)
    return builder.get()


def build_quantizing_gpu(spec: Quantizing) -> tirx.PrimFunc:
    """The kernel for a GPU: a thread makes the words of one block, and rounds its four elements."""
    rounder = replace(spec.rounder, target=None)
    with IRBuilder() as builder, T.prim_func(s_tir=True), inside_a_thread():
        part = _begin(spec)
        threads = (spec.count + BLOCK - 2) // BLOCK + 1  # the first block and the last may both be cut
        with (
            T.launch_thread("blockIdx.x", (threads + GPU_THREADS - 1) // GPU_THREADS) as group,
            T.launch_thread("threadIdx.x", GPU_THREADS) as thread,
        ):
            number = T.bind(part.start // BLOCK + group * GPU_THREADS + thread)
            words: Sequence[Expr | None] = [None] * BLOCK
            source = part.source(tirx.const(0, "int32"))
            if source is not None:
                wide = named(tirx.Cast("uint64", number))
                (block,) = blocks(source, [wide], named(wide >> tirx.const(32, "uint64")))
                words = [named(~tirx.Cast("uint32", word)) for word in block]
            for place, word in enumerate(words):
                i = T.bind(number * BLOCK + place - part.start)
                with T.If(tirx.And(i >= 0, i < spec.count)), T.Then():
                    store(part.y, i, rounder.round(named(load(part.x, i, 1)), word), 1)
    return builder.get()


def _begin(spec: Quantizing) -> "_Part":
    """The arguments of the function under construction."""
    T.func_name("main")
    x = T.arg("X", T.buffer((spec.count,), "float32"))
    key0, key1, step, start = (T.arg(name, tirx.Var(name, "int64")) for name in ("key0", "key1", "step", "start"))
    y = T.arg("Y", T.buffer((spec.count,), "float32"))
    T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
    return _Part(spec=spec, x=x, y=y, scalars=(key0, key1, step), start=start)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The kernel's arguments."""

    spec: Quantizing
    x: tirx.Buffer
    y: tirx.Buffer
    scalars: tuple[Expr, Expr, Expr]
    start: Expr

    def source(self, zero: Expr) -> Stream | None:
        """Where words come from, if any are needed; `zero` is an int32 that the compiler does not know."""
        if self.spec.rounding is not Rounding.STOCHASTIC:
            return None
        key0, key1, step = (named(tirx.Cast("uint32", value)) for value in self.scalars)
        return stream(key0, key1, step, zero=named(zero))

    def groups(self, source: Stream | None, head: Expr, first: Expr, last: Expr) -> None:
        """Groups `first` to `last`, the first of which begins `head` elements from the start."""
        words = None if source is None else Interleaved(source, self.spec.lanes // 2)
        with T.serial(first, last) as group:
            begin = T.bind(head + group * self.spec.group)
            if source is None or words is None:
                self.vectors(None, begin)
                return
            # Blocks whose numbers differ in their high halves are rare, and cannot share a vector.
            number = T.bind((self.start + begin) // BLOCK)
            with T.If(number % SPAN <= SPAN - self.spec.group // BLOCK):
                with T.Then():
                    self.vectors((words, named(tirx.Cast("uint64", number))), begin)
                with T.Else():
                    self.single(source, begin, begin + self.spec.group)

    def vectors(self, drawn: tuple[Interleaved, Expr] | None, begin: Expr) -> None:
        """One group."""
        lanes = self.spec.lanes
        for buffer, written in ((self.x, False), (self.y, True)):
            ahead = (begin + AHEAD) * FLOAT_BYTES
            prefetch_stream(buffer, start=ahead, count=self.spec.group * FLOAT_BYTES, written=written)
        complements: Sequence[Expr | None] = [None] * (2 * SIDE_BY_SIDE)
        if drawn is not None:
            words, first = drawn
            complements = words.complements(first, SIDE_BY_SIDE)
        for i, complement in enumerate(complements):
            place = begin + i * lanes
            value = named(load(self.x, place, lanes))
            store(self.y, place, self.spec.rounder.round(value, complement), lanes)

    def single(self, source: Stream | None, first: Expr | int, last: Expr | int) -> None:
        """Elements `first` to `last`, one by one."""
        with T.serial(first, last) as i:
            value = named(load(self.x, i, 1))
            complement = None
            if source is not None:
                complement = ~element_word(source, named(tirx.Cast("uint64", self.start + i)))
            store(self.y, i, self.spec.rounder.round(value, complement), 1)
