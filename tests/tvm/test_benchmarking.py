"""Engines take turns in processes of their own; answers are checked, failures told, nothing is left behind."""

import json
import os
import signal
import statistics
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from lowprec import benchmarking, engine_process
from lowprec.benchmarking import BenchReport, Engine, bench, measure
from lowprec.engines import load_lists, load_sets, save_arrays, save_sets
from lowprec.errors import LowprecError, Unsupported, UsageError
from lowprec.samples import sample_inputs
from lowprec.tensors import TensorSpec
from tests import toys
from tests.tvm.test_verification import linear_model

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def linear(folder: Path) -> Path:
    return toys.linear(folder)


@pytest.fixture(scope="module")
def model(folder: Path, linear: Path) -> Path:
    """Like the artifact up to a ReLU: where an output is negative, the two differ."""
    return linear_model(folder / "linear.onnx", toys.linear_weights()[0])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "TURN_SECONDS", 0.01)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_side_by_side(linear: Path, model: Path) -> None:
    before = children()
    report = bench(linear, model=model, against=["onnxruntime", "openvino:bf16"], threads=1, duration=0.2)
    assert children() == before
    assert [(row.engine, row.precision) for row in report.rows] == [
        ("lowprec", "fp32"),
        ("onnxruntime", "fp32"),
        ("openvino", "bf16"),
    ]
    ours, runtime, other = report.rows
    assert ours.ratio == 1
    assert 0 < ours.p50_ms <= ours.p90_ms <= ours.p99_ms
    assert all(row.runs >= benchmarking.MIN_TURNS for row in report.rows)
    assert runtime.error == 0, "the reference equals itself"
    assert ours.error > 0.1, "the model has a ReLU that the artifact lacks"
    assert other.error < 0.1
    assert any("lowprec fp32 answers differently" in warning for warning in report.warnings)
    assert report.failures == {}
    assert report.threads == 1
    assert all(row.memory_bytes > 1 << 20 for row in report.rows)


def test_json_and_text(linear: Path) -> None:
    report = bench(linear, threads=1, duration=0.05)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(document) >= {"threads", "rows", "machine"}
    wanted = {"engine", "precision", "p50_ms", "p90_ms", "p99_ms", "spread", "ratio"}
    assert set(document["rows"][0]) >= wanted
    assert document["rows"][0]["error"] == 0, "without peers the artifact is held against its own first answers"
    assert "lowprec fp32" in str(report)


def test_a_peer_that_cannot_is_told_and_the_others_go_on(linear: Path, folder: Path) -> None:
    (folder / "bad.onnx").write_bytes(b"nonsense")
    report = bench(linear, model=folder / "bad.onnx", against=["onnxruntime"], threads=1, duration=0.05)
    assert [row.engine for row in report.rows] == ["lowprec"]
    assert list(report.failures) == ["onnxruntime fp32"]
    assert "\n" not in report.failures["onnxruntime fp32"]
    assert report.failures["onnxruntime fp32"] in str(report)


def test_the_first_engine_must_work(folder: Path) -> None:
    inputs = [{"x": np.ones((3, 5), np.float32)}]
    with pytest.raises(UsageError, match="nowhere does not exist"):
        measure([Engine(name="lowprec", path=str(folder / "nowhere"))], inputs=inputs, threads=1, duration=0.01)


def test_refusals(linear: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"the model .*toy.onnx is not there and peers need it"):
        bench(linear, against=["onnxruntime"])
    with pytest.raises(UsageError, match="unknown engine 'onnxruntme'"):
        bench(linear, model=linear / "manifest.json", against=["onnxruntme"])
    with pytest.raises(Unsupported, match="engine 'torch' is not built yet"):
        bench(linear, model=linear / "manifest.json", against=["torch"])
    with pytest.raises(UsageError, match="'openvino:int8' needs a quantized model, and the artifact is fp32: compile"):
        bench(linear, model=linear / "manifest.json", against=["openvino:int8"])
    with pytest.raises(UsageError, match="asks openvino for 'fp8'"):
        bench(linear, model=linear / "manifest.json", against=["openvino:fp8"])


