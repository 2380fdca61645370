"""model.onnx in, a static and checked `Graph` out: NumPy and onnx only, TVM is never imported here."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from lowprec.frontend.bodies import refuse_too_large, refuse_unsupported
from lowprec.frontend.external import locate_external
from lowprec.frontend.graph import Graph
from lowprec.frontend.limits import Limits
from lowprec.frontend.reading import read_model
from lowprec.frontend.shapes import Shapes
from lowprec.frontend.simplifying import simplify
from lowprec.frontend.structure import check_structure
from lowprec.frontend.walking import walk

__all__ = ["Graph", "Limits", "load_graph"]


def load_graph(
    path: str | PathLike[str],
    *,
    input_shapes: dict[str, tuple[int, ...]] | Shapes | None = None,
    limits: Limits | None = None,
    on_size: Callable[[int], None] | None = None,
    on_node: Callable[[str], None] | None = None,
) -> Graph:
    """The model at `path`: read, checked, flattened, folded and simplified, or refused in one line.

    `on_size` is told the bytes of the model and its external data before any of that data is read; `on_node` the name
    of each node before it is looked at, so that somebody knows where onnx's own code crashed.
    """
    source = locate_external(read_model(Path(path), limits), limits)
    if on_size is not None:
        on_size(source.file_bytes)
    check_structure(source)
    graph = simplify(walk(source, input_shapes or {}, on_node))
    refuse_unsupported(graph)
    refuse_too_large(graph, source.limits.constant_bytes)
    return graph
