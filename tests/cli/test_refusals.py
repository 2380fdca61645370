"""Every error is one line on stderr, nothing on stdout, and the exit code the contract gives it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lowprec import cli, verbs
from lowprec.cli import NAMES, VERBS
from lowprec.errors import BuildFailed, LowprecError
from tests.cli.conftest import Lowprec


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "no verb was given"),
        (["compyle"], 2, "unknown verb 'compyle' (did you mean 'compile'?)"),
        (["tune", "m.onnx", "--tracker", "h:1"], 4, "--tracker is not built yet"),
        (["tune", "m.onnx", "--budget", "soon"], 2, "--budget is 'soon': give a time such as 90s, 10m or 2h"),
        (["export", "m.onnx"], 2, "arguments are required: -o/--output"),
        (["export", "none.onnx", "-o", "q.onnx", "--precision", "int8"], 2, "model 'none.onnx' does not exist"),
        (
            ["export", "m.onnx", "-o", "q.onnx", "--precision", "auto"],
            4,
            "export measures nothing, and precision 'auto'",
        ),
        (["db", "list"], 2, "arguments are required: DB"),
        (["db", "list", "t.db"], 2, "records 't.db' do not exist"),
        (["--json", "doctor"], 2, "option '--json' stands before the verb"),
        (["plan"], 2, "arguments are required: MODEL"),
        (["plan", "m.onnx", "--thread", "2"], 2, "unknown argument '--thread' (did you mean '--threads'?)"),
        (["plan", "m.onnx", "--threads", "0"], 2, "--threads is '0': give a whole number of 1 or more"),
        (["plan", "m.onnx", "--threads"], 2, "--threads: expected one argument"),
        (["plan", "none.onnx"], 2, "model 'none.onnx' does not exist"),
        (["plan", "/"], 2, "model '/' is not a file"),
        (["plan", "m.onnx", "--precision", "auto"], 4, "plan measures nothing, and precision 'auto'"),
        (["plan", "m.onnx", "--precision", "bf61"], 2, "unknown precision 'bf61' (did you mean 'bf16'?)"),
        (["plan", "m.onnx", "--precision", "int7"], 2, "unknown precision 'int7' (did you mean 'int8'?)"),
        (["plan", "m.onnx", "--algorithm", "strassen"], 4, "algorithm 'strassen' is not built yet"),
        (["plan", "m.onnx", "--target", "cuda:sm_90"], 4, "target 'cuda:sm_90' is not built yet"),
        (["plan", "m.onnx", "--target", "x86"], 2, "unknown target 'x86'"),
        (["plan", "m.onnx", "--rounding", "stochastic"], 2, "fp32 takes 'nearest'"),
        (["plan", "m.onnx", "--records", "t.db"], 2, "records 't.db' does not exist"),
        (
            ["plan", "m.onnx", "--calibration", "c.npz"],
            2,
            "calibration 'c.npz' does not exist: give the path of a file",
        ),
        (["plan", "m.onnx", "--calibration", __file__], 2, "calibration is for int8 and qI.F; fp32 has no ranges"),
        (["plan", "m.onnx", "--max-ms", "3"], 2, "max_ms is for precision 'auto', and the precision is fp32"),
        (["plan", "m.onnx", "--recipe", "none.toml"], 2, "recipe 'none.toml' does not exist"),
        (["plan", "m.onnx", "--input-shape", "x=1"], 2, "input shape 'x=1' names no input"),
        (["compile", "m.onnx"], 2, "arguments are required: -o/--output"),
        (["run", "none.lowprec"], 2, "none.lowprec does not exist"),
        (["bench", "none.lowprec"], 2, "model 'none.lowprec' does not exist"),
        (["bench", ".", "--duration", "0"], 2, "--duration is 0.0: give seconds above 0"),
    ],
)
def test_refusals(lowprec: Lowprec, words: list[str], code: int, said: str) -> None:
    result = lowprec(*words)
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert result.err.startswith("lowprec: ")
    assert result.err.count("\n") == 1


def test_help_lists_what_is_built_alone(lowprec: Lowprec) -> None:
    result = lowprec("--help")
    assert result.code == 0
    assert all(f"  {verb.name} " in result.out for verb in VERBS)
    assert not any(f"  {name} " in result.out for name in NAMES.planned)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_help_of_each_verb(verb: cli.Verb, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb.name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "--json" in said
    assert "--seed" in said
    assert not any(word in said for word in ("strassen", "cuda", "--tracker"))
    assert callable(getattr(verbs, verb.name))


def test_a_hostile_name_stays_one_printable_line() -> None:
    line = cli.one_line("node 'a\nb\x1b[2J\u202e' " + "x" * 5000)
    assert line.isprintable()
    assert line.startswith(r"node 'a b\x1b[2J\u202e' ")
    assert len(line) < 1000


def raising(error: BaseException) -> object:
    def verb(_arguments: object) -> None:
        raise error

    return verb


def test_our_own_bug_leaves_a_bundle(lowprec: Lowprec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(verbs, "doctor", raising(ZeroDivisionError("oh")))
    result = lowprec("doctor")
    assert (result.code, result.out) == (70, "")
    bundle = next(tmp_path.glob("lowprec-bug-*.txt"))
    assert f"internal error: ZeroDivisionError: oh; please report it with {bundle}" in result.err
    text = bundle.read_text()
    assert "lowprec doctor" in text
    assert "ZeroDivisionError: oh" in text
    assert "apache-tvm==0.27.0.post1" in text


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (BuildFailed("the linker is not there"), 6, "the linker is not there"),
        (MemoryError(), 7, "not enough memory"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "'/root/x' cannot be used (Permission denied)"),
        (OSError(28, "No space left on device"), 7, "No space left on device"),
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), 7, "onnxruntime is not installed"),
    ],
)
def test_exit_codes(
    lowprec: Lowprec, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    monkeypatch.setattr(verbs, "doctor", raising(error))
    result = lowprec("doctor")
    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_a_traceback_is_shown_only_when_asked_for(lowprec: Lowprec, monkeypatch: pytest.MonkeyPatch) -> None:
    error = LowprecError("broken")
    error.add_note("what the child printed")
    monkeypatch.setattr(verbs, "doctor", raising(error))
    assert "Traceback" not in lowprec("doctor").err
    said = lowprec("doctor", "-v").err
    assert "Traceback" in said
    assert "what the child printed" in said


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`lowprec inspect m.onnx | head`."""
    code = "import sys; from lowprec import cli; print('x' * 10**6); sys.exit(cli.main(['--help']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        os.read(child.stdout.fileno(), 10)
        child.stdout.close()
        child.wait(timeout=30)
        assert b"internal error" not in child.stderr.read()


def test_version(lowprec: Lowprec) -> None:
    assert lowprec("--version").out == "0.1.0\n"


def test_doctor(lowprec: Lowprec) -> None:
    result = lowprec("doctor", "--json")
    document = json.loads(result.out)
    assert document["schema"] == "lowprec.doctor/1"
    assert result.code == (0 if document["usable"] else 7)
    names = {check["name"] for check in document["checks"]}
    assert {"apache-tvm", "apache-tvm-ffi", "TVM with its FFI", "cores", "compiler", "GPU", "AMX permission"} <= names
