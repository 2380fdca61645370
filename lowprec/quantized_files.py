"""A quantized model as an ONNX file: the child's task `export`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowprec import files
from lowprec.errors import UsageError
from lowprec.exporting import to_onnx
from lowprec.format_names import takes_ranges
from lowprec.frontend.graph import Graph
from lowprec.isolation import Notify
from lowprec.observing import silent
from lowprec.pipeline import prepared_for


def export_task(request: Mapping[str, Any], graph: Graph, notify: Notify = silent) -> dict[str, Any]:
    """The model at request["out"], and what of it is integers."""
    prepared = prepared_for(request, graph, notify)
    model = to_onnx(prepared.graph)
    content = model.SerializeToString()
    try:
        files.place(Path(request["out"]), content)
    except OSError as problem:
        reason = problem.strerror or problem
        raise UsageError(f"{request['out']} cannot be written ({reason}): give another place") from None
    return {
        "bytes": len(content),
        "nodes": len(model.graph.node),
        "opset": next(entry.version for entry in model.opset_import if not entry.domain),
        "formats": dict(prepared.formats),
        "integers": [layer for layer, name in prepared.formats.items() if takes_ranges(name)],
        "floats": [{"layer": layer, "reason": reason} for layer, reason in prepared.declined.items()],
    }
