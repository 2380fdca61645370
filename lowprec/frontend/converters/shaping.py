"""Shapes and layouts: nothing is computed, elements only move.

The output's shape is static, so whatever merely renames axes is one reshape to it.
"""

import math

import numpy as np
from tvm import relax

from lowprec.frontend.converters.site import Converter, Expr, Result, Shape, Site, constant
from lowprec.frontend.guards import guard_of


def unchanged(site: Site) -> Expr:
    """The input itself; the walk copies it where it is an output of the model."""
    return site.input(0)


def convert_reshape(site: Site) -> Expr:
    if math.prod(site.shape()) != math.prod(site.out().shape):
        site.refuse(f"its input has shape {list(site.shape())}, which cannot become {list(site.out().shape)}")
    if 0 in site.out().shape:  # Relax would take a 0 for "as before"
        return constant(np.zeros(site.out().shape), site.out().dtype)
    return relax.op.reshape(site.input(0), site.out().shape)


def convert_transpose(site: Site) -> Expr:
    order = site.integers("perm", range(site.rank())[::-1])
    return relax.op.permute_dims(site.input(0), list(order))


def convert_concat(site: Site) -> Expr:
    inputs = [site.input(i) for i in range(len(site.node.inputs)) if np.prod(site.shape(i)) > 0]
    if len(inputs) == 1:
        return inputs[0]
    return relax.op.concat(inputs, site.axis("axis", 1))


def convert_split(site: Site) -> Result:
    """One slice per output, so that each is a tensor of its own."""
    axis = site.axis("axis", 0)
    results, begin = [], 0
    for index in range(len(site.node.outputs)):
        if not site.wants(index):
            site.refuse(f"output {index} has no name; every part needs one")
        end = begin + site.out(index).shape[axis]
        results.append(relax.op.strided_slice(site.input(0), [axis], [begin], [end]))
        begin = end
    return tuple(results)


def convert_expand(site: Site) -> Expr:
    return relax.op.broadcast_to(site.input(0), site.out().shape)


def convert_tile(site: Site) -> Expr:
    """Repeats follow from the two shapes; on an empty axis any would do."""
    pairs = zip(site.out().shape, site.shape(), strict=True)
    return relax.op.tile(site.input(0), [o // i if i else 1 for o, i in pairs])


def trains(site: Site) -> bool:
    """Whether elements may be dropped: training mode, or one the model computes, with a ratio that may not be 0. A mode
    that is an input of the model is checked at each run."""
    if guard_of(site.node, site.graph) is not None:
        return False
    if not site.has(2) or (site.known(2) is not None and not site.scalar(2, "training_mode")):
        return False
    ratio = 0.5 if not site.has(1) else site.known(1)
    return ratio is None or bool(np.any(ratio))


def convert_dropout(site: Site) -> Result:
    """At inference the input, and a mask of ones."""
    if trains(site):
        site.refuse("its training_mode is set, or computed by the model; only inference is supported")
    data = site.input(0)
    return (data, constant(np.ones(site.shape()), site.out(1).dtype)) if site.wants(1) else data


def shuffled(site: Site, inner: Shape, order: list[int]) -> Expr:
    split = site.emit(relax.op.reshape(site.input(0), inner))
    return relax.op.reshape(site.emit(relax.op.permute_dims(split, order)), site.out().shape)


def convert_depth_to_space(site: Site) -> Expr:
    n, c, h, w = site.shape()
    block = site.integer("blocksize", 1)
    if site.text("mode", "DCR") == "DCR":
        return shuffled(site, (n, block, block, c // block**2, h, w), [0, 3, 4, 1, 5, 2])
    return shuffled(site, (n, c // block**2, block, block, h, w), [0, 1, 4, 2, 5, 3])


def convert_space_to_depth(site: Site) -> Expr:
    n, c, h, w = site.shape()
    block = site.integer("blocksize", 1)
    order = [0, 3, 5, 1, 2, 4] if site.text("mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    return shuffled(site, (n, c, h // block, block, w // block, block), order)


CONVERTERS: dict[str, Converter] = {
    "Concat": convert_concat,
    "DepthToSpace": convert_depth_to_space,
    "Dropout": convert_dropout,
    "Expand": convert_expand,
    "Flatten": convert_reshape,
    "Identity": unchanged,
    "Reshape": convert_reshape,
    "SpaceToDepth": convert_space_to_depth,
    "Split": convert_split,
    "Squeeze": convert_reshape,
    "Tile": convert_tile,
    "Transpose": convert_transpose,
    "Unsqueeze": convert_reshape,
}
