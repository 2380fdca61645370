"""`lowprec db`: what is in a file of records, files made one, what no longer counts removed, the whole checked.

Each answers the JSON document, the text, and the exit code.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowprec import strict_json
from lowprec.convolution import Conv
from lowprec.errors import EnvironmentMismatch, LowprecError, UsageError
from lowprec.plan import describe, table
from lowprec.records import DAMAGED, RIGHT, Records, Trial, versions

Reply = tuple[dict[str, Any], str, int]


def list_records(path: Path, others: Sequence[Path]) -> Reply:
    """Every trial, a row each."""
    _alone("list", others)
    with Records(path, must_exist=True) as store:
        trials = store.trials()
    rows = [("shape", "algorithm", "sizes", "status", "ms", "threads"), *map(_row, trials)]
    document = {"records": str(path), "trials": [_entry(trial) for trial in trials]}
    return document, table(rows) if trials else f"{path}: no trials", 0


def merge_records(path: Path, others: Sequence[Path]) -> Reply:
    """Take over the trials of other files; of the same trial in two the faster right one counts."""
    if not others:
        raise UsageError("merge needs two files or more: give DB and those it takes over")
    for other in others:
        Records(other, must_exist=True).close()
    taken = 0
    with Records(path) as store:
        for other in others:
            with Records(other, must_exist=True) as source:
                found = {(t.subject, t.algorithm, t.sizes): t for t in store.trials()}
                new = [t for t in source.trials() if _better(t, found.get((t.subject, t.algorithm, t.sizes)))]
            store.add(new)
            taken += len(new)
    return {"records": str(path), "taken": taken}, f"{path}: {taken} trials taken over", 0


def prune_records(path: Path, others: Sequence[Path]) -> Reply:
    """Remove what other versions measured, and what is damaged."""
    _alone("prune", others)
    with Records(path, must_exist=True) as store:
        current = versions()
        stale = [trial for trial in store.trials() if (_subject(trial) or {}).get("versions") != current]
        store.remove(stale)
        left = len(store.trials())
    return {"records": str(path), "removed": len(stale), "left": left}, f"{path}: {len(stale)} removed, {left} left", 0


def check_records(path: Path, others: Sequence[Path]) -> Reply:
    """Whether the file is whole, and every trial readable."""
    _alone("check", others)
    with Records(path, must_exist=True) as store:
        problems = store.check()
        problems += [f"a damaged record: {t.algorithm}" for t in store.trials() if _subject(t) is None]
    code = EnvironmentMismatch.exit_code if problems else 0
    text = "\n".join(f"{path}: {problem}" for problem in problems) or f"{path}: whole"
    return {"records": str(path), "problems": problems}, text, code


def _alone(action: str, others: Sequence[Path]) -> None:
    if others:
        raise UsageError(f"{action} takes one file, and {str(others[0])!r} is a second: leave it out")


def _better(trial: Trial, known: Trial | None) -> bool:
    if known is None:
        return True
    if trial.status != RIGHT or trial.seconds is None:
        return False
    return known.seconds is None or trial.seconds < known.seconds


def _subject(trial: Trial) -> dict[str, Any] | None:
    """What was tried, or None where that cannot be read."""
    if trial.detail == DAMAGED:
        return None
    try:
        body = strict_json.loads(trial.subject)
        if not isinstance(body, dict):
            return None
        strict_json.decode(Conv, body["shape"])
        whole = isinstance(body["versions"], dict) and type(body["threads"]) is int
    except (ValueError, KeyError, LowprecError):
        return None
    return body if whole else None


def _entry(trial: Trial) -> dict[str, Any]:
    body = _subject(trial) or {}
    return {
        "shape": body.get("shape"),
        "threads": body.get("threads"),
        "versions": body.get("versions"),
        "algorithm": trial.algorithm,
        "sizes": list(trial.sizes),
        "status": trial.status,
        "seconds": trial.seconds,
        "error": trial.error,
        "detail": trial.detail,
    }


def _row(trial: Trial) -> tuple[str, ...]:
    body = _subject(trial)
    milliseconds = "" if trial.seconds is None else f"{1e3 * trial.seconds:.3g}"
    sizes = "x".join(map(str, trial.sizes))
    shape = "unreadable" if body is None else describe(strict_json.decode(Conv, body["shape"]))
    threads = "" if body is None else str(body["threads"])
    return shape, trial.algorithm, sizes, trial.status, milliseconds, threads
