"""A small model that is tuned, its one convolution, and what the records of it lead to."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lowprec.choosing import tunable
from lowprec.compilation import Options, run_on_model
from lowprec.plan import Choice, Plan
from lowprec.records import Records, Trial, environment_of, subject_of
from lowprec.targets import native
from tests.layers import conv

THREADS = 1
CONV = conv(size=(10, 10), in_channels=32, out_channels=32)
OFFERED = tunable(CONV, native())
SUBJECT = subject_of(CONV, environment_of(native(), THREADS))


def network() -> bytes:
    """One convolution, twice, and a product that is not tuned."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": (rng.standard_normal(CONV.weight_shape) / 17).astype(np.float32) for i in (0, 1)}
    weights["fc"] = rng.standard_normal((32, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["first"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["first", "w1"], ["second"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["second"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "fc"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 32, *CONV.size)), ("y", (1, 4)))
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "tuned", ends[:1], ends[1:], constants)
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return model


MODEL = network()


def kept(path: Path) -> list[Trial]:
    with Records(path, must_exist=True) as store:
        return store.trials()


def measured(records: Path, *, algorithm: str = "auto", model: bytes = MODEL) -> Plan:
    """The plan with those records."""
    path = records.with_suffix(".onnx")
    path.write_bytes(model)
    options = Options(records=records, threads=THREADS, algorithm=algorithm)
    return Plan.from_json(run_on_model("plan", path, options.to_json()))


def choice(records: Path, **options: Any) -> Choice:
    return measured(records, **options).choice("first")
