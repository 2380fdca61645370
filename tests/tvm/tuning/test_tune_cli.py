"""`lowprec tune` on the command line: words, signals, and what is left behind."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil
import pytest

from lowprec.cli import main
from lowprec.records import RIGHT
from tests.tvm.tuning.network import OFFERED, kept

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    def called(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return called


def test_the_command_line_tunes_and_keeps(call: Call, model: Path, records: Path) -> None:
    words = ("tune", model, "--records", records, "--threads", "1", "--trials", "2")
    code, out, err = call(*words, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["schema"] == "lowprec.tune/1"
    assert (document["done"], document["left"]) == (2, len(OFFERED) - 2)
    assert [t["status"] for t in document["trials"]] == [RIGHT, RIGHT]
    assert err.count("\n") == 2
    assert all(line.startswith("lowprec: ") for line in err.splitlines())
    code, out, err = call(*words[:-1], "0", "-q")
    assert (code, err) == (0, "")
    assert out.startswith(f"{records}: 0 trials in ")

    code, out, _ = call("db", "list", records, "--json")
    document = json.loads(out)
    assert (code, document["schema"]) == (0, "lowprec.db/1")
    assert [entry["shape"]["kernel"] for entry in document["trials"]] == [[3, 3], [3, 3]]
    assert {entry["threads"] for entry in document["trials"]} == {1}
    code, out, _ = call("db", "check", records)
    assert (code, out) == (0, f"{records}: whole\n")

    tried = {(entry["algorithm"], *entry["sizes"]) for entry in document["trials"]}
    code, out, _ = call("plan", model, "--records", records, "--threads", "1", "--json")
    planned = next(each for each in json.loads(out)["choices"] if each["layer"] == "first")
    assert (code, (planned["algorithm"], *planned["sizes"]) in tried) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tune"], "MODEL"),
        (["tune", "none.onnx"], "model 'none.onnx' does not exist"),
        (["tune", "MODEL", "--trials", "-1"], "--trials is '-1'"),
        (["tune", "MODEL", "--trials", "many"], "--trials is 'many'"),
        (["tune", "MODEL", "--budget", "0s"], "--budget is '0s'"),
        (["tune", "MODEL", "--budget", "soon"], "--budget is 'soon'"),
        (["tune", "MODEL", "--records", "/"], "'/'"),
        (["tune", "MODEL", "--records", "/none/such/x.db"], "'/none/such'"),
        (["tune", "MODEL", "--threads", "0"], "--threads is '0'"),
        (["compile", "MODEL", "-o", "/tmp/never", "--records", "none.db"], "records 'none.db' does not exist"),
        (["plan", "MODEL", "--records", "/"], "records '/' is not a file"),
        (["db"], "action"),
        (["db", "burn", "x.db"], "burn"),
        (["db", "list"], "DB"),
        (["db", "list", "none.db"], "'none.db' do not exist"),
        (["db", "check", "none.db"], "'none.db' do not exist"),
        (["db", "prune", "none.db"], "'none.db' do not exist"),
        (["db", "merge", "none.db"], "merge needs two files or more"),
        (["db", "list", "a.db", "b.db"], "list takes one file"),
    ],
    ids=" ".join,
)
def test_bad_words_are_one_line_and_exit_2(
    words: list[str], said: str, call: Call, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*(str(model) if word == "MODEL" else word for word in words))
    assert (code, out) == (2, ""), err
    assert said in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx"], "nothing is made on the way"


def test_an_option_that_tune_does_not_use_is_refused_or_does_something(call: Call, model: Path, records: Path) -> None:
    """As compile refuses it: of a wish that is ignored nobody learns."""
    words = ("tune", model, "--records", records, "--trials", "0")
    for option, value in (("--calibration", "x"), ("--max-ms", "3"), ("--tracker", "host:1")):
        code, out, err = call(*words, option, value)
        assert (code, out) == (4, ""), (option, err)


def test_help_tells_of_tuning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "  tune " in said
    assert "  db " in said
    for verb, words in (
        ("tune", ("--trials", "--budget", "--records")),
        ("db", ("list", "merge", "prune", "check")),
        ("compile", ("--records",)),
    ):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        said = capsys.readouterr().out
        assert all(word in said for word in words), verb


def interruptible(command: list[str], *, start_new_session: bool = False) -> "subprocess.Popen[bytes]":
    """A shell that runs the tests in the background has them ignore Ctrl-C, and they pass that on: not here."""
    felt = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=start_new_session, preexec_fn=felt)


def test_an_interrupt_keeps_what_was_done_and_leaves_no_child(model: Path, records: Path) -> None:
    """Ctrl-C reaches every process of the terminal's group."""
    command = [sys.executable, "-m", "lowprec", "tune", str(model), "--records", str(records), "--threads", "1"]
    with interruptible(command, start_new_session=True) as child:
        assert child.stderr is not None
        first = child.stderr.readline()
        assert b"1 of " in first, first + child.stderr.read()
        running = psutil.Process(child.pid).children(recursive=True)
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert out == b""
    lines = [line for line in err.decode().splitlines() if " of " not in line]
    assert lines == ["lowprec: interrupted"]
    assert not [process for process in running if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    found = kept(records)
    assert 1 <= len(found) < len(OFFERED)
    assert {t.status for t in found} == {RIGHT}, "the one that was interrupted is no failure"


def test_an_interrupt_of_the_parent_alone_does_the_same(model: Path, records: Path) -> None:
    command = [sys.executable, "-m", "lowprec", "tune", str(model), "--records", str(records), "--threads", "1"]
    with interruptible(command) as child:
        assert child.stderr is not None
        child.stderr.readline()
        running = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
    assert child.returncode == 130
    assert not [process for process in running if process.is_running()]
    assert kept(records)


def test_a_parent_that_is_killed_leaves_no_child(model: Path, records: Path) -> None:
    command = [sys.executable, "-m", "lowprec", "tune", str(model), "--records", str(records), "--threads", "1"]
    with interruptible(command) as child:
        assert child.stderr is not None
        child.stderr.readline()
        running = psutil.Process(child.pid).children(recursive=True)
        child.kill()
        child.communicate(timeout=30)
    assert running
    _, alive = psutil.wait_procs(running, timeout=20)
    for process in alive:
        process.kill()
    assert not alive
    with closing(sqlite3.connect(records)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
