"""Resize's tables of indices and weights against onnx's reference evaluator, one axis at a time."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from lowprec.frontend.converters.resampling import Axis, Method, tables

COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
TOLERANCE = float(64 * np.finfo(np.float32).eps)  # the reference keeps its scales in float32
SIZES = [(1, 3), (2, 5), (3, 3), (4, 2), (5, 9), (7, 4), (8, 1), (9, 13)]


def reference(data: NDArray[np.float64], output: int, method: Method) -> NDArray[np.float64]:
    attributes: dict[str, Any] = {
        "mode": method.mode,
        "coordinate_transformation_mode": method.coordinates,
        "nearest_mode": method.nearest,
        "cubic_coeff_a": method.cubic,
        "antialias": int(method.antialias),
        "exclude_outside": int(method.exclude_outside),
    }
    resize = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [len(data)])
    sizes = helper.make_tensor_value_info("sizes", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, [output])
    model = helper.make_model(helper.make_graph([resize], "resize", [x, sizes], [y]))
    (result,) = ReferenceEvaluator(model).run(None, {"x": data, "sizes": np.array([output])})
    return np.asarray(result, np.float64)


@pytest.mark.parametrize(("size", "output"), SIZES)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize(
    "rest",
    [
        *({"mode": "nearest", "nearest": n} for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
        {"mode": "linear"},
        {"mode": "cubic"},
        {"mode": "cubic", "cubic": -0.5, "exclude_outside": True},
        {"mode": "linear", "antialias": True},
        {"mode": "cubic", "antialias": True},
        {"mode": "linear", "antialias": True, "exclude_outside": True},
    ],
    ids=lambda rest: "-".join(map(str, rest.values())),
)
def test_tables_equal_the_reference(size: int, output: int, coordinates: str, rest: dict[str, Any]) -> None:
    if coordinates == "pytorch_half_pixel" and output == 1:
        pytest.skip("the reference contradicts the definition, which has coordinate 0 for a single output")
    method = Method(coordinates=coordinates, **rest)
    axis = Axis(size=size, output=output, scale=output / size)
    data = np.random.default_rng(size * 31 + output).standard_normal(size)
    indices, weights = tables(axis, method)
    assert indices.min() >= 0
    assert indices.max() < size
    found = (data[indices] * weights).sum(axis=1)
    np.testing.assert_allclose(found, reference(data, output, method), rtol=TOLERANCE, atol=TOLERANCE)
