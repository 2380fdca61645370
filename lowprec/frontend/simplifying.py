"""Graph -> Graph rewrites that need no knowledge of the target, in order."""

from collections.abc import Callable

from lowprec.frontend.graph import Graph
from lowprec.frontend.pruning import prune

REWRITES: tuple[Callable[[Graph], Graph], ...] = (prune,)


def simplify(graph: Graph) -> Graph:
    """All rewrites, one after the other."""
    for rewrite in REWRITES:
        graph = rewrite(graph)
    return graph
