"""Element-wise code, copies, concatenation, padding, slices and transposes: an output element from a few of the inputs.

Neighbouring loops are merged where the addresses allow, the innermost is vectorized, the outermost run in parallel.
A concat is as many copies as it has inputs. A transpose is tiled, so that both sides use whole cache lines, and turned
in registers where its sizes allow.
"""

from dataclasses import dataclass, replace
from functools import partial

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
    loads_in,
    merged,
    offset_of,
    segments,
    split_by_divisors,
    substitute,
    tidy,
)
from lowprec.schedules.loops import (
    PARALLEL_TASKS,
    branched,
    nested,
    parallel,
    pieces,
    sequence,
    serial,
    tasks_in,
    vector_loop,
)
from lowprec.schedules.turning import is_turned, turn

CHUNK = 2048  # elements of one task when a single long axis is divided
TRANSPOSE_TILE = 16  # elements of a cache line


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How to run a loop nest: fp32 `lanes` of a vector, and whether the work is worth several threads."""

    lanes: int
    parallel: bool

    def around(self, axes: tuple[Axis, ...], body: Stmt) -> Stmt:
        return parallel(axes, body) if self.parallel and axes else nested(axes, body)

    def lanes_for(self, nest: Nest) -> int:
        wide = any("64" in str(node.ty) for node in (nest.value, *loads_in(nest.value)))
        return max(1, self.lanes // 2) if wide else self.lanes


def map_loops(nest: Nest, machine: Machine) -> Stmt:
    nest = merged(split_by_divisors(tidy(nest)))
    if not nest.spatial:
        return _store(nest, nest.value)
    transposed = _transposed_axis(nest)
    if transposed is not None:
        return _transpose(nest, transposed, machine)
    parts = segmented(nest, nest.spatial[-1])
    outer, inner = nest.spatial[:-1], nest.spatial[-1]
    if machine.parallel and tasks_in(outer) < PARALLEL_TASKS // 2 and inner.extent >= 2 * CHUNK:
        return sequence([_chunked(part, machine) for part in parts])
    return machine.around(outer, sequence([_row(part, machine) for part in parts]))


def segmented(nest: Nest, inner: Axis) -> list[Nest]:
    """One nest for each part of `inner` (one of the spatial axes) in which every comparison with it is decided."""
    parts = []
    for start, stop in segments(nest.value, inner):
        axis = Axis(var=Var(inner.var.name, "int64"), extent=stop - start)
        spatial = tuple(axis if own is inner else own for own in nest.spatial)
        mapping = {inner.var: axis.var + int64(start)}
        moved = nest.map(partial(substitute, mapping=mapping))
        parts.append(tidy(replace(moved, spatial=spatial)))
    return parts


def _store(nest: Nest, value: Expr) -> Stmt:
    return tirx.BufferStore(nest.output, value, linear_indices(nest.output, nest.index))


def _row(nest: Nest, machine: Machine) -> Stmt:
    """The innermost loop."""
    inner = nest.spatial[-1]
    lanes = machine.lanes_for(nest) if is_contiguous(nest, inner) else 1

    def loop(value: Expr) -> Stmt:
        statement = _store(nest, value)
        return vector_loop(inner, lanes, statement) if lanes > 1 else serial(inner, statement)

    row = branched(nest.value, {inner.var}, loop)
    assert row is not None
    return row


def _chunked(nest: Nest, machine: Machine) -> Stmt:
    """One long loop --> a parallel loop over chunks, and the rest."""
    outer, inner = nest.spatial[:-1], nest.spatial[-1]
    chunks = inner.extent // CHUNK
    parts = []
    if chunks:
        chunk = Axis(var=Var("chunk", "int64"), extent=chunks)
        element = Axis(var=Var(inner.var.name, "int64"), extent=CHUNK)
        main = _moved(nest, inner.var, chunk.var * int64(CHUNK) + element.var, (*outer, chunk, element))
        parts.append(machine.around((*outer, chunk), _row(main, machine)))
    if inner.extent % CHUNK:
        element = Axis(var=Var(inner.var.name, "int64"), extent=inner.extent % CHUNK)
        rest = _moved(nest, inner.var, element.var + int64(chunks * CHUNK), (*outer, element))
        parts.append(nested(outer, _row(rest, machine)))
    return sequence(parts)


def _moved(nest: Nest, var: Var, place: Expr, spatial: tuple[Axis, ...]) -> Nest:
    return tidy(replace(nest.map(lambda value: substitute(value, {var: place})), spatial=spatial))


def _transposed_axis(nest: Nest) -> Axis | None:
    """The axis along which every load that strides over the innermost axis is contiguous."""
    inner = nest.spatial[-1]
    offsets = [offset_of(load) for load in loads_in(nest.value)]
    strided = [offset for offset in offsets if coefficient(offset, inner.var) not in (0, 1)]
    if not strided:
        return None
    return next((a for a in nest.spatial[:-1] if all(coefficient(o, a.var) == 1 for o in strided)), None)


def _transpose(nest: Nest, along: Axis, machine: Machine) -> Stmt:
    outer = tuple(axis for axis in nest.spatial[:-1] if axis is not along)
    parts = [loop for part in segmented(nest, along) for loop in _tile_loops(part, _same(part, nest, along), machine)]
    if machine.parallel and tasks_in(outer) < PARALLEL_TASKS // 2:
        return sequence([machine.around((*outer, *tiles), body) for tiles, body in parts])
    return machine.around(outer, sequence([nested(tiles, body) for tiles, body in parts]))


def _same(part: Nest, nest: Nest, axis: Axis) -> Axis:
    return part.spatial[nest.spatial.index(axis)]


def _tile_loops(nest: Nest, along: Axis, machine: Machine) -> list[tuple[tuple[Axis, ...], Stmt]]:
    """Loops over tiles, and what they do."""
    inner = nest.spatial[-1]
    if is_turned(nest, along, machine.lanes_for(nest)):
        return [turn(nest, along, machine.lanes_for(nest))]
    lanes = machine.lanes_for(nest) if _may_gather(nest, inner) else 1
    loops: list[tuple[tuple[Axis, ...], Stmt]] = []
    for piece in pieces(along.extent, TRANSPOSE_TILE * (4 if inner.extent < TRANSPOSE_TILE else 1)):
        tile = Axis(var=Var("tile", "int64"), extent=piece.count)
        row = Axis(var=Var(along.var.name, "int64"), extent=piece.width)
        place = tile.var * int64(piece.width) + row.var + int64(piece.start)
        outer = tuple(axis for axis in nest.spatial[:-1] if axis is not along)
        loops.append(((tile,), _tile(_moved(nest, along.var, place, (*outer, tile, row, inner)), row, lanes)))
    return loops


def _may_gather(nest: Nest, inner: Axis) -> bool:
    return all(coefficient(offset_of(load), inner.var) is not None for load in loads_in(nest.value))


def _tile(nest: Nest, row: Axis, lanes: int) -> Stmt:
    inner = nest.spatial[-1]
    statement = _store(nest, nest.value)
    if inner.extent < TRANSPOSE_TILE:
        # The other way round LLVM sees interleaved stores, and vectorizes them by shuffles.
        return serial(row, serial(inner, statement, ForKind.UNROLLED))
    parts = []
    for piece in pieces(inner.extent, lanes):
        block = Axis(var=Var("block", "int64"), extent=piece.count)
        column = Axis(var=Var(inner.var.name, "int64"), extent=piece.width)
        place = block.var * int64(piece.width) + column.var + int64(piece.start)
        kind = ForKind.VECTORIZED if piece.width > 1 else ForKind.SERIAL
        vector = serial(column, substitute(statement, {inner.var: place}), kind)
        parts.append(serial(block, serial(row, vector)))
    return sequence(parts)
