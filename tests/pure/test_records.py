"""Records of tuning: kept, found and replaced; what is no file of ours is refused in a line and left as it was."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.errors import EnvironmentMismatch, LowprecError, UsageError
from lowprec.records import (
    APPLICATION,
    FAILED,
    LATE,
    RIGHT,
    VERSION,
    WRONG,
    Records,
    Trial,
    environment_of,
    subject_of,
    times_in,
)
from lowprec.targets import parse_target
from tests.layers import conv, line

TARGET = parse_target("x86-64-v3")
HERE = environment_of(TARGET, 2)
SUBJECT = subject_of(conv(), HERE)


def trial(
    algorithm: str = "direct", seconds: float | None = 1e-3, *, status: str = RIGHT, sizes: tuple[int, ...] = ()
) -> Trial:
    error = 1e-7 if status == RIGHT else None
    seconds = seconds if status == RIGHT else None
    return Trial(subject=SUBJECT, algorithm=algorithm, sizes=sizes, status=status, seconds=seconds, error=error)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "times.db"


def written(path: Path, *trials: Trial) -> Path:
    with Records(path) as store:
        store.add(trials)
    return path


def read(path: Path) -> list[Trial]:
    with Records(path, must_exist=True) as store:
        return store.trials()


def put(path: Path, **columns: object) -> None:
    """A row as somebody else might write it."""
    row = {
        "subject": SUBJECT,
        "algorithm": "im2col",
        "sizes": "[]",
        "status": RIGHT,
        "seconds": 1e-9,
        "error": 1e-7,
        "detail": "",
    } | columns
    with closing(sqlite3.connect(path)) as db, db:
        holes = ", ".join("?" * len(row))
        db.execute(f"INSERT OR REPLACE INTO trials ({', '.join(row)}) VALUES ({holes})", list(row.values()))


def test_what_is_added_is_found(path: Path) -> None:
    wanted = [
        trial(),
        trial("fft", sizes=(12, 16)),
        trial("fft", 2e-3, sizes=(16, 16)),
        trial("winograd:2", status=WRONG),
        replace(trial("winograd:4", status=FAILED), detail="died of SIGSEGV: 'a\nb' é"),
        trial("winograd:6", status=LATE),
    ]
    written(path, *wanted)
    assert read(path) == wanted
    with Records(path) as store:
        assert store.trials(SUBJECT) == wanted
        assert store.trials("another") == []
        assert store.check() == []


@given(
    st.builds(
        Trial,
        subject=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        algorithm=st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
        sizes=st.lists(st.integers(1, 1000), max_size=3).map(tuple),
        status=st.sampled_from((RIGHT, WRONG, FAILED, LATE)),
        seconds=st.floats(1e-9, 1e5),
        error=st.none() | st.floats(0, 1),
        detail=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    )
)
def test_any_trial_comes_back(made: Trial) -> None:
    with Records(Path(os.devnull).parent / "shm" / f"lowprec-{os.getpid()}.db") as store:
        try:
            store.add([made])
            assert store.trials() == [made]
        finally:
            store.close()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{store.path}{suffix}").unlink(missing_ok=True)


def test_of_a_pair_tried_again_the_new_one_counts(path: Path) -> None:
    written(path, trial(seconds=1.0), trial("im2col"))
    written(path, trial(seconds=2.0))
    assert read(path) == [trial(seconds=2.0), trial("im2col")]
    written(path, trial(status=FAILED))
    assert read(path)[0].status == FAILED


def test_removing_is_by_subject_algorithm_and_sizes(path: Path) -> None:
    other = replace(trial(), subject=subject_of(line(), HERE))
    written(path, trial(), other, trial("fft", sizes=(12, 12)), trial("fft", sizes=(16, 16)))
    with Records(path) as store:
        store.remove([trial(), trial("fft", sizes=(12, 12)), trial("winograd:2")])
    assert sorted(read(path), key=repr) == sorted([other, trial("fft", sizes=(16, 16))], key=repr)


def test_half_a_transaction_is_none(path: Path) -> None:
    written(path, trial())
    with Records(path) as store, pytest.raises(LowprecError):
        store.add([trial("im2col"), replace(trial("fft"), algorithm=None)])  # type: ignore[arg-type]
    assert read(path) == [trial()]


def test_the_file_is_marked_as_ours_and_readers_do_not_wait(path: Path) -> None:
    written(path, trial())
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
        db.execute("BEGIN IMMEDIATE")
        assert read(path) == [trial()], "while another process writes"
        db.rollback()


def test_reading_a_file_that_is_not_there_makes_none(path: Path) -> None:
    with pytest.raises(UsageError, match="do not exist"):
        Records(path, must_exist=True)
    assert not path.exists()


def test_an_empty_file_becomes_one_of_ours(path: Path) -> None:
    path.touch()
    written(path, trial())
    assert read(path) == [trial()]


def a_foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE photographs (name TEXT)")
        db.execute("INSERT INTO photographs VALUES ('cat')")


def a_foreign_table_of_our_name(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE trials (of TEXT)")


def a_foreign_database_without_tables(path: Path) -> None:
    """Somebody else's mark, and nothing in it yet."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA application_id = 77")
        db.execute("PRAGMA user_version = 9")


