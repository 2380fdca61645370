"""The parent's side of an engine process: asked, stopped between questions, mourned when it dies."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lowprec.errors import LowprecError, UsageError

ANSWER_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Turn:
    """The times of one engine's turn, and the worst error among its runs."""

    seconds: tuple[float, ...]
    error: float


def exchange(process: "subprocess.Popen[bytes]", request: Mapping[str, object], seconds: float) -> tuple[bytes, bool]:
    """The line that a process answers a request with, empty when it dies; and whether it was late, and so killed."""
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    guard = threading.Timer(seconds, give_up)
    guard.daemon = True
    try:
        guard.start()
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = b""
    finally:
        guard.cancel()
    return line, late.is_set()


class Child:
    """An engine's process, seen from the parent: running while asked, stopped otherwise."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self.opened: dict[str, Any] = {}
        self._log = log

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """The child's answer; a LowprecError when it refuses, dies or says nothing for ten minutes."""
        self.process.send_signal(signal.SIGCONT)
        line, _ = exchange(self.process, request, ANSWER_SECONDS)
        if not line:
            raise LowprecError(self._obituary())
        self.process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise UsageError(answer["failed"])
        return answer

    def turn(self, count: int) -> Turn:
        """One run that is not counted, then `count` that are."""
        self.ask({"do": "run", "count": 1})
        answer = self.ask({"do": "run", "count": count})
        return Turn(tuple(answer["seconds"]), float(answer["error"]))

    def _obituary(self) -> str:
        return last_words(self.process.wait(), self._log.read_text(errors="replace"))


def last_words(status: int, text: str) -> str:
    """Why a child died, in one line: the signal, or the exception at the end of its traceback, or its last line."""
    if status < 0:
        return f"died of {signal.Signals(-status).name}"
    lines = [line for line in text.splitlines() if line.strip()]
    named = [
        line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Fail|Argument|Graph)\b", line)
    ]
    return (named or lines or [f"exit status {status}"])[-1].strip()


ALONE = {"OPENBLAS_NUM_THREADS": "1"}
"""The environment of engines: NumPy's threads, which compare answers, would go on spinning on their cores."""


ENGINES = ("-P", "-m", "lowprec.engines")


@contextmanager
def child_process(log: Path, arguments: Sequence[str] = ENGINES) -> Iterator[Child]:
    """A fresh engine process, Python with those arguments, killed at the end whatever happens."""
    command = [sys.executable, *arguments]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, **ALONE}
        )
    try:
        yield Child(process, log)
    finally:
        process.kill()
        process.communicate()


class BusyMeter:
    """How many cores programs other than these processes and this one kept busy since it was made."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in (*pids, os.getpid())]
        self._began = time.monotonic()
        self._all, self._own = _busy_seconds(), self._own_seconds()

    def share_of_others(self) -> float:
        elapsed = time.monotonic() - self._began
        everybody, own = _busy_seconds() - self._all, self._own_seconds() - self._own
        return max(0.0, (everybody - own) / elapsed)

    def _own_seconds(self) -> float:
        times = [process.cpu_times() for process in self._processes if process.is_running()]
        return sum(float(time.user + time.system) for time in times)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    parts = (times.user, times.system, times.nice, times.irq, times.softirq, getattr(times, "steal", 0.0))
    return sum(map(float, parts))
