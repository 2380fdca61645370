"""Graph -> Graph rewrites that need no knowledge of the target, in order."""

from collections.abc import Callable

import numpy as np

from lowprec.frontend.absorbing import absorb_affines
from lowprec.frontend.autopad import spell_out_windows
from lowprec.frontend.bypassing import bypass
from lowprec.frontend.graph import Graph
from lowprec.frontend.integer_moves import move_to_products
from lowprec.frontend.padding import absorb_padding
from lowprec.frontend.pruning import prune
from lowprec.frontend.restoring import restore

REWRITES: tuple[Callable[[Graph], Graph], ...] = (
    move_to_products,
    restore,
    prune,
    bypass,
    spell_out_windows,
    absorb_padding,
    absorb_affines,
    prune,
)


def simplify(graph: Graph) -> Graph:
    """All rewrites, one after the other."""
    with np.errstate(all="ignore"):  # a NaN among the weights is the model's business
        for rewrite in REWRITES:
            graph = rewrite(graph)
    return graph
