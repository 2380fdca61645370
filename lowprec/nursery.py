"""A child for each risky task, forked by a process that has imported what such tasks need: the nursery.

Importing the compiler takes seconds; forking a process that holds it takes milliseconds. The first task of a process
starts its nursery, `python -m MODULE SOCKET`, and every task is a fork of it. Before the first task of a kind the
nursery imports nothing, so a single task takes as long as alone; before the second it imports what that kind needs.

A task has a line of its own to the nursery, which says there that the child was born, and how it ended. When the
caller's end of the line closes for writing, the child is killed with all that it started. When the caller's process is
gone, so are the nursery and its children.
"""

import atexit
import gc
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lowprec.confinement import die_with_parent
from lowprec.errors import LowprecError

IDLE = 300.0
"""Seconds without a task after which a nursery ends."""

LEAVING = 10.0
"""Seconds that a nursery may take to end when it is told to."""

MESSAGE_BYTES = 1 << 12
DESCRIPTORS = 7
"""Of a task: for its request, answer, place, what it prints, its folder and variables, and the line."""

STARTING = ("GLIBC_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "TVM_LIBRARY")
"""How the variables begin that a process or a library reads when it starts: a change of these needs a new nursery."""

Main = Callable[[str, int, int], int]
"""What a child does: a task, the descriptor for its answer and the one for its place; the exit status."""


class Child:
    """The caller's view of a child."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self.status: int | None = None

    def wait(self, seconds: float | None = None) -> None:
        """Until it has ended by itself, or for so long."""
        if self.status is not None:
            return
        self._line.settimeout(seconds)
        with suppress(TimeoutError):
            ended = self._line.recv(MESSAGE_BYTES)
            self.status = int(ended) if ended else -signal.SIGKILL

    def end(self) -> None:
        """Kills it and whatever it started, and waits for it."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)
        self.wait()
        self._line.close()


@dataclass(slots=True, kw_only=True)
class _Nursery:
    """The caller's view of a nursery."""

    line: socket.socket
    process: "subprocess.Popen[bytes]"
    printed: IO[bytes]
    surroundings: Hashable

    def bear(self, task: str, descriptors: tuple[int, ...]) -> Child | None:
        """A child with these descriptors; none when the nursery is gone."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        born = False
        try:
            with its, suppress(OSError):
                socket.send_fds(self.line, [task.encode()], [*descriptors, its.fileno()])
            with suppress(OSError):
                born = bool(ours.recv(MESSAGE_BYTES))
        finally:
            if not born:
                ours.close()
        return Child(ours) if born else None

    def close(self) -> str:
        """Ends it, and says how it ended."""
        self.line.close()
        try:
            self.process.wait(LEAVING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return named_status(self.process.returncode)


_lock = threading.Lock()
_ours: _Nursery | None = None


def bear(module: str, task: str, *, request: int, answer: int, place: int, printed: int) -> Child:
    """A child that does the task of the module, here and now: with this process's folder, environment and limits."""
    folder, variables = os.open(".", os.O_PATH | os.O_DIRECTORY), os.memfd_create("environment")
    try:
        os.write(variables, json.dumps(_environment()).encode())
        with _lock:
            for _ in range(2):  # a nursery may have ended since it was last asked
                child = _nursery(module).bear(task, (request, answer, place, printed, folder, variables))
                if child is not None:
                    return child
                how, said = _close()
    finally:
        os.close(folder)
        os.close(variables)
    error = LowprecError(f"{task}: the worker process did not start ({how}); -v shows what it printed")
    error.add_note(said)
    raise error


def close() -> None:
    """Ends this process's nursery, if it has one; the next task starts another."""
    with _lock:
        _close()


def named_status(status: int) -> str:
    """The signal or the exit status that a process ended with."""
    return signal.Signals(-status).name if status < 0 else f"exit {status}"


def tail(printed: IO[bytes]) -> str:
    """The end of what was printed into a file."""
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - 20_000))
    return printed.read().decode(errors="replace")


def _close() -> tuple[str, str]:
    """Ends the nursery; how it ended, and what it had printed."""
    global _ours
    if _ours is None:
        return "", ""
    nursery, _ours = _ours, None
    with nursery.printed:
        return nursery.close(), tail(nursery.printed)


