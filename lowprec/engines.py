"""One inference engine in a process of its own: `python -m lowprec.engines`, driven by `lowprec.benchmarking`.

Engines share a machine but never a process: the idle threads of one spin against those of another. The protocol is one
JSON object a line, a request on stdin and an answer on stdout; arrays go through `.npz` files.

    {"do": "open", "engine": "onnxruntime", "precision": "fp32", "path": "model.onnx", "threads": 2, "inputs": "in.npz"}
    {"do": "outputs", "file": "out.npz"}       the outputs of every input set
    {"do": "reference", "file": "out.npz"}     compare later answers with these
    {"do": "run", "count": 20}                 -> {"seconds": [...], "error": 3e-07}
    {"do": "memory"}                           -> {"bytes": 104857600}

Every run takes the next of the input sets. What the last one of those asked for answers is compared.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.comparison import compare
from lowprec.confinement import die_with_parent
from lowprec.errors import LowprecError, UsageError

Array = NDArray[np.generic]
Run = Callable[[Mapping[str, Array]], Iterable[Array]]


def open_lowprec(path: str, precision: str, threads: int, shapes: Mapping[str, tuple[int, ...]]) -> Run:
    """An artifact's directory."""
    from lowprec.artifact import load

    artifact = load(path, threads)

    def run(inputs: Mapping[str, Array]) -> Iterable[Array]:
        return artifact(inputs).values()

    return run


def open_onnxruntime(path: str, precision: str, threads: int, shapes: Mapping[str, tuple[int, ...]]) -> Run:
    """ONNX Runtime as its documents advise for latency: all optimizations, one pool of that many threads, spinning."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Array]) -> Iterable[Array]:
        outputs: list[Array] = session.run(None, dict(inputs))
        return outputs

    return run


_OPENVINO_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


def open_openvino(path: str, precision: str, threads: int, shapes: Mapping[str, tuple[int, ...]]) -> Run:
    """OpenVINO for latency. The precision is always given: left alone it computes in bf16 where the CPU can.

    An int8 (QDQ) model runs its quantized part in int8 and the rest in fp32.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({name: list(shape) for name, shape in shapes.items()})
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": _OPENVINO_PRECISIONS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        },
    )
    request = compiled.create_infer_request()

    def run(inputs: Mapping[str, Array]) -> Iterable[Array]:
        results = request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        return [results[port] for port in compiled.outputs]

    return run


ENGINES: dict[str, Callable[[str, str, int, Mapping[str, tuple[int, ...]]], Run]] = {
    "lowprec": open_lowprec,
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}


class Worker:
    """The child's side of the protocol: one engine, its input sets and, once given, what they should lead to."""

    def __init__(self) -> None:
        self._inputs: list[dict[str, Array]] = []
        self._reference: list[list[Array]] = []
        self._next = 0
        self._idle = 0
        self._run: Run | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Do what the request asks."""
        match request["do"]:
            case "open":
                return self._open(request)
            case "outputs":
                save_arrays(request["file"], [self._outputs(inputs) for inputs in self._inputs])
                return {}
            case "reference":
                self._reference = load_lists(request["file"])
                return {}
            case "run":
                return self._measure(int(request["count"]))
            case "memory":
                return {"bytes": max(0, _resident("VmHWM") - self._idle)}
            case other:
                raise UsageError(f"unknown request {other!r}")

    def _open(self, request: Mapping[str, Any]) -> dict[str, object]:
        self._inputs = load_sets(request["inputs"])
        self._idle = _resident("VmRSS")
        began = time.perf_counter()
        shapes = {name: array.shape for name, array in self._inputs[0].items()}
        opener = ENGINES[request["engine"]]
        self._run = opener(request["path"], request["precision"], int(request["threads"]), shapes)
        opened = time.perf_counter() - began
        self._outputs(self._inputs[0])
        Path("/proc/self/clear_refs").write_text("5")  # start the peak of resident memory anew: loading is over
        return {"seconds": opened, "first": time.perf_counter() - began}

    def _outputs(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Copies, since an engine may reuse the memory of its results."""
        if self._run is None:
            raise UsageError("no engine is open")
        return [np.array(output) for output in self._run(inputs)]

    def _measure(self, count: int) -> dict[str, object]:
        """Times of runs one after the other, and the error of the last one's answer: to compare answers takes longer
        than many a run, and leaves the CPU hot and its caches full of something else."""
        assert self._run is not None
        seconds: list[float] = []
        index = 0
        outputs: Iterable[Array] = ()
        for _ in range(count):
            index = self._next % len(self._inputs)
            self._next += 1
            began = time.perf_counter()
            outputs = self._run(self._inputs[index])
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds, "error": min(self._error(index, outputs), 1e30)}

    def _error(self, index: int, outputs: Iterable[Array]) -> float:
        if not self._reference:
            return 0.0
        pairs = zip(self._reference[index], outputs, strict=True)
        return max(compare(np.asarray(reference), np.asarray(found)).relative for reference, found in pairs)


def save_sets(path: str | Path, sets: Iterable[Mapping[str, Array]]) -> None:
    """Input sets as one `.npz`; position and name make the key, since a name may hold anything."""
    flat = {f"{index}": array for index, array in enumerate(array for given in sets for array in given.values())}
    names = [list(given) for given in sets]
    np.savez(path, allow_pickle=False, names=np.array(json.dumps(names)), **flat)


def load_sets(path: str | Path) -> list[dict[str, Array]]:
    """What `save_sets` saved."""
    with np.load(path) as archive:
        names = json.loads(str(archive["names"]))
        arrays = iter([archive[f"{index}"] for index in range(sum(map(len, names)))])
    return [{name: next(arrays) for name in group} for group in names]


def save_arrays(path: str | Path, lists: Iterable[Iterable[Array]]) -> None:
    """Lists of arrays, as sets named by position; `.npz` knows no bfloat16, and float32 holds it exactly."""
    plain = [[array if array.dtype.isbuiltin == 1 else array.astype(np.float32) for array in group] for group in lists]
    save_sets(path, [{str(index): array for index, array in enumerate(group)} for group in plain])


def load_lists(path: str | Path) -> list[list[Array]]:
    """What `save_arrays` saved."""
    return [list(given.values()) for given in load_sets(path)]


def _resident(field: str) -> int:
    """This process's resident memory in bytes (VmRSS), or its peak (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Answer requests until stdin ends; what libraries print goes to stderr."""
    die_with_parent()  # which may be killed while this process is stopped
    out = os.dup(1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        try:
            reply = worker.answer(json.loads(line))
        except LowprecError as problem:
            reply = {"failed": str(problem), "exit_code": problem.exit_code}
        except ImportError as problem:
            reply = {"failed": f"{problem.name} is not installed: pip install 'lowprec[bench]'", "exit_code": 7}
        os.write(out, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
