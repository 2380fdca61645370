"""Forced and chosen algorithms through the whole compiler: what the plan says is what runs, and it is right."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import lowprec
from lowprec.artifact import Artifact
from lowprec.manifest import from_text, to_text
from lowprec.recipe import Recipe, Rule
from tests.amounts import thinned

SHAPE = (2, 16, 14, 11)  # no tile divides it
X = np.random.default_rng(7).standard_normal(SHAPE, np.float32)


def constant(name: str, *shape: int, seed: int) -> onnx.TensorProto:
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return numpy_helper.from_array(values / np.float32(np.prod(shape[1:]) ** 0.5), name)


def network() -> bytes:
    """Convolutions that fit, one of them strided, and one that does not; a residual, two that are concatenated, and
    5 x 5 taps in groups."""
    same = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b"], ["first"], pads=same),
        helper.make_node("Relu", ["first"], ["r"]),
        helper.make_node("Conv", ["r", "w1", "b"], ["second"], pads=same),
        helper.make_node("Add", ["second", "r"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["block"]),
        helper.make_node("Conv", ["block", "w2"], ["left"], group=2, pads=[2, 2, 2, 2]),
        helper.make_node("Conv", ["block", "w3"], ["right"], pads=[0, 1, 0, 1]),
        helper.make_node("Concat", ["left", "right"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "w4"], ["down"], strides=[2, 2], pads=same),
        helper.make_node("Conv", ["down", "w5"], ["y"], dilations=[2, 2], pads=[2, 2, 2, 2]),
    ]
    weights = [
        constant("w0", 24, 16, 3, 3, seed=0),
        constant("w1", 24, 24, 3, 3, seed=1),
        constant("w2", 20, 12, 5, 5, seed=2),
        constant("w3", 9, 24, 1, 3, seed=3),
        constant("w4", 12, 29, 3, 3, seed=4),
        constant("w5", 8, 12, 3, 3, seed=6),
        constant("b", 24, seed=5),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    ends[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    graph = helper.make_graph(nodes, "algorithms", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()  # type: ignore[no-any-return]


MODEL = network()
FITTING = ("first", "second", "left", "right", "down")


@pytest.fixture(scope="module")
def reference() -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": X})
    return np.asarray(answer, np.float32)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return lowprec.compile(MODEL, algorithm="winograd:4", threads=2)


def families(artifact: Artifact) -> dict[str, str]:
    return {call.layer: call.family for call in artifact.manifest.calls if "conv" in call.op}


def test_a_forced_winograd_runs_where_it_fits(artifact: Artifact) -> None:
    assert families(artifact) == {**dict.fromkeys(FITTING, "winograd"), "y": "direct"}
    assert {layer: artifact.plan.choice(layer).algorithm for layer in (*FITTING, "y")} == {
        **dict.fromkeys(FITTING, "winograd:4"),
        "y": "direct",
    }


def test_the_plan_shows_it(artifact: Artifact) -> None:
    rows = {line.split()[0]: line for line in str(artifact.plan).splitlines()}
    assert "winograd:4" in rows["first"]
    assert "Winograd F(4x4, 3x3), predicted" in rows["first"]
    assert "Winograd F(1x4, 1x3), predicted" in rows["right"]
    assert "Winograd F(4x4, 2x2), predicted" in rows["down"]
    assert artifact.plan.choice("y").declined == ("winograd:4: dilation 2: Winograd needs taps side by side",)


def test_it_verifies(artifact: Artifact) -> None:
    report = lowprec.verify(artifact, MODEL)
    assert report.passed, str(report)
    assert {entry.name for entry in report.layers} >= {"first", "second", "down", "y"}
    assert report.first_bad is None


@pytest.mark.parametrize("algorithm", ["fft", "im2col"])
def test_a_forced_one_runs_where_it_fits_shows_and_verifies(algorithm: str) -> None:
    artifact = lowprec.compile(MODEL, algorithm=algorithm, threads=2)
    fitting = FITTING if algorithm == "fft" else (*FITTING, "y")
    found = families(artifact)
    assert {layer for layer, family in found.items() if family == algorithm} == set(fitting)
    assert {layer for layer in found if artifact.plan.choice(layer).algorithm == algorithm} == set(fitting)
    first, other = artifact.plan.choice("first"), artifact.plan.choice("y")
    rows = {line.split()[0]: line for line in str(artifact.plan).splitlines()}
    assert algorithm in rows["first"]
    if algorithm == "fft":
        assert f"FFT in tiles of {'x'.join(map(str, first.sizes))}, predicted" in rows["first"]
        assert other.declined == ("fft: dilation 2: FFT needs taps side by side",)
    else:
        assert "patches copied, a matrix product, predicted" in rows["first"]
        assert (first.sizes, other.declined) == ((), ())
    assert from_text(to_text(artifact.manifest)) == artifact.manifest
    report = lowprec.verify(artifact, MODEL)
    assert report.passed, str(report)
    assert report.first_bad is None


def single(channels: int, taps: int, *, groups: int = 1, size: int = 40, spoil: float | None = None) -> bytes:
    """One convolution of as many channels out as in, its size kept; `spoil` is one of the weights."""
    half = taps // 2
    weights = constant("w", channels, channels // groups, taps, taps, seed=0)
    if spoil is not None:
        values = numpy_helper.to_array(weights).copy()
        values[channels // 2, 0, half, half] = spoil
        weights = numpy_helper.from_array(values, "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[half] * 4, group=groups)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, size, size]) for name in "xy"]
    graph = helper.make_graph([node], "single", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("taps", "groups"), [(31, 64), (15, 1)], ids=["depthwise 31x31", "dense 15x15"])
def test_many_taps_take_fft_by_themselves(taps: int, groups: int) -> None:
    model = single(64, taps, groups=groups)
    artifact = lowprec.compile(model, threads=1)
    choice = artifact.plan.choice("y")
    assert choice.algorithm == "fft"
    assert len(choice.sizes) == 2
    assert "times as fast as direct" in choice.reason
    assert set(families(artifact).values()) == {"fft"}
    report = lowprec.verify(artifact, model)
    assert report.passed, str(report)


@pytest.mark.parametrize(("taps", "groups", "spoil"), [(31, 64, np.inf), (3, 1, np.nan)], ids=["fft", "winograd"])
def test_weights_that_are_not_finite_spoil_what_they_spoil_directly(taps: int, groups: int, spoil: float) -> None:
    finite, model = (single(64, taps, groups=groups, size=24, spoil=each) for each in (None, spoil))
    assert lowprec.compile(finite, threads=1).plan.choice("y").algorithm != "direct"
    chosen, direct = (lowprec.compile(model, algorithm=name, threads=1) for name in ("auto", "direct"))
    x = np.random.default_rng(1).standard_normal((1, 64, 24, 24), np.float32)
    found, expected = (np.asarray(artifact(x)) for artifact in (chosen, direct))
    assert not np.isfinite(expected).all()
    assert np.isfinite(expected[0, 0]).all()
    assert np.array_equal(found, expected, equal_nan=True)
    choice = chosen.plan.choice("y")
    assert choice.algorithm == "direct"
    (sentence,) = choice.declined
    assert "its weights are not all finite" in sentence
    assert sentence in str(chosen.plan)
    assert "times as fast as direct" not in choice.reason
    assert set(families(chosen).values()) == set(families(direct).values())


@pytest.mark.parametrize(
    "algorithm", thinned(["auto", "direct", "winograd", "winograd:2", "winograd:3", "winograd:6", "fft", "im2col"])
)
def test_every_algorithm_gives_the_models_answer(algorithm: str, reference: NDArray[np.float32]) -> None:
    """Nothing is larger than a few, and the least exact loses 1e-5 of that in each of five layers."""
    artifact = lowprec.compile(MODEL, algorithm=algorithm, threads=1)
    assert np.abs(np.asarray(artifact(X)) - reference).max() <= 1e-4 * np.abs(reference).max()
    wished = algorithm.partition(":")[0]
    if wished != "auto":
        assert {families(artifact)[layer] for layer in FITTING} == {wished}


def test_manifests_carry_the_plan(artifact: Artifact, tmp_path: Path) -> None:
    assert from_text(to_text(artifact.manifest)) == artifact.manifest
    artifact.save(tmp_path / "saved.lowprec")
    again = lowprec.load(tmp_path / "saved.lowprec")
    assert again.plan == artifact.plan
    choices = json.loads((tmp_path / "saved.lowprec" / "manifest.json").read_text())["plan"]["choices"]
    first = next(choice for choice in choices if choice["layer"] == "first")
    assert (first["algorithm"], first["error"]) == ("winograd:4", artifact.plan.choice("first").error)
    assert np.array_equal(np.asarray(again(X)), np.asarray(artifact(X)))


def test_the_same_bits_at_any_thread_count(artifact: Artifact, tmp_path: Path) -> None:
    artifact.save(tmp_path / "saved.lowprec")
    answers = (lowprec.load(tmp_path / "saved.lowprec", threads=threads)(X) for threads in (1, 2, 3))
    assert len({np.asarray(answer).tobytes() for answer in answers}) == 1


def test_a_rule_forces_one_layer() -> None:
    recipe = Recipe(rules=(Rule(layer="second", algorithm="winograd:2"),))
    found = families(lowprec.compile(MODEL, algorithm="direct", recipe=recipe, threads=1))
    assert found == {**dict.fromkeys((*FITTING, "y"), "direct"), "second": "winograd"}


@pytest.mark.parametrize("target", ["x86-64-v3", "native"])
def test_a_wide_layer_takes_winograd_by_itself(target: str) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 28, 28]) for name in "xy"]
    graph = helper.make_graph([node], "wide", ends[:1], ends[1:], [constant("w", 64, 64, 3, 3, seed=0)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    artifact = lowprec.compile(model.SerializeToString(), target=target, threads=1)
    assert artifact.plan.choice("y").algorithm.startswith("winograd:")
    assert set(families(artifact).values()) == {"winograd"}


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "winograd:2", "fft"])
@pytest.mark.parametrize("target", ["native", "x86-64"])
def test_a_constant_added_to_what_is_read_again(algorithm: str, target: str) -> None:
    """It is no bias: who else reads the products wants them without it."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["products"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["products", "c"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["gate"]),
        helper.make_node("Mul", ["products", "gate"], ["y"]),
    ]
    weights = [constant("w", 24, 16, 3, 3, seed=0), constant("c", 24, 1, 1, seed=1)]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "gated", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    (expected,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": X})
    found = lowprec.compile(model, algorithm=algorithm, target=target, threads=1)(X)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "q4.12"])
def test_a_constant_added_to_a_product_that_is_read_again(precision: str) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["products"]),
        helper.make_node("Add", ["products", "c"], ["sum"]),
        helper.make_node("HardSigmoid", ["sum"], ["gate"]),
        helper.make_node("Sum", ["products", "gate", "sum"], ["y"]),
    ]
    weights = [constant("w", 24, 16, seed=0), constant("c", 16, seed=1)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [40, size]) for name, size in (("x", 24), ("y", 16))]
    graph = helper.make_graph(nodes, "sums", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    x = np.random.default_rng(3).standard_normal((40, 24), np.float32)
    (expected,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    calibration = [x] if precision in ("int8", "q4.12") else None
    found = lowprec.compile(model, precision=precision, calibration=calibration, threads=1)(x)
    bound = {"fp32": 1e-5, "bf16": 2e-2, "int8": 4e-2, "q4.12": 1e-2}[precision]
    assert np.abs(found - expected).max() <= bound * np.abs(expected).max()
