"""Answers to the same model: ONNX Runtime's, onnx's own reference evaluator's, slow and independent, and our oracle's.

Each runs in a process of its own, `python -m lowprec.references`: a crash, a hang or a model of half a gigabyte costs
the caller nothing, and neither onnx nor ONNX Runtime is loaded into the caller.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.engine_process import last_words
from lowprec.engines import load_sets, save_sets
from lowprec.errors import LowprecError

Array = NDArray[np.generic]

ONNXRUNTIME = "onnxruntime"
EVALUATOR = "onnx reference evaluator"
ORACLE = "oracle"
Answer = tuple[dict[str, Array], dict[str, Any]]
"""Values by name, and facts about them."""
_MAX_PROTOBUF = 2**31 - 1


class ReferenceFailed(LowprecError):
    """A reference gave no answer; the message says why."""


def answers(
    reference: str,
    model: Path,
    inputs: Mapping[str, Array],
    *,
    inner: Sequence[str] = (),
    seconds: float | None = None,
) -> dict[str, Array]:
    """The model's outputs by name, and those of the tensors `inner` that the model has; ReferenceFailed otherwise."""
    return ask(reference, model, inputs, {"inner": list(inner)}, seconds=seconds)[0]


def ask(
    reference: str,
    model: Path,
    inputs: Mapping[str, Array],
    words: Mapping[str, Any],
    *,
    seconds: float | None = None,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Values by name, and what the reference has to say of them."""
    with tempfile.TemporaryDirectory(prefix="lowprec-reference-") as folder:
        files = {name: str(Path(folder) / name) for name in ("inputs.npz", "values.npz", "facts.json")}
        save_sets(files["inputs.npz"], [inputs])
        request = {"reference": reference, "model": str(model.absolute()), "files": files, **words}
        command = [sys.executable, "-P", "-m", "lowprec.references"]
        try:
            done = subprocess.run(
                command, input=json.dumps(request).encode(), capture_output=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise ReferenceFailed(f"it took longer than {seconds:.0f} s") from None
        if done.returncode != 0:
            raise ReferenceFailed(last_words(done.returncode, done.stderr.decode(errors="replace")))
        facts: dict[str, Any] = json.loads(Path(files["facts.json"]).read_text())
        return load_sets(files["values.npz"])[0], facts


def _run_onnxruntime(request: Mapping[str, Any], inputs: dict[str, Array]) -> Answer:
    """All values in one run, nothing optimized: every node computes what its definition says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="lowprec-model-") as folder:
        source = _with_outputs(request["model"], request["inner"], Path(folder))
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True)), {}


def _with_outputs(model: str, inner: Sequence[str], folder: Path) -> str | bytes:
    """The model with the inner tensors as further outputs: its own path, its bytes, or a file with external data."""
    if not inner:
        return model
    import onnx

    proto = onnx.load(model)
    known = {name for node in proto.graph.node for name in node.output if name}
    known -= {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name in known)
    if proto.ByteSize() < _MAX_PROTOBUF:
        content: bytes = proto.SerializeToString()
        return content
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True)
    return str(path)


def _run_evaluator(request: Mapping[str, Any], inputs: dict[str, Array]) -> Answer:
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load(request["model"]))
    values = evaluator.run(None, inputs)
    return dict(zip(evaluator.output_names, map(np.asarray, values), strict=True)), {}


def _run_oracle(request: Mapping[str, Any], inputs: dict[str, Array]) -> Answer:
    from lowprec.frontend import load_graph
    from lowprec.meanings import oracle_values

    options = request["options"]
    shapes = {name: tuple(shape) for name, shape in options["input_shapes"].items()}
    graph = load_graph(request["model"], input_shapes=shapes)
    return oracle_values(graph, options, request["inner"], inputs)


_RUNNERS: Mapping[str, Callable[[Mapping[str, Any], dict[str, Array]], Answer]] = {
    ONNXRUNTIME: _run_onnxruntime,
    EVALUATOR: _run_evaluator,
    ORACLE: _run_oracle,
}


def main() -> None:
    """The child: one request on stdin; values and facts into files; failing is ending with a traceback."""
    request = json.load(sys.stdin)
    files = request["files"]
    values, facts = _RUNNERS[request["reference"]](request, load_sets(files["inputs.npz"])[0])
    plain = {name: value if value.dtype.isbuiltin == 1 else value.astype(np.float32) for name, value in values.items()}
    save_sets(files["values.npz"], [plain])
    Path(files["facts.json"]).write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
