"""A few malformed models through the command line itself: the exit code, one line on stderr, nothing on stdout."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpus import PARTS
from tests.corpus.case import Case

SAMPLE = [list(part.cases())[7] for part in PARTS]


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_a_malformed_model_is_refused(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    for command in (["inspect", str(path)], ["compile", "-q", str(path), "-o", str(tmp_path / "out")]):
        done = subprocess.run([sys.executable, "-m", "lowprec", *command], capture_output=True, text=True, check=False)
        assert done.returncode == case.exit_code, done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert case.mentions in done.stderr
        assert not (tmp_path / "out").exists()
