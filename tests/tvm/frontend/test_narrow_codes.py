"""Types of 2, 4 and 8 bits: every code and every step, beside ml_dtypes, through compiled code."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper

from lowprec.artifact import Artifact, load
from lowprec.compilation import Options
from lowprec.errors import Unsupported
from lowprec.frontend import load_graph
from lowprec.frontend.converters.narrow_codes import nan_code, numbers, steps
from lowprec.frontend.tensors import element_type
from lowprec.manifest import NARROW_BITS
from lowprec.pipeline import compile_task

OPSET, IR = 25, 13
INTEGERS = [name for name in NARROW_BITS if "int" in name]
FLOATS = [name for name in NARROW_BITS if "float" in name]
F32 = np.float32


def model(*nodes: Any, dtype: str, count: int, takes: str, gives: str) -> ModelProto:
    """Nodes from `x` to `y`, with a scale `s` of 1 and a zero point `z` of 0."""
    kinds = {"float32": 1, dtype: element_type(dtype)}
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", kinds[takes], [count])],
        [helper.make_tensor_value_info("y", kinds[gives], [count])],
        [helper.make_tensor("s", 1, [], [1.0]), helper.make_tensor("z", kinds[dtype], [], [0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def compiled(made: ModelProto, folder: Path) -> Artifact:
    path, directory = folder / "model.onnx", folder / "artifact"
    path.write_bytes(made.SerializeToString())
    request = Options(threads=1).to_json() | {"model": str(path), "out": str(directory), "command": ""}
    compile_task(request, load_graph(path))
    return load(directory)


def quantizer(dtype: str, count: int, **attributes: Any) -> ModelProto:
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **attributes)
    return model(node, dtype=dtype, count=count, takes="float32", gives=dtype)


def around(dtype: str) -> NDArray[np.float32]:
    """Every number of a type, the middles between them, both with their neighbours, and what lies beyond."""
    finite = np.unique(numbers(dtype)[np.isfinite(numbers(dtype))]).astype(np.float64)
    points = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2]).astype(F32)
    near = [points, np.nextafter(points, F32(np.inf)), np.nextafter(points, F32(-np.inf))]
    return np.concatenate([*near, np.array([-0.0, 1e30, -1e30, np.inf, -np.inf], F32)]).astype(F32)


@pytest.mark.parametrize("dtype", NARROW_BITS)
def test_every_code_stands_for_its_number(dtype: str, tmp_path: Path) -> None:
    codes = np.arange(2 ** NARROW_BITS[dtype], dtype=np.uint8).view(dtype)
    node = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"])
    art = compiled(model(node, dtype=dtype, count=codes.size, takes=dtype, gives="float32"), tmp_path)
    np.testing.assert_array_equal(art(codes), codes.astype(F32))


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_go_to_the_nearest_code(dtype: str, tmp_path: Path) -> None:
    x = np.append(around(dtype), F32(np.nan) if nan_code(dtype) else F32(0))
    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    expected = np.clip(x, -largest, largest).astype(dtype)
    found = compiled(quantizer(dtype, x.size), tmp_path)(x)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found[:-1].view(np.uint8), expected[:-1].view(np.uint8))
    assert np.isnan(found[-1].astype(F32)) == bool(nan_code(dtype))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_held_within_their_range(dtype: str, tmp_path: Path) -> None:
    x = around(dtype)
    limits = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    expected = np.clip(np.rint(x), int(limits.min), int(limits.max)).astype(np.int8)
    found = compiled(quantizer(dtype, x.size), tmp_path)(x)
    assert found.dtype.name == dtype
    np.testing.assert_array_equal(found.astype(np.int8), expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_steps_rise(dtype: str) -> None:
    assert (np.diff(steps(dtype)) > 0).all()


def test_what_does_not_saturate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"it has saturate=0; only numbers that saturate are supported"):
        compiled(quantizer("float8_e5m2", 3, saturate=0), tmp_path)


def test_other_operators_on_codes_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    with pytest.raises(Unsupported, match=r"tensor 'x' is int4, not supported yet"):
        compiled(model(node, dtype="int4", count=3, takes="int4", gives="int4"), tmp_path)
