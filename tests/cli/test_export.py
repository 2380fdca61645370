"""`lowprec export`: the quantized model as a file that ONNX Runtime runs to the artifact's own integers."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

import lowprec as package
from lowprec.cli import main
from tests.cli.conftest import Lowprec, conv_relu_gemm
from tests.quantized import run_onnxruntime

SCHEMA = "lowprec.export/1"
SAMPLES = np.random.default_rng(3).standard_normal((6, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small.onnx, samples.npz and, made of both, quantized.onnx and small.lowprec."""
    folder = tmp_path_factory.mktemp("export")
    onnx.save(conv_relu_gemm(), folder / "small.onnx")
    np.savez(folder / "samples.npz", x=SAMPLES)
    words = [str(folder / "small.onnx"), "--precision", "int8", "--calibration", str(folder / "samples.npz"), "-q"]
    assert main(["export", *words, "-o", str(folder / "quantized.onnx")]) == 0
    assert main(["compile", *words, "-o", str(folder / "small.lowprec")]) == 0
    return folder


def inputs(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((1, 3, 8, 8)).astype(np.float32)


def test_onnxruntime_gives_the_artifacts_integers(folder: Path) -> None:
    artifact, model = package.load(folder / "small.lowprec"), onnx.load(folder / "quantized.onnx")
    for seed in range(20):
        (theirs,) = run_onnxruntime(model, {"x": inputs(seed)})
        assert np.array_equal(artifact(inputs(seed)), theirs)


def test_what_is_exported_compiles_to_the_same(folder: Path) -> None:
    again, artifact = package.compile(folder / "quantized.onnx"), package.load(folder / "small.lowprec")
    assert np.array_equal(again(inputs(5)), artifact(inputs(5)))
    assert str(again.plan.choice("conv").formats) == "int8 x uint8 in int32"


def test_the_document(lowprec: Lowprec, folder: Path, tmp_path: Path) -> None:
    """A Gemm with a factor stays in float, and is told with its reason; a file that is there is replaced."""
    model = conv_relu_gemm()
    model.graph.node[-1].attribute.append(helper.make_attribute("alpha", 0.5))
    onnx.save(model, tmp_path / "model.onnx")
    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")
    words = ("export", tmp_path / "model.onnx", "-o", out, "--precision", "int8", "-q")
    document = json.loads(lowprec(*words, "--json").out)
    made = onnx.load(out)
    assert document["schema"] == SCHEMA
    assert (document["path"], document["bytes"]) == (str(out), out.stat().st_size)
    assert document["nodes"] == len(made.graph.node)
    assert document["integers"] == ["conv"]
    assert document["floats"] == [{"layer": "y", "reason": "alpha is 0.5, and sums of integers have no factor"}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "out.onnx"]
    text = lowprec(*words).out
    assert "1 of 2 layers in int8, 1 of 2 layers in fp32" in text
    assert "y stays in float: alpha is 0.5" in text


def test_without_samples_it_warns(lowprec: Lowprec, folder: Path, tmp_path: Path) -> None:
    result = lowprec("export", folder / "small.onnx", "-o", tmp_path / "q.onnx", "--precision", "int8")
    assert result.code == 0
    assert result.err.count("int8 without calibration: the ranges of tensors are seen on 32 samples") == 1


@pytest.mark.parametrize(
    ("out", "precision", "code", "said"),
    [
        ("q.onnx", "fp32", 2, "fp32 leaves the model as it is, so there is nothing to export: use another precision"),
        ("q.onnx", "auto", 4, "export measures nothing, and precision 'auto' is found by measuring"),
        ("", "int8", 2, "is not a file: give the path of a file to write"),
        ("none/q.onnx", "int8", 2, "there is no folder"),
        ("m.onnx", "int8", 2, "is the model itself: give another place"),
    ],
)
def test_refusals(
    lowprec: Lowprec, folder: Path, tmp_path: Path, out: str, precision: str, code: int, said: str
) -> None:
    shutil.copy(folder / "small.onnx", tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    result = lowprec("export", tmp_path / "m.onnx", "-o", tmp_path / out, "--precision", precision)
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert result.err.count("\n") == 1
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_model_that_cannot_be_read_leaves_the_old_file(lowprec: Lowprec, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"this is no model")
    (tmp_path / "q.onnx").write_bytes(b"old")
    result = lowprec("export", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx", "--precision", "int8", "-q")
    assert (result.code, result.out) == (3, "")
    assert (tmp_path / "q.onnx").read_bytes() == b"old"
