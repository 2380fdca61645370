"""Risky work in a child process: a hostile model or a crashing compiler costs one line, never the caller's process.

The child is `python -m lowprec.worker`. The request goes in as JSON on its standard input; JSON lines come back by a
pipe of their own: {"stage"}, {"notice"}, and last {"result"} or {"error"}. What the child prints is kept aside for -v.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any, NoReturn

from lowprec.confinement import time_limit
from lowprec.errors import BY_EXIT_CODE, BuildFailed, InvalidModel, LowprecError

BUILD = "build"
"""The stage after which a crash is the build's, not the model's."""

WORKER = "lowprec.worker"
"""The module the child runs."""

PATIENCE = 10.0
"""Wall seconds per second of processor time before a child that only waits is ended."""

PLACE_BYTES = 512
"""What the child may write about where it is."""

Notify = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class _Talk:
    """What the child has said so far."""

    stage: str = "start"
    buffer: bytes = b""
    answer: Mapping[str, Any] | None = None
    notices: list[str] = field(default_factory=list)


def run(task: str, request: Mapping[str, Any], *, model_bytes: int, notify: Notify | None = None) -> dict[str, Any]:
    """The task's result; what fails in the child is raised here as the same error."""
    read_end, write_end = os.pipe()
    child: subprocess.Popen[bytes] | None = None
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as place:
        try:
            with _interrupts_wait():
                try:
                    child = _start(task, write_end, printed, place)
                finally:
                    os.close(write_end)
            talk = _converse(child, read_end, json.dumps(dict(request)).encode(), model_bytes, notify)
            if talk.answer is None:
                _await(child)
        finally:
            os.close(read_end)
            if child is not None:
                _kill(child)
        if talk.answer is None:
            _raise_crash(task, request, talk, child.returncode, (_tail(printed), _where(place)))
        if "error" in talk.answer:
            _raise_answer(talk.answer["error"])
        result: dict[str, Any] = talk.answer["result"]
        return result


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C inside the block is felt at its end: a child that is being started is never lost on the way."""
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGINT)):
        yield
        return
    missed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _frame: missed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if missed:
            signal.raise_signal(signal.SIGINT)


def _start(task: str, write_end: int, printed: IO[bytes], place: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", WORKER, task, str(write_end), str(place.fileno())],
        stdin=subprocess.PIPE,
        stdout=printed,
        stderr=printed,
        pass_fds=(write_end, place.fileno()),
        env=environment,
        start_new_session=True,
    )


def _converse(
    child: subprocess.Popen[bytes], read_end: int, request: bytes, model_bytes: int, notify: Notify | None
) -> _Talk:
    """Sends the request, then listens until the child answers, hangs up, or the front end's patience is over."""
    talk = _Talk()
    assert child.stdin is not None
    try:
        child.stdin.write(request)
        child.stdin.close()
    except BrokenPipeError:
        return talk
    deadline = time.monotonic() + PATIENCE * time_limit(model_bytes)
    with selectors.DefaultSelector() as selector:
        selector.register(read_end, selectors.EVENT_READ)
        while True:
            left = None if talk.stage == BUILD else deadline - time.monotonic()
            if left is not None and left <= 0:
                _kill(child)
                return talk
            if not selector.select(left):
                continue
            data = os.read(read_end, 1 << 16)
            if not data:
                return talk
            _hear(talk, data, notify)
            if talk.answer is not None:
                return talk


def _await(child: subprocess.Popen[bytes]) -> None:
    """Lets a child that hung up end by itself, so that how it ended can be told."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=10)


def _hear(talk: _Talk, data: bytes, notify: Notify | None) -> None:
    *lines, talk.buffer = (talk.buffer + data).split(b"\n")
    for line in lines:
        message = json.loads(line)
        talk.stage = message.get("stage", talk.stage)
        if "notice" in message and notify is not None:
            notify(message["notice"])
        if "result" in message or "error" in message:
            talk.answer = message


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Ends the child and whatever it started (it leads its own session), and waits for it."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _tail(printed: IO[bytes]) -> str:
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - 20_000))
    return printed.read().decode(errors="replace")


def _where(place: IO[bytes]) -> str:
    """` at NODE`, the node that was looked at last."""
    place.seek(0)
    name = place.read(PLACE_BYTES).decode(errors="replace").strip()
    return f" at {name}" if name else ""


def _raise_answer(error: Mapping[str, Any]) -> NoReturn:
    kind = BY_EXIT_CODE.get(error["exit_code"], LowprecError)
    raised = kind(error["message"])
    if error.get("details"):
        raised.add_note(error["details"])
    raise raised


def _raise_crash(task: str, request: Mapping[str, Any], talk: _Talk, code: int, traces: tuple[str, str]) -> NoReturn:
    """The child died without an answer: whose fault it is depends on how far it had come."""
    printed, where = traces
    how = signal.Signals(-code).name if code < 0 else f"exit {code}"
    model = os.path.basename(str(request.get("model", "the kernels")))
    error: LowprecError
    if talk.stage == BUILD:
        error = BuildFailed(f"{task}: building {model} ended the compiler process ({how}); -v shows what it printed")
    elif talk.stage == "start":
        error = LowprecError(f"{task}: the worker process did not start ({how}); -v shows what it printed")
    else:
        error = InvalidModel(f"{model}: refused{where}, because checking it crashed or took too long ({how})")
    error.add_note(printed)
    raise error
