"""Verification finds what is wrong, names where it begins, and says what it could not look at."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tvm import relax

from lowprec import artifact as artifacts
from lowprec import isolation, references, verification
from lowprec.comparison import Errors, compare
from lowprec.errors import BuildFailed, UsageError
from lowprec.manifest import ProbeSpec
from lowprec.tensors import TensorSpec
from lowprec.verdict import Bound, Report, TensorErrors
from lowprec.verification import verify
from tests import toys
from tests.manifests import hand_made

Array = NDArray[np.generic]
Floats = NDArray[np.float32]


def linear_model(path: Path, weight: Array) -> Path:
    """y = relu(x @ w + b) as ONNX, layer by layer: h, s, y."""
    _, bias = toys.linear_weights()
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, 5])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, 4])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verification")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return linear_model(folder / "linear.onnx", toys.linear_weights()[0])


SHAPES = [("x", (3, 5), "float32"), ("w", (5, 4), "float32"), ("b", (4,), "float32")]


@pytest.fixture(scope="module")
def library(folder: Path) -> Path:
    toys.build_library(
        folder / "relu.so",
        SHAPES,
        lambda bb, p: relax.op.nn.relu(bb.emit(relax.op.add(bb.emit(relax.op.matmul(p[0], p[1])), p[2]))),
    )
    return folder / "relu.so"


@pytest.fixture(scope="module")
def probe_library(folder: Path) -> Path:
    """With h and s behind the output, s in a buffer that is turned and has a border."""

    def body(bb: relax.BlockBuilder, p: Any) -> relax.Expr:
        h = bb.emit(relax.op.matmul(p[0], p[1]))
        s = bb.emit(relax.op.add(h, p[2]))
        turned = bb.emit(
            relax.op.nn.pad(bb.emit(relax.op.permute_dims(s, [1, 0])), [1, 0, 0, 2], pad_value=float("nan"))
        )
        return relax.Tuple([bb.emit(relax.op.nn.relu(s)), h, turned])

    toys.build_library(folder / "probe.so", SHAPES, body)
    return folder / "probe.so"


PROBES = (
    ProbeSpec(tensor="h", layer="h", axes=(0, 1), crop=((0, 3), (0, 4))),
    ProbeSpec(tensor="s", layer="s", axes=(1, 0), crop=((1, 4), (0, 3))),
    ProbeSpec(tensor="folded away", layer="gone", axes=(0, 1), crop=((0, 3), (0, 4))),
)


@pytest.fixture
def probe_build(monkeypatch: pytest.MonkeyPatch, probe_library: Path) -> dict[str, list[Floats]]:
    """Stands in for the compiler: a probe build of whatever weights the test puts here."""
    content = {"weights": toys.linear_weights()}

    def build(task: str, request: Mapping[str, Any], *, model_bytes: int) -> dict[str, Any]:
        assert task == "compile"
        assert request["probe"] is True
        assert request["precision"] == "fp32"
        artifacts.write(request["out"], probe_library, content["weights"], hand_made(probes=PROBES[:2]))
        return {}

    monkeypatch.setattr(isolation, "run", build)
    return content


def artifact(folder: Path, library: Path, weights: list[Floats], **options: Any) -> Path:
    path = folder / "checked.lowprec"
    artifacts.write(path, library, weights, hand_made(**options))
    return path


def test_a_right_artifact_passes(
    folder: Path, library: Path, model: Path, probe_build: dict[str, list[Floats]]
) -> None:
    report = verify(artifact(folder, library, toys.linear_weights()), model)
    assert report.passed
    assert report.first_bad is None
    assert report.notes == ()
    assert [entry.name for entry in report.outputs] == ["y"]
    assert [entry.name for entry in report.layers] == ["h", "s"]
    assert all(entry.errors.relative < 1e-6 for entry in report.layers)
    assert report.second == references.EVALUATOR
    assert 0 <= report.smallest_bound < 1e-6


def test_a_wrong_one_fails_and_the_first_bad_layer_is_named(
    folder: Path, library: Path, model: Path, probe_build: dict[str, list[Floats]]
) -> None:
    weight, bias = toys.linear_weights()
    wrong = [weight, bias + np.float32(0.01)]
    probe_build["weights"] = wrong
    report = verify(artifact(folder, library, wrong), model)
    assert not report.passed
    assert report.first_bad == "s", "h does not depend on the bias"
    assert [entry.passed for entry in report.layers] == [True, False]
    assert report.smallest_bound > 1e-4
    again = Bound(measure="relative", limit=report.smallest_bound)
    assert all(again.holds(entry.errors) for entry in (*report.outputs, *report.second_outputs))


def test_a_bound_in_decibels(folder: Path, library: Path, model: Path, probe_build: dict[str, list[Floats]]) -> None:
    weight, bias = toys.linear_weights()
    wrong = [weight, bias + np.float32(0.01)]
    path = artifact(folder, library, wrong)
    assert verify(path, model, min_sqnr=30).passed
    failed = verify(path, model, min_sqnr=80)
    assert not failed.passed
    assert 30 < failed.smallest_bound < 80
    assert verify(path, model, min_sqnr=failed.smallest_bound).passed
    with pytest.raises(UsageError, match="min_sqnr is nan"):
        verify(path, model, min_sqnr=float("nan"))


def test_json_and_text(folder: Path, library: Path, model: Path, probe_build: dict[str, list[Floats]]) -> None:
    report = verify(artifact(folder, library, toys.linear_weights()), model)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["passed"] is True
    assert set(document["outputs"][0]) >= {"name", "max_abs", "relative", "cosine", "sqnr_db"}
    assert [layer["name"] for layer in document["layers"]] == ["h", "s"]
    assert str(report).startswith("passed: relative error <= 0.0001")
    assert "first layer that goes bad: none" in str(report)


def test_given_inputs(folder: Path, library: Path, model: Path, probe_build: dict[str, list[Floats]]) -> None:
    path = artifact(folder, library, toys.linear_weights())
    ones = np.ones((3, 5), np.float32)
    assert verify(path, model, inputs={"x": ones}).passed
    assert verify(path, model, inputs=[ones]).passed
    with pytest.raises(UsageError, match="the model has no input 'z'"):
        verify(path, model, inputs={"z": ones})


def test_what_cannot_be_compared_is_said(
    folder: Path, library: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> dict[str, Any]:
        raise BuildFailed("no compiler today")

    monkeypatch.setattr(isolation, "run", fail)
    monkeypatch.setattr(verification, "EVALUATOR_SECONDS", 0.01)
    report = verify(artifact(folder, library, toys.linear_weights()), model)
    assert report.passed
    assert report.layers == ()
    assert any("the probe build failed (no compiler today)" in note for note in report.notes)
    assert any("left out: it took longer than" in note for note in report.notes)


def test_another_model_is_noticed(folder: Path, library: Path, probe_build: dict[str, list[Floats]]) -> None:
    other = linear_model(folder / "other.onnx", np.ones((5, 4), np.float32))
    report = verify(artifact(folder, library, toys.linear_weights()), other)
    assert not report.passed


def test_inner_values_come_along_where_the_model_has_them(model: Path) -> None:
    x = {"x": np.ones((3, 5), np.float32)}
    first = references.answers(references.ONNXRUNTIME, model, x, inner=["h", "nowhere", "y"])
    second = references.answers(references.EVALUATOR, model, x)
    assert set(first) == {"y", "h"}
    assert set(second) == {"y"}
    assert compare(first["y"], second["y"]).relative < 1e-6


def test_a_reference_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    for reference in (references.ONNXRUNTIME, references.EVALUATOR):
        with pytest.raises(references.ReferenceFailed) as caught:
            references.answers(reference, tmp_path / "bad.onnx", {"x": np.ones(1, np.float32)})
        assert "\n" not in str(caught.value)


def test_references_that_disagree_leave_the_first_to_decide() -> None:
    entries = (entry("y", relative=0.5, passed=False),)
    notes: list[str] = []
    bound = Bound(measure="relative", limit=1e-4)
    values = {"y": np.ones(3)}
    assert verification._undisputed(entries, values, values, bound, notes) == list(entries)
    assert verification._undisputed(entries, {"y": np.zeros(3)}, values, bound, notes) == []
    assert "disagree on y" in notes[0]


def entry(name: str, *, relative: float, passed: bool) -> TensorErrors:
    errors = Errors(max_abs=relative, relative=relative, cosine=1.0, sqnr_db=40.0)
    return TensorErrors(name=name, tensor=name, errors=errors, passed=passed)


def test_a_report_is_a_value() -> None:
    bound = Bound(measure="sqnr_db", limit=45.0)
    made = [
        Report(passed=True, bound=bound, smallest_bound=50, reference="r", outputs=(), layers=(), first_bad=None)
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert str(bound) == "SQNR >= 45 dB"
    assert bound.smallest([entry("y", relative=0, passed=True).errors]) == 40


def test_the_whole_way(folder: Path, model: Path) -> None:
    """Compiled by the real pipeline, probed by it too."""
    import lowprec

    art = lowprec.compile(model, threads=1)
    report = verify(art, model)
    assert report.passed, str(report)
    assert report.layers, report.notes
    assert report.outputs[0].errors.relative < 1e-6
    assert TensorSpec(name="x", dtype="float32", shape=(3, 5)) in art.inputs
