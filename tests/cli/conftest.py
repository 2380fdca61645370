"""A small model on disk, and the command line called as a function."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lowprec.cli import main


@dataclass(frozen=True, slots=True)
class Result:
    """What a call of the command line left behind."""

    code: int
    out: str
    err: str


Lowprec = Callable[..., Result]


@pytest.fixture
def lowprec(capfd: pytest.CaptureFixture[str]) -> Lowprec:
    def call(*words: str | Path) -> Result:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return Result(code, *capfd.readouterr())

    return call


def conv_relu_gemm(batch: int | str = 1) -> onnx.ModelProto:
    """Conv 3x3, ReLU, pooling, Gemm on 8x8 images: one of each kind of layer."""
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[np.float32]] = {
        "w": (rng.standard_normal((8, 3, 3, 3)) / 5).astype(np.float32),
        "b": rng.standard_normal(8, np.float32),
        "fc": (rng.standard_normal((8, 5)) / 3).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(conv_relu_gemm(), path)
    return path
