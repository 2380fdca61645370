"""The one rule for every PrimFunc that no kernel of ours makes: pooling, softmax, normalization, concat, resize ...

TVM applies no schedule on the CPU, so what runs is what stands here: stages are inlined, those of one row run together
while the row is in the cache, innermost loops become vectors, outermost ones parallel, and transcendental functions
arithmetic. Sums may be reassociated, products are fused with nothing but these; nothing else changes, and nothing
depends on the number of threads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Expr, TensorLoad
from tvm.tirx import PrimFunc, Stmt, Var

from lowprec.schedules.affine import Axis, Nest, Node, int64, linear_indices, linear_load, loads_in, substitute
from lowprec.schedules.bfloats import has_instruction, instructed_bfloat16, with_roundings
from lowprec.schedules.fallback import parallel_outer_loops
from lowprec.schedules.fences import with_fences
from lowprec.schedules.inlining import cost_of, domain_of, inline, values_of
from lowprec.schedules.loops import nested, sequence
from lowprec.schedules.maps import Machine, map_loops
from lowprec.schedules.reductions import Reduction, reduction_loops
from lowprec.schedules.stages import AnyStage, Entangled, Stage, read_stages
from lowprec.schedules.vector_math import to_bfloat16, with_vector_math
from lowprec.targets import Target

# Below this much work, in operations and element accesses, starting threads costs more than it saves.
PARALLEL_WORK = 1 << 15
LEAST_ROWS = 16
ROW_BYTES = 1 << 14  # of intermediate results, half the first cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Stages that run together for each point of their leading `depth` axes; with depth 0, one stage on its own."""

    stages: tuple[AnyStage, ...]
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where an intermediate buffer's elements live: in `buffer`, without its first `depth` axes (one row at a time)."""

    buffer: Var
    depth: int


Homes = Mapping[Var, Home]


def schedule_generic(func: PrimFunc, target: Target) -> PrimFunc:
    """Loop nests of blocks --> plain loops, vectors and parallel loops.

    Declines, leaving the loops as they are, when a statement is no perfect nest of one block: sorting, scatter, calls.
    """
    # Step 1. Read. What cannot be read keeps its loops.
    stages = read_stages(func)
    if stages is None or not _writes_once(stages):
        return _with_arithmetic(parallel_outer_loops(func), target)
    stages = [stage for stage in stages if prod(stage.shape)]
    # Step 2. Inline, and let a reduction finish what its only reader does.
    kept = {param for param in func.params if tirx.is_buffer_var(param)}
    stages = list(map(with_fences, inline(stages, kept)))
    # Step 3. Stages of one row together.
    groups = group_rows(stages)
    # Step 4. Loops.
    shared = _shared_buffers(groups, kept)
    body: list[Stmt] = [tirx.AllocBuffer(home.buffer) for home in shared.values()]
    body += [_loops(rows, kept, shared, _lanes(func, target)) for rows in groups]
    body = body or [tirx.Evaluate(0)]
    return _with_arithmetic(_single_assignment(func.with_body(sequence(body))), target)


def _with_arithmetic(func: PrimFunc, target: Target) -> PrimFunc:
    """Functions, and roundings, as arithmetic; the instruction that rounds is one of vectors, which loops become for
    it."""
    func = with_vector_math(func)
    rounded = with_roundings(func, to_bfloat16)
    if not has_instruction(target) or tvm_ffi.structural_equal(func, rounded):
        return rounded
    vectors = tirx.transform.VectorizeLoop()(tvm.IRModule({"main": func}))["main"]
    return with_roundings(vectors, instructed_bfloat16)


def _lanes(func: PrimFunc, target: Target) -> int:
    """Elements at once. TVM stores bfloat16 as uint16, and its rewrite of a vector that repeats one value fails."""
    narrow = any(str(buffer.dtype) == "bfloat16" for buffer in func.params if tirx.is_buffer_var(buffer))
    return 1 if narrow else target.lanes


def _writes_once(stages: list[AnyStage]) -> bool:
    outputs = [buffer for stage in stages for buffer in stage.outputs]
    if len(set(outputs)) != len(outputs):
        return False
    return not any(
        isinstance(stage, Stage) and load.source in stage.outputs for stage in stages for load in _loads(stage)
    )


