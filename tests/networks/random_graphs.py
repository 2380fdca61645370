"""Random small networks: seed in, model out; the same seed, the same model.

They hold what hand-written tests forget: one tensor read by everything, shapes of 1 and of 17, concats of a tensor with
itself, layouts that meet, outputs in the middle.
"""

from collections.abc import Callable

import numpy as np
import onnx

from tests.networks.drawing import Array, Drawing, Tensor
from tests.networks.steps import elements, images, moves, products

SIZES = {1: ((7,), (19,), (1,)), 2: ((5, 7), (8, 8), (1, 9), (6, 1), (1, 1), (13, 11)), 3: ((3, 4, 5), (2, 5, 1))}
ROWS = 11  # of the table that indices go into

Step = Callable[[Drawing], Tensor]

# fmt: off
OFTEN: tuple[Step, ...] = (
    images.conv, images.residual, images.fan, images.pools, images.gate,
    products.layer_norm, products.matmul,
    moves.concat, moves.reshape,
    elements.broadcast, elements.combine,
)
ONCE: tuple[Step, ...] = (
    images.transposed, images.computed_weights, images.global_pools, images.resize,
    elements.norms, elements.reduce, elements.activation, elements.softmax, elements.largest, elements.top,
    elements.casts, elements.where, elements.running,
    moves.shuffle, moves.split, moves.slices, moves.pad, moves.gather, moves.spread, moves.transpose,
    moves.blocks,
    products.attention, products.gemm,
)
# fmt: on
STEPS = 2 * OFTEN + ONCE
"""Every kind of step, the common ones twice."""


def random_graph(seed: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model, and inputs that keep its values near 1."""
    rng = np.random.default_rng(seed)
    draw = Drawing(rng=rng, opset=int(rng.integers(13, 22)))
    _inputs(draw)
    steps, wanted = 0, draw.between(4, 14)
    for _ in range(10 * wanted):
        steps += draw.attempt(draw.one_of(*STEPS))
        if steps == wanted:
            break
    return draw.finish(_outputs(draw)), {value.name: value.array for value in draw.inputs}


def _inputs(draw: Drawing) -> None:
    """An image or a volume, perhaps another to mix with it, perhaps indices into a table."""
    rank = draw.one_of(1, 2, 2, 2, 2, 3)
    shape = (draw.one_of(1, 1, 2, 3), draw.one_of(*images.CHANNELS), *draw.one_of(*SIZES[rank]))
    draw.input(draw.one_of("input", "in put:0", "x", "main", "lv"), _normal(draw, *shape))
    if draw.chance(0.3):
        draw.input("second/input", _normal(draw, *draw.one_of(shape, shape[1:], (1, shape[1], 1, 1), (4, 6), ())))
    if draw.chance(0.2):
        indices = draw.input("ids", draw.rng.integers(0, ROWS, draw.one_of((5,), (2, 3), ())))
        draw.op("Gather", draw.normal(ROWS, draw.one_of(*images.CHANNELS)), indices)


def _outputs(draw: Drawing) -> list[Tensor]:
    """What nothing reads, some of what something does, at times an input or a copy."""
    read = {name for node in draw.nodes for name in node.input}
    given = {value.name for value in draw.inputs}
    made = [value for value in draw.values if value.name not in given]
    ends = [value for value in made if value.name not in read]
    inner = [value for value in made if value.name in read]
    chosen = ends[-6:] + [draw.one_of(*inner) for _ in range(draw.between(0, 2)) if inner]
    if draw.chance(0.1):
        chosen += [draw.op("Identity", draw.inputs[0]), draw.op("Identity", chosen[0]), draw.op("Identity", chosen[0])]
    if draw.chance(0.05):
        chosen.append(draw.inputs[0])
    return list({value.name: value for value in chosen}.values())


def _normal(draw: Drawing, *shape: int) -> Array:
    return draw.rng.standard_normal(shape).astype(np.float32)