def a_text(path: Path) -> None:
    path.write_text("these are my notes\n" * 200)


def a_short_text(path: Path) -> None:
    """Less than a page, which SQLite takes for an empty database."""
    path.write_text("my notes\n" * 20)


def one_character(path: Path) -> None:
    path.write_text("x")


def another_version(path: Path) -> None:
    written(path, trial())
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")


def cut_short(path: Path) -> None:
    written(path, *(trial(f"a{i}") for i in range(200)))
    os.truncate(path, path.stat().st_size // 2)


def half_overwritten(path: Path) -> None:
    written(path, *(trial(f"a{i}") for i in range(200)))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


def its_table_gone(path: Path) -> None:
    """Our mark, and another table."""
    written(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE trials")
        db.execute("CREATE TABLE photographs (name TEXT)")


def its_columns_others(path: Path) -> None:
    written(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE trials")
        db.execute("CREATE TABLE trials (name TEXT)")


REFUSED: list[tuple[Callable[[Path], None], int]] = [
    (a_foreign_database, 2),
    (a_foreign_table_of_our_name, 2),
    (a_foreign_database_without_tables, 2),
    (a_text, 2),
    (a_short_text, 2),
    (one_character, 2),
    (another_version, 7),
    (cut_short, 7),
    (half_overwritten, 7),
    (its_table_gone, 7),
    (its_columns_others, 7),
]


@pytest.mark.parametrize(("make", "code"), REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_what_is_no_file_of_ours_is_refused_and_left_as_it_was(
    make: Callable[[Path], None], code: int, path: Path
) -> None:
    make(path)
    before = path.read_bytes()
    for must_exist in (False, True):
        with pytest.raises(LowprecError) as caught, Records(path, must_exist=must_exist) as store:
            store.trials()
        assert caught.value.exit_code == code, caught.value
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
    with pytest.raises(LowprecError), Records(path) as store:
        store.add([trial()])
    assert path.read_bytes() == before


@pytest.mark.parametrize("must_exist", [True, False])
def test_places_that_are_no_file(tmp_path: Path, must_exist: bool) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "none" / "x.db", tmp_path / "file" / "x.db", tmp_path / "pipe"):
        with pytest.raises(UsageError) as caught:
            Records(place, must_exist=must_exist)
        assert "\n" not in str(caught.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "pipe"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_file_that_may_not_be_written_can_be_read(path: Path) -> None:
    written(path, trial())
    path.chmod(stat.S_IRUSR)
    assert read(path) == [trial()]
    with pytest.raises(LowprecError), Records(path) as store:
        store.add([trial("im2col")])


NONSENSE: dict[str, dict[str, object]] = {
    "negative": {"seconds": -1.0},
    "zero": {"seconds": 0.0},
    "infinite": {"seconds": float("inf")},
    "not a number": {"seconds": float("nan")},
    "huge": {"seconds": 1e300},
    "text": {"seconds": "soon"},
    "bytes": {"seconds": b"\0"},
    "none": {"seconds": None},
    "sizes are no JSON": {"sizes": "12x12"},
    "sizes are bytes": {"sizes": b"\xff\xfe"},
    "sizes are an object": {"sizes": "{}"},
    "sizes are texts": {"sizes": '["12"]'},
    "sizes are negative": {"sizes": "[-12, 12]"},
    "sizes are true": {"sizes": "[true]"},
    "sizes are huge": {"sizes": "[100000000000000000000]"},
    "sizes are deep": {"sizes": "[" * 5000},
    "sizes are one number too long": {"sizes": "[" + "9" * 5000 + "]"},
    "a status of no kind": {"status": "splendid"},
    "an algorithm in bytes": {"algorithm": b"\xff"},
    "details in bytes": {"detail": b"\xff"},
    "an error that is text": {"error": "small"},
}


@pytest.mark.parametrize("columns", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_has_no_time(columns: dict[str, object], path: Path) -> None:
    written(path, trial())
    put(path, **columns)
    (good, bad) = sorted(read(path), key=lambda each: each.algorithm != "direct")
    assert good == trial()
    assert bad.status != RIGHT
    assert bad.seconds is None
    with Records(path) as store:
        assert times_in(store, [conv()], HERE) == {conv(): {("direct", ()): 1e-3}}


def test_times_are_of_this_layer_and_environment_alone(path: Path) -> None:
    versions = HERE["versions"]
    others = [
        subject_of(conv(batch=2), HERE),
        subject_of(conv(), HERE, formats="int8"),
        subject_of(conv(), environment_of(TARGET, 3)),
        subject_of(conv(), environment_of(parse_target("x86-64"), 2)),
        subject_of(conv(), HERE | {"arch": "riscv64"}),
        *(subject_of(conv(), HERE | {"versions": versions | {name: "0"}}) for name in versions),
    ]
    assert len({SUBJECT, *others}) == len(others) + 1
    written(path, *(replace(trial(seconds=1e-9), subject=other) for other in others))
    with Records(path) as store:
        assert times_in(store, [conv(), line()], HERE) == {}
        store.add([trial(), trial("fft", 2e-3, sizes=(12, 12)), trial("im2col", status=WRONG)])
        assert times_in(store, [conv(), line()], HERE) == {conv(): {("direct", ()): 1e-3, ("fft", (12, 12)): 2e-3}}


def test_a_subject_is_the_same_text_each_time() -> None:
    assert subject_of(conv(), dict(reversed(HERE.items()))) == SUBJECT
    body = json.loads(SUBJECT)
    assert body["shape"]["kernel"] == [3, 3]
    assert body["features"] == sorted(body["features"])


WRITER = """
import sys
from pathlib import Path
from lowprec.records import Records, Trial
name, path = sys.argv[1:]
sys.stdin.readline()
for i in range(40):
    with Records(Path(path)) as store:
        store.add([Trial(subject=name, algorithm=str(i), sizes=(), status="right", seconds=1.0, error=0.0)])
"""


def test_processes_that_add_at_once_lose_nothing(path: Path) -> None:
    """From a file that is not there yet, which both would make."""
    pipe = subprocess.PIPE
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, name, str(path)], stdin=pipe, stderr=pipe, text=True)
        for name in "abc"
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said = [writer.communicate()[1] for writer in writers]
    assert said == [""] * len(writers)
    assert len(read(path)) == 40 * len(writers)


def test_damage_is_an_environments(path: Path) -> None:
    """The message says what to do."""
    half_overwritten(path)
    with pytest.raises(EnvironmentMismatch, match="move it away and tune anew"), Records(path) as store:
        store.trials()
