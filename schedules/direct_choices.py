"""In which tiles, and in which order, a direct kernel computes a layer."""

from lowprec.schedules.arithmetic import Arithmetic
from lowprec.schedules.direct import Direct, Grouped, PackedWeights, StridedWeights
from lowprec.schedules.tiling import Workload, ceil_div, choose_tile
from lowprec.schedules.walks import Walk, choose_walk
from lowprec.targets import Target


def direct_kernel(
    layer: Grouped,
    weights: PackedWeights | StridedWeights,
    arithmetic: Arithmetic,
    target: Target,
    *,
    activations: int,
) -> Direct:
    """The kernel's parameters for a target; bytes of `activations` are read and written."""
    packed = isinstance(weights, PackedWeights)
    lanes = target.lanes if packed else min(target.lanes, layer.out_channels)
    d, h, w = layer.geometry.size
    work = Workload(
        lines=layer.batch * d * h,
        pixels=w,
        columns=layer.out_channels,
        taps=layer.geometry.taps,
        channels=ceil_div(layer.in_channels, arithmetic.word),
        activations=activations,
    )
    folding = target.folds_broadcasts and arithmetic.folds
    tile = choose_tile(work, lanes=lanes, registers=arithmetic.registers(target), folding=folding)
    return Direct(
        **layer.given(),
        weights=weights,
        lanes=lanes,
        tile=tile,
        walk=choose_walk(work, tile, lanes=lanes) if packed else Walk(),
        arithmetic=arithmetic,
    )
