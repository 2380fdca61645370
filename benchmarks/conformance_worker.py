"""The child of conformance.py: one engine, one case a line in, one JSON answer a line out.

A case that kills this process kills nothing else: the parent notes the crash and starts another child. Whatever
an engine prints goes to the standard error stream, so that the answers stay readable.
"""

import argparse
import functools
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_node_model_tests
from onnx.backend.test.runner import Runner

from lowprec.errors import Unsupported

CACHE = Path(__file__).resolve().parents[1] / "build" / "conformance"
Values = Sequence[Any]
PASSED, UNSUPPORTED, WRONG, CRASHED = "passed", "unsupported", "wrong", "crashed"


@functools.cache
def load_cases(seed: int) -> dict[str, TestCase]:
    """onnx's node tests by name. They are made by code that draws from NumPy's global generator, hence the seed."""
    np.random.seed(seed)  # noqa: NPY002 - the cases are onnx's, and so is the generator they draw from
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_node_model_tests()}


def as_array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list):
        return [as_array(item) for item in value]
    return value if value is None else np.asarray(value)


def model_of(case: TestCase) -> onnx.ModelProto:
    assert case.model is not None, case.name
    return case.model


class Refused(Exception):
    """A peer refused the model before running it: an honest answer."""


def run_onnxruntime(case: TestCase, inputs: Values, threads: int) -> Values:
    os.environ["ALLOW_RELEASED_ONNX_OPSET_ONLY"] = "0"  # some cases carry onnx's newest opset
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model_of(case).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # every refusal has a class of its own
        raise Refused(str(error)) from error
    names = [item.name for item in session.get_inputs()]
    return list(session.run(None, dict(zip(names, inputs, strict=False))))


def run_tvm(case: TestCase, inputs: Values, threads: int) -> Values:
    """What TVM's own importer and default pipeline make of it."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    try:
        module = from_onnx(model_of(case), dtype_dict=None)
    except Exception as error:
        raise Refused(str(error)) from error
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(np.require(value, requirements="C")) for value in inputs])
    return [result.numpy()] if hasattr(result, "numpy") else [item.numpy() for item in result]


def run_lowprec(case: TestCase, inputs: Values, threads: int) -> Values:
    """The product's own path, with the compiler in this process: a child per case would take an hour."""
    from lowprec.artifact import load
    from lowprec.compilation import Options
    from lowprec.pipeline import compile_task

    with tempfile.TemporaryDirectory() as folder:
        model, directory = Path(folder) / "model.onnx", str(Path(folder) / "model.lowprec")
        model.write_bytes(model_of(case).SerializeToString())
        request = Options(threads=threads).to_json() | {"model": str(model), "out": directory, "command": case.name}
        compile_task(request, our_graph(model))
        artifact = load(directory, threads=threads)
    result = artifact(dict(zip((spec.name for spec in artifact.inputs), inputs, strict=True)))
    return list(result.values())


def our_graph(model: Path) -> Any:
    """The checked graph; what the front end refuses is an honest answer."""
    from lowprec.frontend import load_graph

    return load_graph(model)


def run_relax(case: TestCase, inputs: Values, threads: int) -> Values:
    """Our conversion through TVM's default pipeline: tells a converter's mistake from a kernel's."""
    import tvm
    from tvm import relax

    from lowprec.frontend.convert import to_relax

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model_of(case).SerializeToString())
        module = to_relax(our_graph(path))
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(np.require(value, requirements="C")) for value in inputs])
    return [result.numpy()] if hasattr(result, "numpy") else [item.numpy() for item in result]


ENGINES: dict[str, Callable[[TestCase, Values, int], Values]] = {
    "lowprec": run_lowprec,
    "onnxruntime": run_onnxruntime,
    "relax": run_relax,
    "tvm": run_tvm,
}


def one_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]


def judge(case: TestCase, engine: Callable[[TestCase, Values, int], Values], threads: int) -> tuple[str, str]:
    """The verdict and one line about it."""
    for inputs, outputs in case.data_sets or ():
        try:
            found = engine(case, [as_array(value) for value in inputs], threads)
        except (Refused, Unsupported) as error:
            return UNSUPPORTED, one_line(error)
        except Exception as error:  # a crash is a verdict here
            traceback.print_exc()
            return CRASHED, one_line(error)
        try:
            Runner.assert_similar_outputs([as_array(value) for value in outputs], found, case.rtol, case.atol)
        except (AssertionError, TypeError, ValueError, IndexError) as error:
            return WRONG, " ".join(str(error).split())[:300]
    return PASSED, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM's FFI imports it when it can: a second each time
    cases = load_cases(options.seed)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        verdict, note = judge(cases[line.strip()], ENGINES[options.engine], options.threads)
        print(json.dumps({"verdict": verdict, "note": note}), file=answers, flush=True)


if __name__ == "__main__":
    main()
