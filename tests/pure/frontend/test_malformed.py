"""The malformed corpus through the real path, a child process each: refused in one line, in time, in memory.

Two run at a time, and other work may run beside them: what took longer than it may is tried again alone, and then the
child's processor time counts.
"""

import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lowprec import isolation
from lowprec.errors import LowprecError
from tests.corpus import all_cases
from tests.corpus.case import Case

SECONDS = 5.0
KIBIBYTES = 1_000_000
CASES = all_cases()
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Outcome:
    case: Case
    exit_code: int
    message: str
    seconds: float

    def complaint(self) -> str:
        """What is wrong with how the case ended; "" when nothing is."""
        wrong = []
        if self.exit_code != self.case.exit_code:
            wrong.append(f"exit {self.exit_code} instead of {self.case.exit_code}")
        if self.case.mentions not in self.message:
            wrong.append(f"{self.case.mentions!r} is not named")
        if not self.message.isprintable() or len(self.message) > 600 or "Traceback" in self.message:
            wrong.append("the message is not one short printable line")
        if self.seconds > SECONDS:
            wrong.append(f"it took {self.seconds:.1f} s")
        return f"{self.case}: {', '.join(wrong)}; message: {self.message[:300]}" if wrong else ""


def refuse(case: Case, folder: Path) -> Outcome:
    folder.mkdir(parents=True)
    path = case.write(folder)
    start = time.monotonic()
    try:
        isolation.run("inspect", {"model": str(path), "input_shapes": {}}, model_bytes=path.stat().st_size)
    except LowprecError as error:
        return Outcome(case, error.exit_code, str(error), time.monotonic() - start)
    return Outcome(case, 0, "accepted", time.monotonic() - start)


def again(outcome: Outcome, folder: Path) -> Outcome:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    repeated = refuse(outcome.case, folder / "again" / str(time.monotonic_ns()))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return replace(repeated, seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def test_the_corpus_is_large_and_varied() -> None:
    assert len(CASES) >= 220
    assert len({case.kind for case in CASES}) >= 45
    assert len({str(case) for case in CASES}) == len(CASES)


def test_every_malformed_model_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = (tmp_path / str(index) for index in range(len(CASES)))
        outcomes = list(pool.map(refuse, CASES, folders))
    outcomes = [again(outcome, tmp_path) if outcome.seconds > SECONDS else outcome for outcome in outcomes]
    complaints = [complaint for outcome in outcomes if (complaint := outcome.complaint())]
    assert not complaints, "\n".join(complaints)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= KIBIBYTES, "a child took more than 1 GB"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_changed_bytes_are_refused_or_accepted_but_never_a_crash(count: int) -> None:
    command = [sys.executable, "-m", "tests.corpus.flipping", "0", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(json.loads(done.stdout)) <= {0, 3, 4}
