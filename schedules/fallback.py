"""Where a loop nest cannot be read: at least its outer loops run in parallel."""

from math import prod

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV, ScheduleError
from tvm.tirx import For, IntImm, IterVar, PrimFunc

LEAST_ITERATIONS = 1 << 10
PARALLEL_TASKS = 64


def parallel_outer_loops(func: PrimFunc) -> PrimFunc:
    """for i, j: block --> for ij in parallel: block.

    Declines, block by block, when the outer loops are reductions, too few or of unknown length, or when TVM cannot
    prove that iterations are independent.
    """
    # Step 1. The blocks directly under the root; a function without a root block is not TVM's, and stays.
    schedule = Schedule(func, debug_mask=0)
    try:
        root = schedule.get_sblock("root")
    except ScheduleError:
        return func
    for block in schedule.get_child_blocks(root):
        try:
            _parallelize(schedule, block)
        except ScheduleError:
            continue
    result: PrimFunc = schedule.mod["main"]
    return result


def _parallelize(schedule: Schedule, block: SBlockRV) -> None:
    # Step 2. The leading loops that are spatial axes of the block, each of constant extent.
    loops = schedule.get_loops(block)
    axes = schedule.get(block).iter_vars
    if len(axes) != len(loops):
        return
    leading: list[LoopRV] = []
    extents: list[int] = []
    for loop, axis in zip(loops, axes, strict=True):
        extent = schedule.get(loop).extent
        if axis.iter_type != IterVar.DataPar or not isinstance(extent, IntImm):
            break
        leading.append(loop)
        extents.append(int(extent.value))
        if prod(extents) >= PARALLEL_TASKS:
            break
    # Step 3. One parallel loop of them.
    if leading and _iterations(schedule, loops) >= LEAST_ITERATIONS:
        schedule.parallel(schedule.fuse(*leading))


def _iterations(schedule: Schedule, loops: list[LoopRV]) -> int:
    """At least so many; a loop of unknown length counts once."""
    nodes: list[For] = [schedule.get(loop) for loop in loops]
    return prod(int(node.extent.value) for node in nodes if isinstance(node.extent, IntImm))
