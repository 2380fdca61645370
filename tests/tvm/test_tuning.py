"""Tuning a small model: trials in a child, kept as they are done, whatever becomes of one; and what compile makes of
them."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

import lowprec
from lowprec import trials, tuning
from lowprec.choosing import candidate_of, candidates, tunable
from lowprec.cli import main
from lowprec.compilation import Options, run_on_model
from lowprec.convolution import Conv
from lowprec.errors import UsageError
from lowprec.plan import Choice, Plan, Times, make_plan
from lowprec.recipe import Recipe
from lowprec.records import FAILED, LATE, RIGHT, WRONG, Records, Trial, environment_of, subject_of
from lowprec.schedules.convolution import pack_convolution
from lowprec.targets import native
from tests.layers import conv, layer
from tests.tvm.kernels import Array

Call = Callable[..., tuple[int, str, str]]
THREADS = 1
CONV = conv(size=(10, 10), in_channels=32, out_channels=32)
OFFERED = tunable(candidates(CONV, native()), CONV, native())
SUBJECT = subject_of(CONV, environment_of(native(), THREADS))


def network() -> bytes:
    """One convolution, twice, and a product that is not tuned."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": (rng.standard_normal(CONV.weight_shape) / 17).astype(np.float32) for i in (0, 1)}
    weights["fc"] = rng.standard_normal((32, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["first"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["first", "w1"], ["second"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["second"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "fc"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 32, *CONV.size)), ("y", (1, 4)))
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "tuned", ends[:1], ends[1:], constants)
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return model


MODEL = network()


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "times.db"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(MODEL)
    return path


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    def called(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return called


def kept(path: Path) -> list[Trial]:
    with Records(path, must_exist=True) as store:
        return store.trials()


def tune(records: Path, **options: Any) -> tuning.Tuned:
    return lowprec.tune(MODEL, records=records, threads=THREADS, **options)


def measured(records: Path, *, algorithm: str = "auto", model: bytes = MODEL) -> Plan:
    """The plan with those records."""
    path = records.with_suffix(".onnx")
    path.write_bytes(model)
    options = Options(records=records, threads=THREADS, algorithm=algorithm)
    return Plan.from_json(run_on_model("plan", path, options.to_json()))


def choice(records: Path, **options: Any) -> Choice:
    return measured(records, **options).choice("first")


def trial(algorithm: str, seconds: float | None = 1e-3, sizes: tuple[int, ...] = (), status: str = RIGHT) -> Trial:
    return Trial(subject=SUBJECT, algorithm=algorithm, sizes=sizes, status=status, seconds=seconds, error=1e-7)


def write(path: Path, *found: Trial) -> Path:
    with Records(path) as store:
        store.add(found)
    return path


class Stub:
    """Stands for the child: a command that answers requests as a script does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        self.started = 0
        popen = subprocess.Popen

        def start(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
            if "lowprec.trials" in command:
                self.started += 1
                command = [sys.executable, "-c", script]
            return popen(command, **options)

        monkeypatch.setattr(subprocess, "Popen", start)


ANSWER = """
import json, os, signal, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["algorithm"] == "direct":
        {deed}
    print(json.dumps({{"status": "right", "seconds": 0.001, "error": 1e-7}}), flush=True)
"""


def answering(deed: str) -> str:
    return ANSWER.format(deed=deed)


def test_every_candidate_is_tried_once_and_kept(records: Path) -> None:
    heard: list[str] = []
    done = tune(records, say=heard.append)
    wanted = {(candidate.algorithm, candidate.sizes) for candidate in OFFERED}
    assert len(wanted) > 2
    assert {(t.algorithm, t.sizes) for t in done.trials} == wanted
    assert (done.done, done.known, done.left, done.failed) == (len(wanted), 0, 0, ())
    assert sorted(kept(records), key=repr) == sorted(done.trials, key=repr)
    assert {t.subject for t in done.trials} == {SUBJECT}, "both layers are one shape"
    for each in done.trials:
        assert each.status == RIGHT
        assert each.seconds
        assert each.error is not None
        candidate = candidate_of(CONV, each.algorithm, each.sizes, native())
        assert candidate is not None
        assert candidate.error is not None
        assert 0 < each.error < trials.FAR * candidate.error
    assert len(heard) == len(wanted)
    assert heard[0].startswith(f"1 of {len(wanted)} trials, ")
    assert "3x3, 32 -> 32 at 10x10" in heard[0]

    again = tune(records)
    assert (again.done, again.known, again.left) == (0, len(wanted), 0)

    best = min(done.trials, key=lambda t: t.seconds or np.inf)
    found = choice(records)
    assert (found.algorithm, found.sizes) == (best.algorithm, best.sizes)
    assert "measured" in found.reason
    assert found.milliseconds == pytest.approx(1e3 * (best.seconds or 0))


def test_a_session_goes_on_where_the_last_ended(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Stub(monkeypatch, answering("pass"))
    first = tune(records, trials=2)
    assert (first.done, first.left) == (2, len(OFFERED) - 2)
    second = tune(records)
    assert (second.done, second.known, second.left) == (len(OFFERED) - 2, 2, 0)
    assert not {(t.algorithm, t.sizes) for t in first.trials} & {(t.algorithm, t.sizes) for t in second.trials}
    assert tune(records, trials=0).done == 0


def test_another_number_of_threads_is_another_subject(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Stub(monkeypatch, answering("pass"))
    tune(records, trials=1)
    assert lowprec.tune(MODEL, records=records, threads=2, trials=1).known == 0
    assert len({t.subject for t in kept(records)}) == 2


def test_the_budget_ends_a_session_between_trials(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Stub(monkeypatch, answering("pass"))
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    done = tune(records, budget=25.0)
    assert 0 < done.done < len(OFFERED)
    assert done.left == len(OFFERED) - done.done


@pytest.mark.parametrize(
    "options", [{"trials": -1}, {"budget": 0}, {"budget": -1.0}, {"budget": float("nan")}], ids=str
)
def test_limits_that_are_none(records: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Stub(monkeypatch, answering("pass"))
    with pytest.raises(UsageError, match="trials is"):
        tune(records, **options)


def test_a_trial_that_kills_its_child_is_failed_and_the_session_goes_on(
    records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Stub(monkeypatch, answering("os.kill(os.getpid(), signal.SIGSEGV)"))
    done = tune(records)
    (failed,) = done.failed
    assert (failed.algorithm, failed.status, failed.detail) == ("direct", FAILED, "died of SIGSEGV")
    assert done.done == len(OFFERED)
    assert stub.started == 2
    assert "direct was failed: died of SIGSEGV" in str(done)
    assert tune(records).done == 0, "what failed is not tried again"


def test_a_trial_whose_child_leaves_says_its_last_words(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Stub(monkeypatch, answering("raise RuntimeError('no kernel')"))
    (failed,) = tune(records).failed
    assert (failed.status, failed.detail) == (FAILED, "RuntimeError: no kernel")


def test_a_trial_that_takes_too_long_is_late(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "TRIAL_SECONDS", 0.5)
    Stub(monkeypatch, answering("time.sleep(60)"))
    started = time.monotonic()
    done = tune(records, trials=len(OFFERED))
    (late,) = [t for t in done.trials if t.algorithm == "direct"]
    assert (late.status, late.detail, late.seconds) == (LATE, "took longer than 0.5 s", None)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "said",
    ["nonsense", "[]", '{"status": "right"}', '{"status": "splendid"}', '{"status": "right", "seconds": NaN}', "{"],
)
def test_a_child_that_answers_nonsense_is_no_bug_of_ours(
    said: str, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that prints, or a child that is ended half way."""
    Stub(monkeypatch, answering(f"print({said!r}, flush=True); continue"))
    done = tune(records)
    assert done.done == len(OFFERED)
    (odd,) = [t for t in done.trials if t.algorithm == "direct"]
    assert odd.status == FAILED
    assert RIGHT not in {t.status for t in kept(records) if t.algorithm == "direct"}


def test_an_interrupt_as_the_guard_starts_leaves_no_thread(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits for a minute would keep the process as long."""
    Stub(monkeypatch, answering("pass"))

    class Interrupted(threading.Timer):
        def start(self) -> None:
            super().start()
            raise KeyboardInterrupt

    monkeypatch.setattr(threading, "Timer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(records)
    waiting = [thread for thread in threading.enumerate() if isinstance(thread, Interrupted)]
    for thread in waiting:
        thread.cancel()
        thread.join(0.5 if thread.daemon else None)
    assert all(thread.daemon for thread in waiting)


def test_no_child_is_left(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Stub(monkeypatch, answering("pass"))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    tune(records, trials=1)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def request(algorithm: str, sizes: tuple[int, ...] = (), geometry: Conv = CONV) -> dict[str, Any]:
    return {
        "conv": json.loads(json.dumps(asdict(geometry))),
        "algorithm": algorithm,
        "sizes": list(sizes),
        "target": "native",
        "threads": THREADS,
    }


SMALL = conv(size=(9, 8), in_channels=5, out_channels=18)


@pytest.mark.parametrize(
    ("algorithm", "sizes", "geometry"),
    [
        ("direct", (), SMALL),
        ("im2col", (), replace(SMALL, stride=(2, 1), groups=1)),
        ("im2col", (), replace(SMALL, in_channels=6, groups=2)),
        ("winograd:4", (), replace(SMALL, batch=2)),
        ("fft", (12, 16), SMALL),
        ("fft", (12, 12), replace(SMALL, in_channels=18, groups=18)),
        ("direct", (), replace(SMALL, in_channels=18, groups=18, dilation=(2, 1))),
    ],
    ids=str,
)
def test_a_right_kernel_is_found_right(
    algorithm: str, sizes: tuple[int, ...], geometry: Conv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "SECONDS", 0.0)
    answer = trials.attempt(request(algorithm, sizes, geometry))
    assert answer["status"] == RIGHT, answer
    assert answer["seconds"] > 0


@pytest.mark.parametrize("spoil", [1.001, np.nan, 0.0], ids=str)
@pytest.mark.parametrize(("algorithm", "sizes"), [("direct", ()), ("winograd:2", ()), ("fft", (12, 12))], ids=str)
def test_a_kernel_that_answers_wrongly_is_wrong(
    algorithm: str, sizes: tuple[int, ...], spoil: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are not those it is checked with; it has no time."""

    def wrong(*arguments: Any) -> list[Array]:
        weights, *rest = pack_convolution(*arguments)
        return [weights * np.float32(spoil), *rest]

    monkeypatch.setattr(trials, "pack_convolution", wrong)
    monkeypatch.setattr(trials, "SECONDS", 0.0)
    answer = trials.attempt(request(algorithm, sizes, SMALL))
    assert answer["status"] == WRONG
    assert "seconds" not in answer
    assert answer["detail"].startswith("off by ")


def test_what_does_not_fit_fails_with_its_sentence() -> None:
    answer = trials.attempt(request("winograd:4", (), conv(stride=(2, 2))))
    assert answer == {"status": FAILED, "detail": "stride 2: Winograd needs stride 1"}


def test_the_child_answers_a_line_a_request() -> None:
    asked = [request("im2col", (), SMALL), request("winograd:4", (), replace(SMALL, stride=(2, 2)))]
    lines = "".join(json.dumps(each) + "\n" for each in asked) + "nonsense\n"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lowprec.trials"], input=lines, capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["status"] for answer in answers] == [RIGHT, FAILED, FAILED]


def test_the_fastest_right_one_is_chosen(records: Path) -> None:
    write(records, trial("direct", 3e-3), trial("im2col", 1e-3), trial("winograd:4", 2e-3))
    found = choice(records)
    assert found.algorithm == "im2col"
    assert found.reason.endswith("measured 3.0 times as fast as direct")
    assert found.milliseconds == pytest.approx(1.0)
    assert choice(records, algorithm="winograd").algorithm == "winograd:4"
    assert choice(records, algorithm="direct").algorithm == "direct"
    assert choice(records, algorithm="fft").algorithm == "fft", "what was not measured can be wished for"


def test_direct_may_be_what_is_measured_fastest(records: Path) -> None:
    write(records, trial("direct", 1e-4), trial("im2col", 1e-3))
    found = choice(records)
    assert found.algorithm == "direct"
    assert found.reason.endswith(", measured")


@pytest.mark.parametrize("status", [WRONG, FAILED, LATE])
def test_what_was_not_right_is_never_chosen(records: Path, status: str) -> None:
    write(records, trial("winograd:4", 1e-9, status=status), trial("direct", 1e-3), trial("im2col", 2e-3))
    assert choice(records).algorithm == "direct"


def test_sizes_of_a_transform_are_those_measured(records: Path) -> None:
    write(records, trial("direct", 1e-3), trial("fft", 1e-4, (16, 12)))
    found = choice(records)
    assert (found.algorithm, found.sizes) == ("fft", (16, 12))
    artifact = lowprec.compile(MODEL, records=records, threads=THREADS)
    assert artifact.plan.choice("first").sizes == (16, 12)
    assert lowprec.verify(artifact, MODEL).passed


ODD: Mapping[str, Trial] = {
    "another tile": trial("winograd:5", 1e-9),
    "no tile": trial("winograd:x", 1e-9),
    "a bare family": trial("winograd", 1e-9),
    "no algorithm": trial("rm -rf", 1e-9),
    "nothing": trial("", 1e-9),
    "auto": trial("auto", 1e-9),
    "a size there is none of": trial("fft", 1e-9, (7,)),
    "a size smaller than the taps": trial("fft", 1e-9, (2, 2)),
    "three sizes": trial("fft", 1e-9, (12, 12, 12)),
    "one size": trial("fft", 1e-9, (12,)),
    "no sizes": trial("fft", 1e-9),
    "sizes of direct": trial("direct", 1e-9, (12, 12)),
    "sizes of Winograd": trial("winograd:4", 1e-9, (7, 9)),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_record_that_names_nothing_of_ours_is_passed_over(odd: Trial, records: Path) -> None:
    """Whoever can write the file can write anything: the plan is made, and of what there is."""
    write(records, odd, trial("im2col", 1e-3), trial("direct", 2e-3))
    found = choice(records)
    assert (found.algorithm, found.sizes) == ("im2col", ())
    assert found.reason.endswith("measured 2.0 times as fast as direct")


def test_what_is_over_the_error_budget_is_not_chosen_though_faster() -> None:
    wide = conv(in_channels=1024, out_channels=1024)
    times: dict[Conv, Times] = {wide: {("winograd:6", ()): 1e-9, ("direct", ()): 2e-3, ("winograd:2", ()): 1e-3}}
    (found,) = make_plan([layer("c", "Conv", wide)], recipe=Recipe(), target=native(), measured=times).choices
    assert found.algorithm == "winograd:2"
    (found,) = make_plan(
        [layer("c", "Conv", wide)], recipe=Recipe(), algorithm="winograd:6", target=native(), measured=times
    ).choices
    assert found.algorithm == "winograd:6"


def test_another_machine_or_thread_count_or_version_is_not_used(records: Path) -> None:
    here = environment_of(native(), THREADS)
    others = [
        here | {"threads": THREADS + 1},
        here | {"arch": "riscv64"},
        here | {"features": here["features"][:-1]},
        here | {"versions": here["versions"] | {"tvm": "0.1"}},
        here | {"versions": here["versions"] | {"kernels": -1}},
    ]
    write(records, *(replace(trial("im2col", 1e-9), subject=subject_of(CONV, other)) for other in others))
    assert "measured" not in choice(records).reason
    write(records, trial("im2col", 1e-9))
    assert choice(records).algorithm == "im2col"


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


def test_a_time_with_none_of_direct_beside_it_is_called_measured(records: Path) -> None:
    write(records, trial("im2col", 1e-3))
    found = choice(records)
    assert found.milliseconds == pytest.approx(1.0)
    assert "measured" in found.reason
    assert "predicted" not in found.reason


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


def test_the_records_travel_with_the_plan_and_the_model_is_right(records: Path) -> None:
    write(records, trial("direct", 3e-3), trial("im2col", 1e-3))
    artifact = lowprec.compile(MODEL, records=records, threads=THREADS)
    assert {artifact.plan.choice(name).algorithm for name in ("first", "second")} == {"im2col"}
    assert {c.family for c in artifact.manifest.calls if "conv" in c.op} == {"im2col"}
    report = lowprec.verify(artifact, MODEL)
    assert report.passed, str(report)
    assert onnx.load(io.BytesIO(MODEL)).graph.name == "tuned"
