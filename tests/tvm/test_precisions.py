"""Whole networks in fixed point and with binary layers, from `lowprec.compile` to what they answer."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from _pytest.mark import ParameterSet
from onnx import helper, numpy_helper

import lowprec
from lowprec.errors import Unsupported
from lowprec.frontend import load_graph
from lowprec.frontend.binarization import binarize
from lowprec.quantized_reference import evaluate
from tests.rounded import chain, random


def conv(source: str, result: str, *weights: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, *weights], [result], **attributes)


SAMPLES = np.random.default_rng(7).standard_normal((4, 3, 10, 10)).astype(np.float32)


def network() -> onnx.ModelProto:
    """Convolutions, a residual, a pool and a Gemm, with small weights."""
    nodes = [
        conv("x", "a", "wa", "ba", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["ra"]),
        conv("ra", "b", "wb", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "ra"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["rs"]),
        helper.make_node("MaxPool", ["rs"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("p", "c", "wc"),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "wg", "bg"], ["y"]),
    ]
    constants = {
        "wa": random(8, 3, 3, 3, seed=1) * 0.2,
        "ba": random(8, seed=2) * 0.1,
        "wb": random(8, 8, 3, 3, seed=3) * 0.1,
        "wc": random(12, 8, 3, 3, seed=4) * 0.1,
        "wg": random(108, 5, seed=5) * 0.1,
        "bg": random(5, seed=6) * 0.1,
    }
    return chain(nodes, constants, [1, 3, 10, 10], "y")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("precisions") / "network.onnx"
    onnx.save(network(), path)
    return path


def words() -> Iterator[ParameterSet]:
    """Words of both lengths, filled and not, literal and calibrated; a quick run takes half of them."""
    for position, precision in enumerate(("q2.14", "q4.12", "q3.7", "q2.6", "q1.1")):
        for calibrated in (False, True):
            marks = () if calibrated == bool(position % 2) else (pytest.mark.slow,)
            name = f"{precision}-{'calibrated' if calibrated else 'literal'}"
            yield pytest.param(precision, calibrated, id=name, marks=marks)


@pytest.mark.parametrize(("precision", "calibrated"), [*words()])
def test_fixed_point_equals_the_oracle(model: Path, precision: str, calibrated: bool) -> None:
    samples = list(SAMPLES) if calibrated else None
    art = lowprec.compile(model, precision=precision, calibration=samples, threads=2)
    formats = {str(choice.formats) for choice in art.plan.choices if choice.op in ("Conv", "Gemm")}
    assert formats == {"int8 x int8 in int32" if precision in ("q2.6", "q1.1") else "int16 x int16 in int64"}
    report = lowprec.verify(art, model)
    assert report.passed, str(report)
    assert all(agreement.exact == 1 for _, agreement in report.agreements)


@pytest.mark.parametrize("groups", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_16_bits_of_single_channels_equal_the_oracle(groups: int, tmp_path: Path) -> None:
    """What does not fill a word of two channels, beside what does: weights keep their 16 bits."""
    inner = helper.make_node("MatMul", ["p", "w"], ["y"])
    nodes = [conv("x", "c", "wc", group=groups), helper.make_node("Reshape", ["c", "rows"], ["p"]), inner]
    weights = {"wc": random(4 * groups, 1, 1, 1, seed=1) * 0.3, "w": random(1, 6, seed=2) * 0.3}
    made = chain(nodes, {**weights, "rows": np.array([-1, 1], np.int64)}, [1, groups, 4, 5], "y")
    onnx.save(made, tmp_path / "model.onnx")
    art = lowprec.compile(tmp_path / "model.onnx", precision="q2.14", threads=1)
    report = lowprec.verify(art, tmp_path / "model.onnx")
    assert report.passed, str(report)
    assert all(agreement.exact == 1 for _, agreement in report.agreements)


@pytest.mark.slow
def test_more_bits_are_nearer(model: Path) -> None:
    found = [
        lowprec.verify(lowprec.compile(model, precision=name, calibration=list(SAMPLES)), model).smallest_bound
        for name in ("q2.6", "q2.10", "q2.14")
    ]
    assert found == sorted(found)
    assert found[-1] > 45


def test_words_of_more_than_16_bits_are_refused(model: Path) -> None:
    with pytest.raises(Unsupported, match=r"precision 'q4\.16' is a word of 20 bits: layers are computed with 2 to 16"):
        lowprec.compile(model, precision="q4.16")


def test_saturating_weights_are_in_the_plan(model: Path) -> None:
    art = lowprec.compile(model, precision="q1.9")
    assert "of its weights saturate" not in str(art.plan)
    large = network()
    for tensor in large.graph.initializer:
        if tensor.name == "wb":
            tensor.CopyFrom(numpy_helper.from_array(random(8, 8, 3, 3, seed=3) * 2, "wb"))
    plan: Any = lowprec.compile(large, precision="q1.9").plan
    assert "of its weights saturate" in plan.choice("b").reason


def test_binary_layers_multiply_signs(model: Path) -> None:
    with pytest.warns(UserWarning, match="2 of 2 binary layers are not -a and"):
        art = lowprec.compile(model, precision="binary", threads=1)
    formats = {choice.layer: str(choice.formats) for choice in art.plan.choices if choice.op in ("Conv", "Gemm")}
    assert formats == {"a": "fp32", "b": "binary x binary in int32", "c": "binary x binary in int32", "y": "fp32"}
    families = [call.family for call in art.manifest.calls]
    assert families.count("popcount") + families.count("amx") == 2
    graph, reasons = binarize(load_graph(model))
    assert set(reasons) == {"a", "y"}
    expected = evaluate(graph, {"x": SAMPLES[:1]})["y"].astype(np.float64)
    np.testing.assert_allclose(art(SAMPLES[:1]), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_binary_model_brings_no_warning(model: Path, tmp_path: Path) -> None:
    weights = {t.name: numpy_helper.to_array(t) for t in network().graph.initializer}
    signs = {name: np.where(weights[name] >= 0, np.float32(0.25), np.float32(-0.25)) for name in ("wb", "wc")}
    trained = network()
    for tensor in trained.graph.initializer:
        if tensor.name in signs:
            tensor.CopyFrom(numpy_helper.from_array(signs[tensor.name], tensor.name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lowprec.compile(trained, precision="binary")


def test_a_recipe_keeps_a_layer_in_float(model: Path) -> None:
    recipe = lowprec.Recipe(rules=(lowprec.Rule(layer="b", weights="fp32"),))
    art = lowprec.compile(model, precision="int8", calibration=list(SAMPLES), recipe=recipe)
    assert str(art.plan.choice("b").formats) == "fp32"
    assert "int8: it is to stay in float" in art.plan.choice("b").declined
    assert lowprec.verify(art, model, min_sqnr=5).passed
