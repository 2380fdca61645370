"""Risky work in a child process: a hostile model or a crashing compiler costs one line, never the caller's process.

The child is a fork of the nursery of `lowprec.worker`. The request goes in as JSON on its standard input; JSON lines
come back by a pipe of their own: {"stage"}, {"notice"}, and last {"result"} or {"error"}. What the child prints is kept
aside for -v.
"""

import json
import os
import selectors
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, NoReturn

from lowprec import nursery
from lowprec.confinement import time_limit
from lowprec.errors import BY_EXIT_CODE, BuildFailed, InvalidModel, LowprecError

BUILD = "build"
"""The stage after which a crash is the build's, not the model's."""

WORKER = "lowprec.worker"
"""The module of the nursery."""

PATIENCE = 10.0
"""Wall seconds per second of processor time before a child that only waits is ended."""

HANGING_UP = 10.0
"""Seconds that a child which said its last may take to end by itself, so that how it ended can be told."""

PLACE_BYTES = 512
"""What the child may write about where it is."""

Notify = Callable[[str], None]
"""Takes a line about how far the child is."""


@dataclass(slots=True, kw_only=True)
class _Talk:
    """What the child has said so far."""

    stage: str = "start"
    late: bool = False
    buffer: bytes = b""
    answer: Mapping[str, Any] | None = None
    notices: list[str] = field(default_factory=list)


def run(task: str, request: Mapping[str, Any], *, model_bytes: int, notify: Notify | None = None) -> dict[str, Any]:
    """The task's result; what fails in the child is raised here as the same error."""
    answer, its_answer = os.pipe()
    its_request, request_end = os.pipe()
    child: nursery.Child | None = None
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as place, os.fdopen(request_end, "wb") as asking:
        try:
            try:
                child = nursery.bear(
                    WORKER, task, request=its_request, answer=its_answer, place=place.fileno(), printed=printed.fileno()
                )
            finally:
                os.close(its_answer)
                os.close(its_request)
            with suppress(BrokenPipeError), asking:
                asking.write(json.dumps(dict(request)).encode())
            talk = _listen(answer, PATIENCE * time_limit(model_bytes), notify)
            if talk.answer is None and not talk.late:
                child.wait(HANGING_UP)
        finally:
            os.close(answer)
            if child is not None:
                child.end()
        if talk.answer is None:
            assert child.status is not None
            _raise_crash(task, request, talk, child.status, (nursery.tail(printed), _where(place)))
        if "error" in talk.answer:
            _raise_answer(talk.answer["error"])
        result: dict[str, Any] = talk.answer["result"]
        return result


def _listen(answer: int, patience: float, notify: Notify | None) -> _Talk:
    """Listens until the child answers, hangs up, or the front end's patience is over."""
    talk = _Talk()
    deadline = time.monotonic() + patience
    with selectors.DefaultSelector() as selector:
        selector.register(answer, selectors.EVENT_READ)
        while True:
            left = None if talk.stage == BUILD else deadline - time.monotonic()
            if left is not None and left <= 0:
                talk.late = True
                return talk
            if not selector.select(left):
                continue
            data = os.read(answer, 1 << 16)
            if not data:
                return talk
            _hear(talk, data, notify)
            if talk.answer is not None:
                return talk


def _hear(talk: _Talk, data: bytes, notify: Notify | None) -> None:
    *lines, talk.buffer = (talk.buffer + data).split(b"\n")
    for line in lines:
        message = json.loads(line)
        talk.stage = message.get("stage", talk.stage)
        if "notice" in message and notify is not None:
            notify(message["notice"])
        if "result" in message or "error" in message:
            talk.answer = message


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
    how = nursery.named_status(code)
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
