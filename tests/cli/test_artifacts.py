"""The verbs that make and use an artifact, on one small model compiled once."""

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import psutil
import pytest
from numpy.typing import NDArray

from lowprec.cli import main
from lowprec.manifest import SCHEMA
from tests.cli.conftest import Lowprec, conv_relu_gemm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.onnx and its artifact, small.lowprec."""
    folder = tmp_path_factory.mktemp("artifact")
    onnx.save(conv_relu_gemm(), folder / "small.onnx")
    assert main(["compile", str(folder / "small.onnx"), "-o", str(folder / "small.lowprec"), "-q"]) == 0
    return folder


def evaluate(model: Path, x: NDArray[np.float32]) -> object:
    """What onnx's reference evaluator makes of x."""
    results = onnx.reference.ReferenceEvaluator(onnx.load(model)).run(None, {"x": x})
    assert isinstance(results, list)
    return results[0]


def test_compile(lowprec: Lowprec, folder: Path, tmp_path: Path) -> None:
    words = ("compile", folder / "small.onnx", "-o", tmp_path / "out", "--target", "x86-64-v3", "--threads", "1")
    result = lowprec(*words, "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["schema"] == "lowprec.compile/1"
    assert document["target"]["name"] == "x86-64-v3"
    assert "avx512f" not in document["target"]["features"]
    assert document["outputs"] == [{"name": "y", "dtype": "float32", "shape": [1, 5]}]
    assert result.err == "lowprec: compiling small.onnx for x86-64-v3\n"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["command"] == f"lowprec {' '.join(map(str, words))} --json"
    assert manifest["threads"] == 1


def test_run(lowprec: Lowprec, folder: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    result = lowprec(
        "run", folder / "small.lowprec", "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz"
    )
    assert result.code == 0, result.err
    assert "y: float32[1, 5]" in result.out
    with np.load(tmp_path / "out.npz") as outputs:
        y = outputs["y"]
    expected = np.asarray(evaluate(folder / "small.onnx", x))
    np.testing.assert_allclose(y, expected, atol=1e-4 * np.abs(expected).max())
    document = json.loads(lowprec("run", folder / "small.lowprec", "--json", "--threads", "1").out)
    assert document["schema"] == "lowprec.run/1"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.full((1, 3, 8, 8), np.nan, np.float32)}, "holds NaN or infinity: give finite values"),
        ({"x": np.zeros((1, 3, 8, 9), np.float32)}, "has shape [1, 3, 8, 9]: the model takes [1, 3, 8, 8]"),
        ({"x": np.zeros((1, 3, 8, 8))}, "nothing is cast silently"),
        ({"X": np.zeros((1, 3, 8, 8), np.float32)}, "no input 'X'"),
        ({}, "input 'x' is missing"),
    ],
)
def test_inputs_that_do_not_fit(
    lowprec: Lowprec, folder: Path, tmp_path: Path, arrays: dict[str, NDArray[np.generic]], said: str
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]
    result = lowprec("run", folder / "small.lowprec", "--inputs", tmp_path / "in.npz")
    assert (result.code, result.out) == (2, "")
    assert said in result.err


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 torn"])
def test_inputs_that_cannot_be_read(lowprec: Lowprec, folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.npz").write_bytes(content)
    result = lowprec("run", folder / "small.lowprec", "--inputs", tmp_path / "in.npz")
    assert (result.code, result.out) == (2, "")
    assert "cannot be read as .npz" in result.err


def test_verify(lowprec: Lowprec, folder: Path) -> None:
    words = ("verify", folder / "small.lowprec", "--model", folder / "small.onnx")
    result = lowprec(*words, "--json")
    document = json.loads(result.out)
    assert (result.code, document["passed"], document["schema"]) == (0, True, "lowprec.verify/1")
    assert [output["name"] for output in document["outputs"]] == ["y"]
    assert document["outputs"][0].keys() >= {"max_abs", "relative", "cosine", "sqnr_db"}
    assert document["layers"]
    failed = lowprec(*words, "--min-sqnr", "400")
    assert failed.code == 5
    assert failed.out


def test_bench(lowprec: Lowprec, folder: Path) -> None:
    words = ("--against", "onnxruntime", "--duration", "0.2", "--threads", "1", "--json")
    document = json.loads(lowprec("bench", folder / "small.lowprec", *words).out)
    assert document["schema"] == "lowprec.bench/1"
    assert [row["engine"] for row in document["rows"]] == ["lowprec", "onnxruntime"]
    assert document["rows"][0].keys() >= {"engine", "precision", "p50_ms", "p90_ms", "p99_ms", "spread", "ratio"}
    assert document["threads"] == 1


def test_bench_by_layer(lowprec: Lowprec, folder: Path) -> None:
    words = ("--layers", "--duration", "0.1", "--threads", "1")
    result = lowprec("bench", folder / "small.lowprec", *words, "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["schema"] == "lowprec.bench/1"
    assert document.keys() >= {"threads", "rows", "machine", "layers", "totals", "peaks", "warnings"}
    layers = document["layers"]
    calls = json.loads((folder / "small.lowprec" / "manifest.json").read_text())["calls"]
    assert [layer["layer"] for layer in layers] == [call["layer"] for call in calls]
    convolution = next(layer for layer in layers if layer["op"].startswith("conv2d"))
    assert (convolution["layer"], convolution["family"]) == ("conv", "direct")
    assert convolution["macs"] == 8 * 8 * 8 * 3 * 9
    assert all(layer["ms"] > 0 and layer["bound_ms"] > 0 for layer in layers)
    assert {layer["bound"] for layer in layers} <= {"compute", "memory"}
    assert sum(layer["share"] for layer in layers) == pytest.approx(1)
    assert document["totals"]["run_ms"] == document["rows"][0]["p50_ms"]
    assert document["peaks"]["threads"] == 1


def test_bench_by_layer_of_a_model_for_people(lowprec: Lowprec, folder: Path) -> None:
    words = ("--layers", "--against", "onnxruntime", "--duration", "0.1", "--threads", "2", "-q")
    result = lowprec("bench", folder / "small.onnx", *words)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[1].startswith("lowprec fp32")
    assert lines[2].startswith("onnxruntime fp32")
    assert any(line.startswith("measured on 2 threads: fp32 peak ") for line in lines)
    assert any(line.startswith("conv ") and " direct " in line for line in lines)
    assert lines[-1].startswith("a whole run takes ")


def test_an_artifact_without_kernels_has_no_layers_to_time(lowprec: Lowprec, tmp_path: Path) -> None:
    shapes = {"x": [3, 1], "y": [1, 3]}
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    node = onnx.helper.make_node("Flatten", ["x"], ["y"], axis=0)
    graph = onnx.helper.make_graph([node], "same", ends[:1], ends[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "same.onnx",
    )
    result = lowprec("bench", tmp_path / "same.onnx", "--layers", "-q")
    assert (result.code, result.out) == (2, "")
    assert "the artifact calls no kernels, so there is nothing to time by layer: leave --layers out" in result.err


def test_an_artifact_of_an_earlier_schema_is_refused(lowprec: Lowprec, folder: Path, tmp_path: Path) -> None:
    """Its calls do not say what they cost."""
    shutil.copytree(folder / "small.lowprec", tmp_path / "old.lowprec")
    path = tmp_path / "old.lowprec" / "manifest.json"
    body = json.loads(path.read_text())
    calls = [{key: call[key] for key in ("symbol", "layer", "op", "output")} for call in body["calls"]]
    path.write_text(json.dumps(body | {"schema": "lowprec.artifact/1", "calls": calls}))
    result = lowprec("bench", tmp_path / "old.lowprec", "--layers")
    assert (result.code, result.out) == (7, "")
    assert f"schema is 'lowprec.artifact/1', this lowprec reads '{SCHEMA}'; compile the model again" in result.err


def test_bench_compiles_a_model_first(lowprec: Lowprec, folder: Path) -> None:
    result = lowprec("bench", folder / "small.onnx", "--duration", "0.2", "-q")
    assert result.code == 0, result.err
    assert "lowprec fp32" in result.out
    assert result.err == ""


def test_engines_by_name(lowprec: Lowprec, folder: Path) -> None:
    result = lowprec("bench", folder / "small.lowprec", "--against", "onnxruntim")
    assert (result.code, result.out) == (2, "")
    assert "unknown engine 'onnxruntim' (did you mean 'onnxruntime'?)" in result.err


def test_a_damaged_artifact(lowprec: Lowprec, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    result = lowprec("run", tmp_path)
    assert (result.code, result.out) == (7, "")
    assert "manifest.json" in result.err


def test_report(lowprec: Lowprec, folder: Path, tmp_path: Path) -> None:
    result = lowprec("report", folder / "small.lowprec", "-o", tmp_path / "r.html", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out) == {"schema": "lowprec.report/1", "report": str(tmp_path / "r.html")}
    page = (tmp_path / "r.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "conv" in page


def test_a_place_that_holds_other_files_is_refused_at_once(lowprec: Lowprec, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    result = lowprec("compile", folder / "small.onnx", "-o", tmp_path, "-q")
    assert (result.code, result.out) == (2, "")
    assert "holds other files than an artifact's" in result.err
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_ctrl_c_ends_the_child_too(folder: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "lowprec", "compile", str(folder / "small.onnx"), "-o", str(tmp_path / "out")]
    # A shell that runs the tests in the background has them ignore Ctrl-C, and they pass that on.
    felt = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=felt) as process:
        assert process.stderr is not None
        assert b"compiling" in process.stderr.readline()
        deadline = time.monotonic() + 20
        while not (workers := psutil.Process(process.pid).children(recursive=True)) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"lowprec: interrupted\n")
    assert workers
    assert not any(worker.is_running() for worker in workers)
    assert not (tmp_path / "out").exists()