def _nursery(module: str) -> _Nursery:
    """The one that runs, or a new one where what its children would inherit has changed."""
    global _ours
    surroundings = _surroundings(module)
    if _ours is not None and _ours.surroundings != surroundings:
        _close()
    if _ours is None:
        with _interrupts_wait():
            _ours = _start(module, surroundings)
    return _ours


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C inside the block is felt at its end: a process that is being started is never lost on the way."""
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


def _environment() -> dict[str, str]:
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _surroundings(module: str) -> Hashable:
    """What a process hands on to its children and may change, beside its folder and variables, which travel."""
    limits = tuple(resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_"))
    lines = Path("/proc/self/status").read_text().splitlines()
    mask = next((line for line in lines if line.startswith("Umask")), "")
    processors, niceness = frozenset(os.sched_getaffinity(0)), os.getpriority(os.PRIO_PROCESS, 0)
    variables = frozenset(item for item in os.environ.items() if item[0].startswith(STARTING))
    return module, sys.executable, variables, limits, mask, processors, niceness


def _start(module: str, surroundings: Hashable) -> _Nursery:
    line, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    printed = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the nursery)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(its.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            pass_fds=(its.fileno(),),
            env=_environment(),
            start_new_session=True,
        )
    return _Nursery(line=line, process=process, printed=printed, surroundings=surroundings)


def _forget() -> None:
    """In a fork of the caller, which has no nursery."""
    global _ours, _lock
    _lock = threading.Lock()
    if _ours is not None:
        _ours.process.returncode = 0  # somebody else's child
        _ours.line.close()
        _ours = None


atexit.register(close)
os.register_at_fork(after_in_child=_forget)


@dataclass(frozen=True, slots=True)
class _Ward:
    """The nursery's view of a child."""

    pid: int
    line: socket.socket


class _Keeper:
    """The nursery's side: forks and buries."""

    def __init__(self, requests: socket.socket, main: Main, prepare: Callable[[str], object]) -> None:
        self._requests, self._main, self._prepare = requests, main, prepare
        self._seen: set[str] = set()
        self._wards: dict[int, _Ward] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ, self._asked)
        self._woken, self._waking = socket.socketpair()
        self._woken.setblocking(False)
        self._waking.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._bury)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)

    def keep(self) -> None:
        """Until the caller is gone, or has asked for nothing for long."""
        while events := self._selector.select(None if self._wards else IDLE):
            for key, _ in events:
                if not key.data():
                    return self._kill_all()

    def _asked(self) -> bool:
        """A task, or the end."""
        message, descriptors, _, _ = socket.recv_fds(
            self._requests, MESSAGE_BYTES, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not message:
            return False
        task = message.decode()
        line = socket.socket(fileno=descriptors.pop())
        if task in self._seen:
            with suppress(Exception):  # the child will say what is wrong
                self._prepare(task)
            gc.freeze()
        self._seen.add(task)
        pid = os.fork()
        if pid == 0:
            line.close()
            self._leave()
            _live(self._main, task, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)  # here and in the child, so that neither can be first
        ward = self._wards[pid] = _Ward(pid, line)
        self._selector.register(ward.line, selectors.EVENT_READ, lambda: self._unwanted(ward))
        with suppress(OSError):
            line.send(b"born")
        return True

    def _leave(self) -> None:
        """In a child: nothing of the nursery's stays open."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for line in (self._requests, self._woken, self._waking, *(ward.line for ward in self._wards.values())):
            line.close()

    def _unwanted(self, ward: _Ward) -> bool:
        if ward.pid in self._wards:
            self._selector.unregister(ward.line)
            _kill(ward.pid)
        return True

    def _bury(self) -> bool:
        """Of each child that has ended: ends what it left behind, then says how it went."""
        with suppress(BlockingIOError):
            self._woken.recv(MESSAGE_BYTES)
        for ward in list(self._wards.values()):
            if os.waitid(os.P_PID, ward.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _kill(ward.pid)
            _, status = os.waitpid(ward.pid, 0)
            del self._wards[ward.pid]
            with suppress(KeyError):
                self._selector.unregister(ward.line)
            with ward.line, suppress(OSError):
                ward.line.send(str(os.waitstatus_to_exitcode(status)).encode())
        return True

    def _kill_all(self) -> None:
        for pid in self._wards:
            _kill(pid)
            os.waitpid(pid, 0)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _live(main: Main, task: str, descriptors: list[int]) -> None:
    """A child's whole life."""
    status = 70
    try:
        die_with_parent()
        os.setpgid(0, 0)
        request, answer, place, printed, folder, variables = descriptors
        for descriptor, standard in ((request, 0), (printed, 1), (printed, 2)):
            os.dup2(descriptor, standard)
        os.fchdir(folder)
        environment = json.loads(os.pread(variables, os.fstat(variables).st_size, 0))
        os.environ.clear()
        os.environ.update(environment)
        status = main(task, answer, place)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve(main: Main, prepare: Callable[[str], object]) -> None:
    """The nursery itself, on the socket that the command line names; `prepare` imports what a task needs."""
    _Keeper(socket.socket(fileno=int(sys.argv[1])), main, prepare).keep()
