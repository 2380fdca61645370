"""The malformed corpus: every file refused as it must be, and no change of a sound file a crash."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpus import all_cases

CASES = all_cases()
ROOT = Path(__file__).parents[3]
SHARES = 4


def test_the_corpus_is_large_and_varied() -> None:
    assert len(CASES) >= 220
    assert len({case.kind for case in CASES}) >= 45
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("share", range(SHARES))
def test_every_malformed_model_is_refused(share: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.corpus.refusing", str(share), str(SHARES), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    complaints = json.loads(done.stdout)  # which no child has printed into
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_changed_bytes_are_refused_or_accepted_but_never_a_crash(count: int) -> None:
    command = [sys.executable, "-m", "tests.corpus.flipping", "0", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(json.loads(done.stdout)) <= {0, 2, 3, 4}  # 2: a size became unknown, and the user may give it
