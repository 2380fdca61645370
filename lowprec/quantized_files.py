"""A quantized model as an ONNX file: the child's task `export`.

The file is written beside its place and renamed: a reader finds the old file or the new one, never half of one.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowprec.errors import UsageError
from lowprec.exporting import to_onnx
from lowprec.format_names import takes_ranges
from lowprec.frontend.graph import Graph
from lowprec.pipeline import prepared_for


def export_task(request: Mapping[str, Any], graph: Graph) -> dict[str, Any]:
    """The model at request["out"], and what of it is integers."""
    prepared = prepared_for(request, graph)
    model = to_onnx(prepared.graph)
    content = model.SerializeToString()
    _place(Path(request["out"]), content)
    return {
        "bytes": len(content),
        "nodes": len(model.graph.node),
        "opset": next(entry.version for entry in model.opset_import if not entry.domain),
        "formats": dict(prepared.formats),
        "integers": [layer for layer, name in prepared.formats.items() if takes_ranges(name)],
        "floats": [{"layer": layer, "reason": reason} for layer, reason in prepared.declined.items()],
    }


def _place(path: Path, content: bytes) -> None:
    """Put a file at `path` in one step, flushed to the disk."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
            fresh = Path(scratch) / path.name
            with fresh.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
    except OSError as problem:
        raise UsageError(f"{path} cannot be written ({problem.strerror or problem}): give another place") from None
