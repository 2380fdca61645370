"""Verification of artifacts that compute with integers: each promised tensor equals the oracle, or it is told."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import lowprec
from lowprec import artifact as artifacts
from lowprec import storage, verification
from lowprec.artifact import Artifact
from lowprec.compilation import Options, export_to
from lowprec.exactness import Oracle, ask_oracle
from lowprec.references import ReferenceFailed
from lowprec.verdict import Report
from lowprec.verification import verify
from tests.cli.conftest import conv_relu_gemm


def classifier() -> onnx.ModelProto:
    """Conv, ReLU, pooling, then a Gemm, and beside it a softmax, which is not computed on integers."""
    model = conv_relu_gemm()
    model.graph.node.append(helper.make_node("Softmax", ["flat"], ["p"]))
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, [1, 8]))
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exact") / "classifier.onnx"
    onnx.save(classifier(), path)
    return path


@pytest.fixture(scope="module")
def art(model: Path) -> Artifact:
    samples = np.random.default_rng(1).standard_normal((8, 3, 8, 8)).astype(np.float32)
    return lowprec.compile(model, precision="int8", calibration=[samples], threads=1)


@pytest.fixture(scope="module")
def report(art: Artifact, model: Path) -> Report:
    return verify(art, model)


def test_an_int8_artifact_equals_the_oracle(report: Report) -> None:
    assert report.passed, str(report)
    assert str(report.bound) == "SQNR >= 15 dB"
    assert report.first_bad is None
    layers = {entry.name: entry for entry in report.layers}
    assert {name: entry.tensor for name, entry in layers.items()} == {
        "x": "x", "conv": "relu", "pool": "pool", "y": "y", "p": "p",
    }  # fmt: skip
    for name in ("x", "conv", "pool", "y"):
        agreement = layers[name].agreement
        assert agreement is not None
        assert (agreement.promised, agreement.exact, agreement.off) == (True, 1.0, 0.0)
        assert agreement.saturated is not None
        assert agreement.saturated < 0.1, "zeros of a ReLU are no saturation"
        assert 25 < layers[name].errors.sqnr_db < 60, "against the model's own float32 values"


def test_what_is_behind_a_softmax_is_not_promised(report: Report) -> None:
    (probability,) = (entry.agreement for entry in report.outputs if entry.name == "p")
    assert probability is not None
    assert (probability.promised, probability.near, probability.saturated) == (False, True, None)
    assert probability.off < 1e-6


def test_json_and_text(report: Report) -> None:
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["layers"][1].keys() >= {
        "name",
        "max_abs",
        "sqnr_db",
        "exact",
        "promised",
        "near",
        "off",
        "saturated",
    }
    assert document["outputs"][0]["exact"] == 1
    oracle = document["oracle"]
    assert (oracle["promised"], oracle["equal"], oracle["first_unequal"]) == (oracle["tensors"] - 2, 5, None)
    lines = str(report).splitlines()
    assert lines[1].startswith(
        "oracle: 5 of 5 promised tensors are equal, bit for bit; 2 behind sums of floats are not "
    )
    assert any(line.startswith("conv ") and "100%" in line for line in lines)


def test_an_artifact_that_differs_a_little_fails(art: Artifact, model: Path, tmp_path: Path) -> None:
    """Its manifest has other ranges than it was compiled with: good to 15 dB, and not what they mean."""
    ranges = art.manifest.options["ranges"]
    assert isinstance(ranges, dict)
    options = art.manifest.options | {"ranges": ranges | {"relu": [0.0, 1.02 * ranges["relu"][1]]}}
    weights = storage.load_weights(art.directory, art.manifest)
    manifest = dataclasses.replace(art.manifest, options=options)
    artifacts.write(tmp_path / "other", art.directory / "model.so", weights, manifest)
    failed = verify(tmp_path / "other", model)
    assert not failed.passed
    assert failed.outputs[0].errors.sqnr_db > 15
    assert "the first that differs is y of y" in str(failed)
    assert "not the oracle's" in str(failed)


def test_the_first_layer_that_differs(
    art: Artifact, model: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off_by_one(*words: Any) -> Oracle:
        oracle = ask_oracle(*words)
        values = dict(oracle.values)
        values["pool/codes"] = values["pool/codes"] ^ np.eye(1, 8, 3, np.uint8).reshape(1, 8, 1, 1)  # type: ignore[operator]
        return dataclasses.replace(oracle, values=values)

    monkeypatch.setattr(verification, "ask_oracle", off_by_one)
    failed = verify(art, model)
    assert (failed.passed, failed.first_bad) == (False, "pool")
    (pool,) = (agreement for layer, agreement in failed.agreements if layer == "pool")
    assert (pool.exact, pool.off) == (7 / 8, 1.0)
    assert failed.smallest_bound == report.smallest_bound


def test_without_the_oracle_nothing_is_proved(art: Artifact, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Oracle:
        raise ReferenceFailed("no time today")

    monkeypatch.setattr(verification, "ask_oracle", fail)
    report = verify(art, model)
    assert not report.passed
    assert "nothing is proved, because the oracle gave no answer: no time today" in report.notes


def test_a_model_that_carries_its_quantization_is_held_against_the_oracle(art: Artifact, model: Path) -> None:
    """Compiled as it is, in fp32, it has integer layers all the same."""
    path = model.with_name("quantized.onnx")
    export_to(path, model, Options(precision="int8", calibration=_samples(model)))
    report = verify(lowprec.compile(path, threads=1), path)
    assert report.passed, str(report)
    assert str(report.bound) == "SQNR >= 15 dB"
    assert sum(agreement.promised for _, agreement in report.agreements) == 5


def _samples(model: Path) -> Path:
    path = model.with_name("samples.npz")
    np.savez(path, x=np.random.default_rng(1).standard_normal((8, 3, 8, 8)).astype(np.float32))
    return path