def test_an_engine_that_dies_is_mourned(tmp_path: Path) -> None:
    with engine_process.child_process(tmp_path / "log") as child:
        child.process.send_signal(signal.SIGSEGV)
        with pytest.raises(LowprecError, match="died of SIGSEGV"):
            child.ask({"do": "memory"})


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (-11, "anything", "died of SIGSEGV"),
        (1, "", "exit status 1"),
        (1, "Traceback\n  File x\nValueError: one\n  two\nthree\n", "ValueError: one"),
        (1, "onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph: [ONNXRuntimeError] : 10\n", None),
        (3, "out of paper\n\n", "out of paper"),
    ],
)
def test_last_words(status: int, text: str, words: str | None) -> None:
    assert engine_process.last_words(status, text) == (words or text.strip())


def test_an_engine_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "ANSWER_SECONDS", 0.2)
    with engine_process.child_process(tmp_path / "log") as child:
        child.process.stdin, kept = open("/dev/null", "wb"), child.process.stdin  # noqa: SIM115 - the request never arrives
        with pytest.raises(LowprecError, match="died of SIGKILL"):
            child.ask({"do": "memory"})
        child.process.stdin.close()
        child.process.stdin = kept


def test_idle_engines_are_stopped(tmp_path: Path) -> None:
    with engine_process.child_process(tmp_path / "log") as child:
        child.ask({"do": "memory"})
        _, status = os.waitpid(child.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)


def test_ratios_come_from_neighbouring_turns() -> None:
    """A machine that slows down for everybody halfway changes no ratio."""
    base = [engine_process.Turn((1.0, 1.0), 0.0)] * 3 + [engine_process.Turn((3.0, 3.0), 0.0)] * 3
    other = [engine_process.Turn((2.0, 2.0), 0.0)] * 3 + [engine_process.Turn((6.0, 6.0), 0.0)] * 3
    pairs = zip(other, base, strict=True)
    assert statistics.median(statistics.median(t.seconds) / statistics.median(b.seconds) for t, b in pairs) == 2
    assert benchmarking.ratio_of(other, base) == 2


def test_arrays_travel_by_file(tmp_path: Path) -> None:
    sets = [
        {"a/b": np.arange(6).reshape(2, 3), "names": np.array(True)},
        {"a/b": np.zeros((0, 2)), "names": np.array(1.5)},
    ]
    save_sets(tmp_path / "sets.npz", sets)
    for found, wanted in zip(load_sets(tmp_path / "sets.npz"), sets, strict=True):
        assert list(found) == list(wanted)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    save_arrays(tmp_path / "lists.npz", [list(group.values()) for group in sets])
    assert [len(group) for group in load_lists(tmp_path / "lists.npz")] == [2, 2]


def test_sample_inputs_are_a_function_of_seed_and_index() -> None:
    kinds = ("float32", "bfloat16", "int64", "uint8", "bool", "float16")
    specs = [TensorSpec(name=dtype, dtype=dtype, shape=(50, 4)) for dtype in kinds]
    first, again, other = (sample_inputs(specs, 3, index) for index in (0, 0, 1))
    for spec in specs:
        assert first[spec.name].shape == spec.shape
        assert first[spec.name].dtype.name == spec.dtype
        assert np.array_equal(first[spec.name], again[spec.name])
        assert not np.array_equal(first[spec.name], other[spec.name])
    assert set(np.unique(first["int64"])) == {0, 1}
    assert abs(float(first["float32"].astype(np.float64).std()) - 1) < 0.2


def test_a_report_prints_failures() -> None:
    report = BenchReport(threads=1, rows=(), failures={"openvino fp32": "died of SIGSEGV"}, machine={}, warnings=())
    assert "openvino fp32: died of SIGSEGV" in str(report)
