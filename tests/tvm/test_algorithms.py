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

SHAPE = (2, 16, 14, 11)  # no tile divides it
X = np.random.default_rng(7).standard_normal(SHAPE, np.float32)


def constant(name: str, *shape: int, seed: int) -> onnx.TensorProto:
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return numpy_helper.from_array(values / np.float32(np.prod(shape[1:]) ** 0.5), name)


def network() -> bytes:
    """Convolutions that fit and one that does not; a residual, two that are concatenated, and 5 x 5 taps in groups."""
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
        helper.make_node("Conv", ["both", "w4"], ["y"], strides=[2, 2], pads=same),
    ]
    weights = [
        constant("w0", 24, 16, 3, 3, seed=0),
        constant("w1", 24, 24, 3, 3, seed=1),
        constant("w2", 20, 12, 5, 5, seed=2),
        constant("w3", 9, 24, 1, 3, seed=3),
        constant("w4", 8, 29, 3, 3, seed=4),
        constant("b", 24, seed=5),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    ends[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    graph = helper.make_graph(nodes, "algorithms", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()  # type: ignore[no-any-return]


MODEL = network()
FITTING = ("first", "second", "left", "right")


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
    assert artifact.plan.choice("y").declined == ("winograd:4: stride 2: Winograd needs stride 1",)


def test_it_verifies(artifact: Artifact) -> None:
    report = lowprec.verify(artifact, MODEL)
    assert report.passed, str(report)
    assert {entry.name for entry in report.layers} >= {"first", "second", "y"}
    assert report.first_bad is None


@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd", "winograd:2", "winograd:3", "winograd:6"])
def test_every_algorithm_gives_the_models_answer(algorithm: str, reference: NDArray[np.float32]) -> None:
    """Nothing is larger than a few, and the least exact loses 1e-5 of that in each of four layers."""
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
