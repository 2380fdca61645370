"""The nursery: its children are as if started here and now, and none outlives who wanted it."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from lowprec import isolation, nursery
from lowprec.errors import LowprecError

ROOT = Path(__file__).parents[2]
WORKER = "tests.crashing_worker"


@pytest.fixture(autouse=True)
def nursed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(isolation, "WORKER", WORKER)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield
    nursery.close()


def asked(task: str = "plain") -> dict[str, Any]:
    return isolation.run(task, {"stage": "build"}, model_bytes=0)


def ended(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)
                continue
        return True
    return False


def test_the_second_task_of_a_kind_finds_it_imported() -> None:
    answers = [asked("plain"), asked("other"), asked("plain"), asked("plain")]
    assert [answer["prepared"] for answer in answers] == [[], [], ["plain"], ["plain", "plain"]]
    assert len({answer["nursery"] for answer in answers}) == 1
    assert len({answer["pid"] for answer in answers}) == 4


def test_a_child_holds_what_is_its_own_alone() -> None:
    first = asked()["open"]

    def sleep() -> None:
        with suppress(LowprecError):
            asked("sleep")

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    while len(psutil.Process().children(recursive=True)) < 2:
        time.sleep(0.01)
    assert len(asked()["open"]) == len(first)
    for child in psutil.Process().children(recursive=True):
        if child.status() == psutil.STATUS_SLEEPING and child.ppid() != os.getpid():
            child.kill()
    sleeper.join()


def test_a_child_has_our_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = asked()
    monkeypatch.chdir(tmp_path)
    after = asked()
    assert (before["folder"], after["folder"]) == (str(ROOT), str(tmp_path))
    assert before["nursery"] == after["nursery"]


def test_a_child_has_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = asked()
    monkeypatch.setenv("WORD", "new \udcff")
    after = asked()
    assert (before["word"], after["word"]) == (None, "new \udcff")
    assert before["nursery"] == after["nursery"]
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    assert asked()["nursery"] != after["nursery"]


def test_a_child_has_our_limits_and_mask() -> None:
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    mask = os.umask(0o27)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, limits[1]))
        answer = asked()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limits)
        os.umask(mask)
    assert (answer["mask"], answer["limits"]) == (0o27, [0, limits[1]])
    assert asked()["mask"] == mask


def test_what_a_child_started_ends_with_it() -> None:
    heard: list[str] = []
    with pytest.raises(LowprecError, match="SIGKILL"):
        isolation.run("orphan", {"stage": "build"}, model_bytes=0, notify=heard.append)
    assert ended(int(heard[1]))


def test_a_nursery_that_was_killed_is_replaced() -> None:
    first = asked()["nursery"]
    os.kill(first, signal.SIGKILL)
    assert asked()["nursery"] != first


def test_a_nursery_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDLE", "0.2")
    first = asked()["nursery"]
    assert ended(first)
    assert asked()["nursery"] != first


def test_a_child_dies_with_its_nursery() -> None:
    pids: list[int] = []

    def kill(_text: str) -> None:
        (parent,) = psutil.Process().children()
        pids.extend(child.pid for child in parent.children())
        parent.kill()

    with pytest.raises(LowprecError, match="SIGKILL"):
        isolation.run("sleep", {"stage": "build"}, model_bytes=0, notify=kill)
    assert len(pids) == 1
    assert ended(pids[0])


def test_nothing_outlives_a_caller_that_is_killed() -> None:
    script = (
        "import os\n"
        "from lowprec import isolation\n"
        f"isolation.WORKER = {WORKER!r}\n"
        "isolation.run('sleep', {'stage': 'build'}, model_bytes=0, notify=lambda text: print(text, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"half way\n"
        family = [child.pid for child in psutil.Process(caller.pid).children(recursive=True)]
        caller.kill()
    assert len(family) == 2
    assert all(ended(pid) for pid in family)


def test_a_fork_of_the_caller_has_a_nursery_of_its_own() -> None:
    ours = asked()["nursery"]
    pid = os.fork()
    if pid == 0:
        try:
            other = asked()["nursery"]
            nursery.close()
            os._exit(0 if other != ours else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert asked()["nursery"] == ours


def test_one_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "WORKER", "tests.no_such_worker")
    with pytest.raises(LowprecError, match=r"plain: the worker process did not start \(exit 1\)") as caught:
        asked()
    assert "No module named" in caught.value.__notes__[0]
