"""Measured times, kept: a SQLite file that several processes may write, one transaction a trial.

A trial is an algorithm tried for a subject: a convolution's shape and formats, the features and threads it was tried
with, the versions that made its kernel. Only trials whose answer was right have a time. What another version or machine
measured stays in the file and is not used; `prune` removes it.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lowprec import __version__
from lowprec.convolution import Conv
from lowprec.errors import EnvironmentMismatch, UsageError
from lowprec.manifest import installed_version
from lowprec.targets import Target

APPLICATION = 0x6C6F7770  # "lowp": SQLite's mark of whose file it is
VERSION = 1
KERNELS = 2
"""Raised when kernels change so that times measured before say nothing."""

RIGHT, WRONG, FAILED, LATE = "right", "wrong", "failed", "late"

_TABLE = """
CREATE TABLE IF NOT EXISTS trials (
    subject TEXT NOT NULL, algorithm TEXT NOT NULL, sizes TEXT NOT NULL, status TEXT NOT NULL,
    seconds REAL, error REAL, detail TEXT NOT NULL, made TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (subject, algorithm, sizes)
)
"""


_COLUMNS = ("subject", "algorithm", "sizes", "status", "seconds", "error", "detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One algorithm, tried for one subject: `seconds` and `error` where its answer was right, else `detail`; `row` is
    its place in the file it was read from."""

    subject: str
    algorithm: str
    sizes: tuple[int, ...]
    status: str
    seconds: float | None = None
    error: float | None = None
    detail: str = ""
    row: int | None = field(default=None, compare=False)


def versions() -> dict[str, Any]:
    """What makes a kernel, as it is installed."""
    return {"lowprec": __version__, "tvm": installed_version("apache-tvm"), "kernels": KERNELS}


def environment_of(target: Target, threads: int) -> dict[str, Any]:
    """What a time depends on beside the layer."""
    return {
        "arch": target.arch,
        "features": list(target.required_features),
        "threads": threads,
        "versions": versions(),
    }


def subject_of(conv: Conv, environment: Mapping[str, Any], formats: str = "fp32") -> str:
    """The name of what is tried."""
    body = {"kernel": "convolution", "formats": formats, "shape": asdict(conv), **environment}
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


class Records:
    """The file at `path`, made where it is missing unless it `must_exist`."""

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        self.path = path
        if must_exist and not path.is_file():
            raise UsageError(f"records {str(path)!r} do not exist: `lowprec tune MODEL --records FILE` makes them")
        if path.exists() and not path.is_file():
            raise UsageError(f"records {str(path)!r} are no file: give the path of a file")
        if not path.parent.is_dir():
            raise UsageError(f"records {str(path)!r} cannot be made: {str(path.parent)!r} is no directory")
        if path.exists() and path.stat().st_size and not _header(path).startswith(b"SQLite format 3"):
            raise UsageError(f"{str(path)!r} is no file of records: give another file")
        with self._damage():
            self._db = sqlite3.connect(path, timeout=30.0)
            self._own()

    def _own(self) -> None:
        """Take the file for ours, or refuse it."""
        (mark,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if mark not in (0, APPLICATION) or (tables and mark != APPLICATION):
            raise UsageError(f"{str(self.path)!r} is a database of something else: give another file")
        if tables and version != VERSION:
            raise EnvironmentMismatch(
                f"{str(self.path)!r} has version {version}, this lowprec reads {VERSION}: tune anew"
            )
        if not tables:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")
            with self._db:
                self._db.execute(_TABLE)

    def add(self, trials: Iterable[Trial]) -> None:
        """Keep trials, in one transaction; of a pair tried before the new one counts."""
        holes = ", ".join("?" * len(_COLUMNS))
        rows = [(t.subject, t.algorithm, json.dumps(t.sizes), t.status, t.seconds, t.error, t.detail) for t in trials]
        with self._damage(), self._db:
            self._db.executemany(f"INSERT OR REPLACE INTO trials ({', '.join(_COLUMNS)}) VALUES ({holes})", rows)

    def trials(self, subject: str | None = None) -> list[Trial]:
        """All, or those of a subject, in a stable order."""
        where, values = ("", ()) if subject is None else (" WHERE subject = ?", (subject,))
        names = ", ".join(("rowid", *_COLUMNS))
        query = f"SELECT {names} FROM trials{where} ORDER BY subject, algorithm, sizes"
        with self._damage():
            return [_trial(row) for row in self._db.execute(query, values)]

    def remove(self, trials: Iterable[Trial]) -> None:
        """Take out trials: those read from this file by their rows, which damage does not touch."""
        trials = list(trials)
        rows = [(trial.row,) for trial in trials if trial.row is not None]
        keys = [(t.subject, t.algorithm, json.dumps(t.sizes)) for t in trials if t.row is None]
        with self._damage(), self._db:
            self._db.executemany("DELETE FROM trials WHERE rowid = ?", rows)
            self._db.executemany("DELETE FROM trials WHERE subject = ? AND algorithm = ? AND sizes = ?", keys)

    def check(self) -> list[str]:
        """What is wrong with the file: nothing, or a sentence for each."""
        with self._damage():
            (state,) = self._db.execute("PRAGMA integrity_check").fetchone()
        return [] if state == "ok" else [f"SQLite finds: {state}"]

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            advice = "restore it, or move it away and tune anew"
            raise EnvironmentMismatch(f"records {str(self.path)!r} cannot be used ({error}): {advice}") from error


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


DAMAGED = "damaged record"


def _trial(row: tuple[Any, ...]) -> Trial:
    """A row, checked: whoever can write the file can write nonsense."""
    place, subject, algorithm, sizes, status, seconds, error, detail = row
    shape = _sizes(sizes)
    known = shape is not None and status in (RIGHT, WRONG, FAILED, LATE)
    texts = all(isinstance(text, str) for text in (subject, algorithm, detail))
    timed = _number(seconds, above=0.0) or (seconds is None and status != RIGHT)
    sure = error is None or _number(error, above=-1.0)
    if shape is None or not (known and texts and timed and sure):
        return Trial(row=place, subject=str(subject), algorithm=str(algorithm), sizes=(), status=FAILED, detail=DAMAGED)
    return Trial(
        row=place,
        subject=subject,
        algorithm=algorithm,
        sizes=shape,
        status=status,
        seconds=seconds,
        error=error,
        detail=detail,
    )


def _sizes(text: object) -> tuple[int, ...] | None:
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or any(type(size) is not int or not 0 < size < 1 << 16 for size in found):
        return None
    return tuple(found)


def _number(value: object, *, above: float) -> bool:
    return isinstance(value, float) and above < value < 1e6


def times_in(
    store: Records, convs: Iterable[Conv], environment: Mapping[str, Any]
) -> dict[Conv, dict[tuple[str, tuple[int, ...]], float]]:
    """For each convolution that was tried, the seconds of what was right, by algorithm and sizes."""
    found = {}
    for conv in convs:
        trials = store.trials(subject_of(conv, environment))
        times = {(t.algorithm, t.sizes): t.seconds for t in trials if t.status == RIGHT and t.seconds is not None}
        if times:
            found[conv] = times
    return found
