"""model.onnx in, a static and checked `Graph` out: NumPy and onnx only, TVM is never imported here."""

from os import PathLike
from pathlib import Path

from lowprec.frontend.bodies import refuse_unsupported
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
) -> Graph:
    """The model at `path`: read, checked, flattened, folded and simplified, or refused in one line."""
    source = read_model(Path(path), limits)
    check_structure(source)
    graph = simplify(walk(source, input_shapes or {}))
    refuse_unsupported(graph)
    return graph