def _loads(stage: AnyStage) -> list[TensorLoad]:
    return [load for value in values_of(stage) for load in loads_in(value)]


def _single_assignment(func: PrimFunc) -> PrimFunc:
    """Loops that were written out twice share their variables until here."""
    module = tirx.transform.ConvertSSA()(tvm.IRModule({"main": func}))
    return module["main"]


def group_rows(stages: list[AnyStage]) -> list[Rows]:
    groups: list[Rows] = []
    for stage in stages:
        joint = _joint(groups[-1], stage) if groups else None
        if joint is None:
            groups.append(Rows(stages=(stage,), depth=0))
        else:
            groups[-1] = joint
    return groups


def _joint(rows: Rows, stage: AnyStage) -> Rows | None:
    stages = (*rows.stages, stage)
    made = {buffer for other in rows.stages for buffer in other.outputs}
    if not any(load.source in made for load in _loads(stage)):
        return None
    depths = [depth for depth in range(1, _common_depth(stages) + 1) if prod(stage.shape[:depth]) >= LEAST_ROWS]
    fitting = [depth for depth in depths if _bytes_per_row(stages, depth) <= ROW_BYTES]
    if not depths:
        return None
    return Rows(stages=stages, depth=fitting[0] if fitting else depths[-1])


def _common_depth(stages: tuple[AnyStage, ...]) -> int:
    """How many leading axes all stages share, reading each other's elements at the same place; one axis is left."""
    made = {buffer for stage in stages for buffer in stage.outputs}
    largest = max(len(stage.shape) for stage in stages)
    depth = 0
    while depth < largest - 1 and all(depth < len(stage.shape) for stage in stages):
        sizes = {stage.shape[depth] for stage in stages}
        aligned = all(
            _is_aligned(stage, load, depth) for stage in stages for load in _loads(stage) if load.source in made
        )
        same_shape = all(len(buffer.shape) == len(stage.shape) for stage in stages for buffer in stage.outputs)
        if len(sizes) > 1 or not aligned or not same_shape:
            break
        depth += 1
    return depth


def _is_aligned(stage: AnyStage, load: TensorLoad, depth: int) -> bool:
    if isinstance(stage, Entangled) and load.source in stage.outputs:
        return True
    own = stage.spatial[depth]
    return own.extent == 1 or (depth < len(load.indices) and own.var.same_as(load.indices[depth]))


def _bytes_per_row(stages: tuple[AnyStage, ...], depth: int) -> int:
    return sum(4 * prod(stage.shape[depth:]) for stage in stages)


def _shared_buffers(groups: list[Rows], kept: set[Var]) -> dict[Var, Home]:
    """What one group hands to another, or a stage on its own makes: a buffer for the whole function."""
    shared: dict[Var, Home] = {}
    for rows in groups:
        others = [stage for other in groups if other is not rows for stage in other.stages]
        read = {load.source for stage in others for load in _loads(stage)}
        made = [buffer for stage in rows.stages for buffer in stage.outputs if buffer not in kept]
        shared |= {buffer: _home(buffer, 0) for buffer in made if buffer in read or not rows.depth}
    return shared


def _home(buffer: Var, depth: int) -> Home:
    """Of one axis: TVM shrinks a buffer of several whose last index runs past its extent."""
    size = max(1, prod(_shape(buffer)[depth:]))
    return Home(buffer=tirx.decl_buffer((size,), buffer.dtype, buffer.name, scope="global"), depth=depth)


def _loops(rows: Rows, kept: set[Var], shared: Homes, lanes: int) -> Stmt:
    is_worth_threads = sum(_work(stage) for stage in rows.stages) >= PARALLEL_WORK
    if not rows.depth:
        return _stage_loops(rows.stages[0], Machine(lanes=lanes, parallel=is_worth_threads), shared, 0)
    axes = tuple(Axis(var=Var(f"row{i}", "int64"), extent=n) for i, n in enumerate(rows.stages[0].shape[: rows.depth]))
    inside = Machine(lanes=lanes, parallel=False)
    made = [buffer for stage in rows.stages for buffer in stage.outputs if buffer not in kept and buffer not in shared]
    local = {buffer: _home(buffer, rows.depth) for buffer in made}
    body: list[Stmt] = [tirx.AllocBuffer(home.buffer) for home in local.values()]
    for stage in rows.stages:
        loops = _stage_loops(stage, inside, {**shared, **local}, rows.depth)
        mapping = {own.var: axis.var for own, axis in zip(stage.spatial, axes, strict=False)}
        body.append(substitute(loops, mapping))
    return Machine(lanes=lanes, parallel=is_worth_threads).around(axes, sequence(body))


