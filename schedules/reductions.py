"""Sums, maxima and the like, over windows, planes and rows, with their partial results in vector registers.

    the innermost axis is kept     (pooling, sums over H and W in NHWC): a vector of totals, one for each lane's element
    the innermost axis is reduced  (softmax, layer norm): a vector of partial totals, added up at the end

Nothing is divided among threads but whole totals, so the order of additions does not depend on how many there are.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import ForKind, Stmt, Var

from lowprec.schedules.affine import (
    Axis,
    Nest,
    coefficient,
    int64,
    is_contiguous,
    linear_indices,
    linear_load,
    loads_in,
    merged,
    offset_of,
    substitute,
    tidy,
)
from lowprec.schedules.loops import PARALLEL_TASKS, branched, nested, pieces, sequence, serial, tasks_in
from lowprec.schedules.maps import Machine, segmented
from lowprec.schedules.stages import COMBINERS

VECTORS = 4  # independent totals, to hide the latency of an addition
UNROLLED_TAPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    combiner: str
    initial: Expr

    def combine(self, total: Expr, term: Expr) -> Expr:
        result: Expr = COMBINERS[self.combiner](total, term)
        return result

    def is_identity(self, term: Expr) -> bool:
        """Totals start at `initial`, so taking it in once more changes nothing (a pooling window's padding)."""
        return bool(tvm_ffi.structural_equal(term, self.initial))


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """`width` totals side by side, for the elements from `offset`: one small buffer, which LLVM keeps in a register."""

    buffer: Var
    offset: int
    width: int

    def at(self, lane: Expr) -> Expr:
        return linear_load(self.buffer, lane)

    def each(self, statement: Callable[[Expr], Stmt]) -> Stmt:
        if self.width == 1:
            return statement(int64(0))
        lane = Var("lane", "int64")
        return tirx.For(lane, int64(0), int64(self.width), ForKind.VECTORIZED, statement(lane))


def reduction_loops(nest: Nest, reduction: Reduction, machine: Machine) -> Stmt:
    nest = merged(tidy(nest))
    keeps = _keeps_lanes(nest)
    if keeps is not None:
        return _over_kept_axis(keeps, reduction, machine)
    if nest.reduce and is_contiguous(nest, nest.reduce[-1]) and _is_read_along(nest, nest.reduce[-1]):
        return machine.around(nest.spatial, _row_total(nest, reduction, machine.lanes_for(nest)))
    registers = _registers(nest, [(0, 1)])
    return machine.around(nest.spatial, _totals(nest, reduction, registers, None, int64(0)))


def _is_read_along(nest: Nest, axis: Axis) -> bool:
    return any(coefficient(offset_of(load), axis.var) == 1 for load in loads_in(nest.value))


def _keeps_lanes(nest: Nest) -> list[Nest] | None:
    """The nest, in segments, if its innermost kept axis can be vectorized."""
    if not nest.spatial or not _is_read_along(nest, nest.spatial[-1]):
        return None
    parts = segmented(nest, nest.spatial[-1])
    return parts if all(is_contiguous(part, part.spatial[-1]) for part in parts) else None


def _over_kept_axis(parts: list[Nest], reduction: Reduction, machine: Machine) -> Stmt:
    outer = parts[0].spatial[:-1]
    mains, rests = [], []
    for part in parts:
        lanes = machine.lanes_for(part)
        axis = part.spatial[-1]
        block = Axis(var=Var("block", "int64"), extent=axis.extent // (VECTORS * lanes))
        if block.extent:
            registers = _registers(part, [(i * lanes, lanes) for i in range(VECTORS)])
            start = block.var * int64(VECTORS * lanes)
            mains.append((block, _totals(part, reduction, registers, axis, start)))
        done = block.extent * VECTORS * lanes
        if done < axis.extent:
            left = [
                (done + piece.start + i * piece.width, piece.width)
                for piece in pieces(axis.extent - done, lanes)
                for i in range(piece.count)
            ]
            rests.append(_totals(part, reduction, _registers(part, left), axis, int64(0)))
    if machine.parallel and tasks_in(outer) < PARALLEL_TASKS // 2:
        statements = [machine.around((*outer, block), body) for block, body in mains]
        return sequence(statements + [nested(outer, body) for body in rests])
    return machine.around(outer, sequence([serial(block, body) for block, body in mains] + rests))


def _registers(nest: Nest, places: list[tuple[int, int]]) -> list[Register]:
    dtype = str(nest.value.ty)
    return [
        Register(buffer=tirx.decl_buffer((width,), dtype, f"total{i}", scope="global"), offset=offset, width=width)
        for i, (offset, width) in enumerate(places)
    ]


def _totals(nest: Nest, reduction: Reduction, registers: list[Register], axis: Axis | None, start: Expr) -> Stmt:
    """All terms of the elements that the registers stand for, along `axis`, and the results stored."""
    inner = set() if axis is None else {axis.var}

    def update(value: Expr) -> Stmt | None:
        if reduction.is_identity(value):
            return None
        return sequence([_added(register, reduction, _at(value, axis, start, register)) for register in registers])

    taps = tasks_in(nest.reduce)
    kind = ForKind.UNROLLED if taps <= UNROLLED_TAPS else ForKind.SERIAL
    body = branched(nest.value, inner, update)
    terms = [] if body is None else [nested(nest.reduce, body, kind)]
    stores = [_stored(nest, register, axis, start) for register in registers]
    return sequence([*_started(registers, reduction), *terms, *stores])


def _at(value: Expr, axis: Axis | None, start: Expr, register: Register) -> Callable[[Expr], Expr]:
    if axis is None:
        return lambda lane: value
    return lambda lane: substitute(value, {axis.var: start + int64(register.offset) + lane})


def _added(register: Register, reduction: Reduction, term: Callable[[Expr], Expr]) -> Stmt:
    return register.each(
        lambda lane: tirx.BufferStore(register.buffer, reduction.combine(register.at(lane), term(lane)), [lane])
    )


def _started(registers: list[Register], reduction: Reduction) -> list[Stmt]:
    allocated: list[Stmt] = [tirx.AllocBuffer(register.buffer) for register in registers]
    return allocated + [_filled(register, reduction.initial) for register in registers]


def _filled(register: Register, value: Expr) -> Stmt:
    return register.each(lambda lane: tirx.BufferStore(register.buffer, value, [lane]))


def _stored(nest: Nest, register: Register, axis: Axis | None, start: Expr) -> Stmt:
    place = _at(nest.index, axis, start, register)

    def store(lane: Expr) -> Stmt:
        value = _finished(nest, register.at(lane))
        value = _at(value, axis, start, register)(lane)
        return tirx.BufferStore(nest.output, value, linear_indices(nest.output, place(lane)))

    return register.each(store)


def _finished(nest: Nest, total: Expr) -> Expr:
    if nest.finish is None or nest.total is None:
        return total
    return substitute(nest.finish, {nest.total: total})


def _row_total(nest: Nest, reduction: Reduction, lanes: int) -> Stmt:
    """One total over a contiguous last axis: vectors of partial totals, the tail in narrower ones."""
    axis = nest.reduce[-1]
    step = VECTORS * lanes
    blocks = Axis(var=Var("block", "int64"), extent=axis.extent // step)
    done = blocks.extent * step
    wide = [(i * lanes, lanes) for i in range(VECTORS)] if blocks.extent else []
    left = [
        (done + piece.start + i * piece.width, piece.width)
        for piece in pieces(axis.extent - done, lanes)
        for i in range(piece.count)
    ]
    registers = _registers(nest, wide)
    # The tail adds to the registers that there are; only widths that none has get their own.
    tails = []
    for index, (offset, width) in enumerate(left):
        if index < len(registers) and registers[index].width == width:
            tails.append(replace(registers[index], offset=offset))
        else:
            own = _registers(nest, [(offset, width)])[0]
            registers.append(own)
            tails.append(own)

    def update(chosen: list[Register], start: Expr) -> Callable[[Expr], Stmt | None]:
        return lambda value: sequence([_added(r, reduction, _at(value, axis, start, r)) for r in chosen])

    terms = []
    if blocks.extent:
        body = branched(nest.value, {axis.var}, update(registers[:VECTORS], blocks.var * int64(step)))
        assert body is not None
        terms.append(serial(blocks, body))
    if tails:
        body = branched(nest.value, {axis.var}, update(tails, int64(0)))
        assert body is not None
        terms.append(body)
    total = _tree([register.at(int64(lane)) for register in registers for lane in range(register.width)], reduction)
    stored = tirx.BufferStore(nest.output, _finished(nest, total), linear_indices(nest.output, nest.index))
    return sequence([*_started(registers, reduction), nested(nest.reduce[:-1], sequence(terms)), stored])


def _tree(values: list[Expr], reduction: Reduction) -> Expr:
    """Pairwise, first half with second half: the order in which vectors are halved."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        paired = [reduction.combine(a, b) for a, b in zip(values[:half], values[half:], strict=False)]
        values = paired + values[len(paired) : half]
    return values[0]
