"""Tuning a small model: trials in a child, kept as they are done, whatever becomes of one."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import lowprec
from lowprec import trials, tuning
from lowprec.choosing import candidate_of, named
from lowprec.errors import UsageError
from lowprec.records import FAILED, LATE, RIGHT
from lowprec.targets import native
from tests.tvm.tuning.network import CONV, MODEL, OFFERED, SUBJECT, THREADS, choice, kept


def tune(records: Path, **options: Any) -> tuning.Tuned:
    return lowprec.tune(MODEL, records=records, threads=THREADS, **options)


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
        assert candidate.prediction is not None
        assert 0 < each.error < trials.FAR * candidate.prediction.error * candidate.prediction.peak
    assert len(heard) == len(wanted)
    assert heard[0].startswith(f"1 of {len(wanted)} trials, ")
    assert "3x3, 32 -> 32 at 10x10" in heard[0]
    assert "best" not in heard[0]
    best = min(done.trials, key=lambda trial: trial.seconds or 0.0)
    after = heard[done.trials.index(best) + 1 :]
    assert all(f", best {named(best.algorithm, best.sizes)} " in line for line in after)

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
