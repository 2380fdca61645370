"""The child process: results and errors travel, crashes and endless waits become one line."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lowprec import isolation
from lowprec.errors import BuildFailed, InvalidModel, LowprecError, UsageError
from tests.corpus.case import network

ROOT = Path(__file__).parents[2]


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "WORKER", "tests.crashing_worker")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_model_is_inspected_in_a_child(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network().SerializeToString())
    result = isolation.run("inspect", {"model": str(path)}, model_bytes=path.stat().st_size)
    assert [layer["op"] for layer in result["layers"]] == ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"]
    assert capfd.readouterr() == ("", "")


def test_an_error_comes_back_as_itself_with_its_traceback_aside(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file") as caught:
        isolation.run("inspect", {"model": str(tmp_path / "none.onnx")}, model_bytes=0)
    assert "\n" not in str(caught.value)
    assert "Traceback" in caught.value.__notes__[0]


def test_a_bug_of_ours_is_told_from_a_bad_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network().SerializeToString())
    with pytest.raises(LowprecError, match="internal error in nonsense: KeyError") as caught:
        isolation.run("nonsense", {"model": str(path)}, model_bytes=0)
    assert caught.value.exit_code == 70


@pytest.mark.usefixtures("crashing")
@pytest.mark.parametrize(("stage", "kind"), [("front end", InvalidModel), ("build", BuildFailed)])
@pytest.mark.parametrize(("task", "how"), [("segfault", "SIGSEGV"), ("leave", "exit 3"), ("torn", "exit 0")])
def test_a_crash_is_one_line(
    stage: str, kind: type[LowprecError], task: str, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(kind, match=rf"net\.onnx.*\({how}\)") as caught:
        isolation.run(task, {"model": "/some/net.onnx", "stage": stage}, model_bytes=0)
    assert "\n" not in str(caught.value)
    assert "printed on stderr" in caught.value.__notes__[0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("crashing")
def test_a_front_end_that_only_waits_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "PATIENCE", 1.0)
    start = time.monotonic()
    with pytest.raises(InvalidModel, match=r"net\.onnx: refused at Conv node 'conv1'"):
        isolation.run("sleep", {"model": "net.onnx", "stage": "front end"}, model_bytes=0)
    assert time.monotonic() - start < 30


@pytest.mark.usefixtures("crashing")
def test_notices_arrive_and_one_thread_is_asked_for() -> None:
    heard: list[str] = []
    result = isolation.run("plain", {"stage": "build"}, model_bytes=0, notify=heard.append)
    assert heard == ["half way"]
    assert result["threads"] == "1"
    assert not Path(f"/proc/{result['pid']}").exists()


@pytest.mark.usefixtures("crashing")
def test_an_interrupt_ends_the_child() -> None:
    def interrupt(_text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        isolation.run("sleep", {"stage": "build"}, model_bytes=0, notify=interrupt)
    assert len(psutil.Process().children(recursive=True)) <= 1  # the nursery


def test_the_child_never_imports_tvm_before_the_model_is_accepted() -> None:
    script = "import sys, lowprec.worker; sys.exit(any(name.split('.')[0] in ('tvm', 'torch') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_runs_side_by_side_do_not_mix(tmp_path: Path) -> None:
    results: dict[int, str] = {}

    def run(index: int) -> None:
        path = tmp_path / f"{index}.onnx"
        model = network()
        model.graph.name = f"net{index}"
        path.write_bytes(model.SerializeToString())
        results[index] = isolation.run("inspect", {"model": str(path)}, model_bytes=0)["name"]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {index: f"net{index}" for index in range(3)}
    assert os.getpid() not in results