def _work(stage: AnyStage) -> int:
    return domain_of(stage) * (2 + sum(cost_of(value) for value in values_of(stage)))


def _stage_loops(stage: AnyStage, machine: Machine, homes: Homes, depth: int) -> Stmt:
    if isinstance(stage, Entangled):
        return _entangled_loops(stage, machine, homes, depth)
    if stage.reduce and not domain_of(stage):
        stage = _without_terms(stage)
    linear = _linear_nest(stage, homes, depth)
    if not stage.reduce:
        return map_loops(linear, machine)
    assert stage.initial is not None
    return reduction_loops(linear, Reduction(combiner=stage.combiner, initial=stage.initial), machine)


def _without_terms(stage: Stage) -> Stage:
    """A reduction of nothing is where it starts."""
    value = stage.initial if stage.finish is None else substitute(stage.finish, {stage.total: stage.initial})
    return Stage(output=stage.output, spatial=stage.spatial, value=value)


def _linear_nest(stage: Stage, homes: Homes, depth: int) -> Nest:
    """The stage's remaining loops, everything addressed by linear offsets; axes of one element are gone."""
    units = {axis.var: int64(0) for axis in (*stage.spatial[depth:], *stage.reduce) if axis.extent == 1}

    def linear(value: Expr) -> Expr:
        return substitute(_linear_loads(value, homes), units)

    home = homes.get(stage.output, Home(buffer=stage.output, depth=0))
    index = _position(stage.shape[home.depth :], tuple(axis.var for axis in stage.spatial[home.depth :]))
    return Nest(
        output=home.buffer,
        index=substitute(index, units),
        value=linear(stage.value),
        spatial=tuple(axis for axis in stage.spatial[depth:] if axis.extent > 1),
        reduce=tuple(axis for axis in stage.reduce if axis.extent > 1),
        finish=None if stage.finish is None else linear(stage.finish),
        total=stage.total,
    )


def _linear_loads(node: Node, homes: Homes) -> Node:
    def load(item: TensorLoad) -> Expr:
        return linear_load(*_element(item.source, item.indices, homes))

    result: Node = tvm_ffi.structural_map(node, (TensorLoad, load), order="post")
    return result


def _element(buffer: Var, indices: Sequence[Expr], homes: Homes) -> tuple[Var, Expr]:
    """Where an element is: a buffer and a linear offset."""
    home = homes.get(buffer, Home(buffer=buffer, depth=0))
    return home.buffer, _position(_shape(buffer)[home.depth :], tuple(indices)[home.depth :])


def _shape(buffer: Var) -> tuple[int, ...]:
    return tuple(int(size.value) for size in buffer.shape)


def _position(shape: tuple[int, ...], point: tuple[Expr, ...]) -> Expr:
    position: Expr = int64(0)
    for size, index in zip(shape, point, strict=True):
        position = position * int64(size) + index
    return position


def _entangled_loops(stage: Entangled, machine: Machine, homes: Homes, depth: int) -> Stmt:
    """Scalar code, whole totals in parallel."""

    def store(node: tirx.BufferStore) -> Stmt:
        buffer, offset = _element(node.buffer, node.indices, homes)
        return tirx.BufferStore(buffer, node.value, linear_indices(buffer, offset))

    def linear(node: Stmt) -> Stmt:
        result: Stmt = tvm_ffi.structural_map(_linear_loads(node, homes), (tirx.BufferStore, store), order="post")
        return result

    initial = [] if stage.initial is None else [linear(stage.initial)]
    body = sequence([*initial, nested(stage.reduce, linear(stage.update))])
    return machine.around(stage.spatial[depth:], body)
