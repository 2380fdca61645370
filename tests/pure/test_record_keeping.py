"""`lowprec db`: list, merge, prune and check."""

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from lowprec.errors import LowprecError, UsageError
from lowprec.record_keeping import Reply, check_records, list_records, merge_records, prune_records
from lowprec.records import FAILED, RIGHT, WRONG, Trial, subject_of
from tests.layers import conv, line
from tests.pure.test_records import HERE, SUBJECT, put, read, trial, written

OLD = subject_of(conv(), HERE | {"versions": HERE["versions"] | {"tvm": "0.1"}})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "times.db"


def test_every_trial_is_a_row(path: Path) -> None:
    written(
        path,
        trial(seconds=0.00125),
        trial("fft", sizes=(12, 16)),
        replace(trial("winograd:2", status=WRONG), detail="off by 1"),
        replace(trial(), subject=subject_of(line(), HERE)),
    )
    document, text, code = list_records(path, [])
    assert code == 0
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert len(document["trials"]) == 4
    entry = next(each for each in document["trials"] if each["algorithm"] == "fft")
    assert (entry["sizes"], entry["threads"], entry["versions"]) == ([12, 16], 2, HERE["versions"])
    assert entry["shape"]["in_channels"] == 64
    lines = text.splitlines()
    assert len(lines) == 2 + 4
    assert any(
        line_.split() == ["3x3,", "64", "->", "64", "at", "56x56", "direct", "right", "1.25", "2"] for line_ in lines
    )
    assert any("12x16" in each for each in lines)
    assert any("wrong" in each for each in lines)


def test_an_empty_file_has_no_trials(path: Path) -> None:
    written(path)
    assert list_records(path, []) == ({"records": str(path), "trials": []}, f"{path}: no trials", 0)


def test_merging_takes_what_is_new_or_faster(path: Path, tmp_path: Path) -> None:
    written(path, trial(seconds=1.0), trial("im2col", seconds=1.0), trial("fft", status=FAILED), trial("a", 1.0))
    other = written(
        tmp_path / "other.db",
        trial(seconds=2.0),
        trial("im2col", seconds=0.5),
        trial("fft", seconds=3.0),
        trial("a", status=WRONG),
        trial("b", status=WRONG),
    )
    third = written(tmp_path / "third.db", trial("im2col", seconds=0.25), trial("c"))
    before = read(other)
    document, text, code = merge_records(path, [other, third])
    assert (document["taken"], code) == (5, 0)
    assert "5 trials taken over" in text
    assert read(path) == [
        trial("a", 1.0),
        trial("b", status=WRONG),
        trial("c"),
        trial(seconds=1.0),
        trial("fft", seconds=3.0),
        trial("im2col", seconds=0.25),
    ]
    assert read(other) == before
    assert merge_records(path, [other, third])[0]["taken"] == 0


def test_merging_makes_the_file_and_needs_the_others(path: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other.db", trial())
    merge_records(path, [other])
    assert read(path) == read(other)
    with pytest.raises(UsageError, match="two files or more"):
        merge_records(path, [])
    assert merge_records(path, [path])[0]["taken"] == 0


def test_merging_from_what_is_not_there_makes_nothing(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not exist"):
        merge_records(path, [tmp_path / "none.db"])
    assert not path.exists()


def test_pruning_leaves_what_counts(path: Path) -> None:
    written(path, trial(), trial("im2col", status=FAILED), replace(trial(), subject=OLD))
    written(path, replace(trial(), subject="nonsense"), replace(trial(), subject="[]"), replace(trial(), subject="{}"))
    assert prune_records(path, []) == ({"records": str(path), "removed": 4, "left": 2}, f"{path}: 4 removed, 2 left", 0)
    assert read(path) == [trial(), trial("im2col", status=FAILED)]
    assert prune_records(path, [])[0]["removed"] == 0


DAMAGED: dict[str, dict[str, object]] = {
    "seconds": {"seconds": -1.0},
    "sizes": {"sizes": "nonsense"},
    "negative sizes": {"sizes": "[12, -1]"},
    "status": {"status": "splendid"},
    "algorithm": {"algorithm": b"\xff"},
    "subject in bytes": {"subject": b"\xff"},
    "kernel": {"subject": json.dumps({"shape": {"kernel": 3, "size": 5}, "versions": {}, "threads": 1})},
    "no kernel": {"subject": json.dumps({"shape": {"kernel": None}, "versions": {}, "threads": 1})},
    "deep subject": {"subject": "[" * 10000},
    "NaN in the subject": {"subject": SUBJECT.replace('"batch":1', '"batch":NaN', 1)},
    "infinite error": {"error": float("inf")},
    "error": {"error": "small"},
    "seconds of a failure": {"status": FAILED, "seconds": "soon"},
    "infinite seconds of a failure": {"status": FAILED, "seconds": float("inf")},
}


@pytest.mark.parametrize("columns", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_listed_found_and_pruned(columns: dict[str, object], path: Path) -> None:
    """Text and JSON can be written of anything."""
    written(path, trial())
    put(path, **columns)
    document, text, code = list_records(path, [])
    assert code == 0
    json.dumps(document, allow_nan=False)
    assert len(text.splitlines()) == 4
    assert len(document["trials"]) == 2
    document, text, code = check_records(path, [])
    assert (code, len(document["problems"])) == (7, 1)
    assert "damaged record" in text
    document, _, code = prune_records(path, [])
    assert (document["removed"], document["left"]) == (1, 1)
    assert read(path) == [trial()]
    assert check_records(path, [])[2] == 0


def test_a_name_in_a_record_stays_in_its_row(path: Path) -> None:
    written(path, trial("a\nb"))
    assert len(list_records(path, [])[1].splitlines()) == 3


def test_a_whole_file_is_whole(path: Path) -> None:
    written(path, trial(), replace(trial(), subject=OLD))
    assert check_records(path, []) == ({"records": str(path), "problems": []}, f"{path}: whole", 0)


def _code_of_checking(path: Path) -> int:
    """Damage is found by the check, or keeps the file from being opened."""
    try:
        return check_records(path, [])[2]
    except LowprecError as error:
        return error.exit_code


def test_a_damaged_page_is_found(path: Path) -> None:
    written(path, *(trial(f"a{i}") for i in range(300)))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = os.urandom(len(content) - len(content) // 2)
    path.write_bytes(content)
    assert _code_of_checking(path) == 7


ACTIONS: list[Callable[..., Reply]] = [list_records, prune_records, check_records]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_one_file_that_is_there(action: Callable[..., Reply], path: Path) -> None:
    with pytest.raises(UsageError, match="do not exist"):
        action(path, [])
    assert not path.exists()
    written(path, trial())
    with pytest.raises(UsageError, match=r"takes one file, and 'x\.db' is a second"):
        action(path, [Path("x.db")])


def test_statuses_are_those_of_trials() -> None:
    assert Trial(subject="", algorithm="", sizes=(), status=RIGHT).status == "right"
