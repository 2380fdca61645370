"""A PrimFunc of perfect loop nests, read as a list of stages: who computes which buffer from which.

What LegalizeOps and FuseTIR make is a sequence of nests with one block each. Anything else (sorting, scatter, calls out
of the function) is not read, and `read_stages` answers None.
"""

from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr, TensorLoad
from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import BufferStore, For, ForKind, IntImm, IterVar, PrimFunc, SeqStmt, Stmt, Var

from lowprec.schedules.affine import Axis, loads_in, substitute

COMBINERS = {"sum": tirx.Add, "max": tirx.Max, "min": tirx.Min, "product": tirx.Mul}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One buffer's computation: `value` at every point of `spatial`, or with `reduce` axes its reduction by `combiner`.

    The output is addressed in row-major order of `spatial`, whatever its own shape. After a reduction `finish`, where
    given, turns `total` into what is stored.
    """

    output: Var
    spatial: tuple[Axis, ...]
    value: Expr
    reduce: tuple[Axis, ...] = ()
    combiner: str = ""
    initial: Expr | None = None
    finish: Expr | None = None
    total: Var | None = None

    @property
    def outputs(self) -> tuple[Var, ...]:
        return (self.output,)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.extent for axis in self.spatial)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entangled:
    """A reduction whose buffers depend on each other (argmax): its statements stay as they are, inside our loops."""

    outputs: tuple[Var, ...]
    spatial: tuple[Axis, ...]
    reduce: tuple[Axis, ...]
    initial: Stmt | None
    update: Stmt

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.extent for axis in self.spatial)


AnyStage = Stage | Entangled


def read_stages(func: PrimFunc) -> list[AnyStage] | None:
    root = func.body
    if not isinstance(root, SBlockRealize) or root.block.iter_vars or root.block.match_buffers:
        return None
    body = root.block.body
    stages: list[AnyStage] = []
    for statement in body if isinstance(body, SeqStmt) else [body]:
        read = _read_nest(statement)
        if read is None:
            return None
        stages += read
    return stages


def statements_of(node: Stmt | None) -> list[Stmt]:
    if node is None:
        return []
    return [part for child in node for part in statements_of(child)] if isinstance(node, SeqStmt) else [node]


def _read_nest(statement: Stmt) -> list[AnyStage] | None:
    loops: list[Var] = []
    while isinstance(statement, For):
        if statement.kind != ForKind.SERIAL or statement.annotations or not _is_zero(statement.min):
            return None
        loops.append(statement.loop_var)
        statement = statement.body
    if not isinstance(statement, SBlockRealize) or not _is_plain(statement, loops):
        return None
    return _read_block(statement.block)


def _is_zero(expression: Expr) -> bool:
    return isinstance(expression, IntImm) and expression.value == 0


def _is_plain(realize: SBlockRealize, loops: list[Var]) -> bool:
    """One block axis a loop, all of constant extent, no predicate, no buffers of its own."""
    block = realize.block
    bound = [value for value in realize.iter_values if not _is_zero(value)]
    if any(not isinstance(value, Var) or value not in loops for value in bound) or len(set(bound)) != len(bound):
        return False
    if len(bound) != len(loops) and any(not _is_zero(v) for v in realize.iter_values if v not in loops):
        return False
    extents = all(isinstance(axis.dom.extent, IntImm) and _is_zero(axis.dom.min) for axis in block.iter_vars)
    is_true = isinstance(realize.predicate, IntImm) and bool(realize.predicate.value)
    return extents and is_true and not block.alloc_buffers and not block.match_buffers


def _read_block(block: SBlock) -> list[AnyStage] | None:
    spatial = tuple(_axis(axis) for axis in block.iter_vars if axis.iter_type == IterVar.DataPar)
    reduce = tuple(_axis(axis) for axis in block.iter_vars if axis.iter_type == IterVar.CommReduce)
    if len(spatial) + len(reduce) != len(block.iter_vars):
        return None
    statements = statements_of(block.body)
    stores = [statement for statement in statements if isinstance(statement, BufferStore)]
    binds = [statement for statement in statements if isinstance(statement, tirx.Bind)]
    if not stores or len(stores) + len(binds) != len(statements):
        return None
    if any(not _is_row_major(store, spatial) for store in stores):
        return None
    if not reduce:
        return None if binds or len(stores) > 1 or block.init is not None else [_map_stage(stores[0], spatial)]
    separate = _reductions(stores, binds, statements_of(block.init), spatial, reduce)
    if separate is not None:
        return list(separate)
    outputs = tuple(store.buffer for store in stores)
    return [Entangled(outputs=outputs, spatial=spatial, reduce=reduce, initial=block.init, update=block.body)]


def _axis(axis: IterVar) -> Axis:
    return Axis(var=axis.var, extent=int(axis.dom.extent.value))


def _is_row_major(store: BufferStore, spatial: tuple[Axis, ...]) -> bool:
    """Whether the store's indices are the spatial axes in order; an axis of one element may be written as 0."""
    if len(store.indices) != len(spatial):
        return False
    for index, axis, size in zip(store.indices, spatial, store.buffer.shape, strict=True):
        if not isinstance(size, IntImm) or int(size.value) != axis.extent:
            return False
        if not axis.var.same_as(index) and not (axis.extent == 1 and _is_zero(index)):
            return False
    return True


def _map_stage(store: BufferStore, spatial: tuple[Axis, ...]) -> Stage:
    return Stage(output=store.buffer, spatial=spatial, value=store.value)


def _reductions(
    stores: list[BufferStore],
    binds: list[tirx.Bind],
    initial: list[Stmt],
    spatial: tuple[Axis, ...],
    reduce: tuple[Axis, ...],
) -> list[Stage] | None:
    """Several sums over the same elements are as many stages, if none reads another's buffer."""
    starts = {s.buffer: s.value for s in initial if isinstance(s, BufferStore)}
    outputs = {store.buffer for store in stores}
    bound: dict[Var, Expr] = {}
    for bind in binds:
        bound[bind.var] = substitute(bind.value, bound)
    stages = []
    for store in stores:
        value = substitute(store.value, bound)
        term = _term(value, store)
        start = starts.get(store.buffer)
        if term is None or not isinstance(start, IntImm | tirx.FloatImm):
            return None
        if any(load.source in outputs for load in loads_in(term[1])):
            return None
        stages.append(
            Stage(output=store.buffer, spatial=spatial, reduce=reduce, combiner=term[0], value=term[1], initial=start)
        )
    return stages


def _term(value: Expr, store: BufferStore) -> tuple[str, Expr] | None:
    for combiner, node in COMBINERS.items():
        if isinstance(value, node):
            for total, term in ((value.a, value.b), (value.b, value.a)):
                if isinstance(total, TensorLoad) and total.source.same_as(store.buffer):
                    same = tvm_ffi.structural_equal(list(total.indices), list(store.indices), map_free_vars=False)
                    return (combiner, term) if same else None
    return None
