"""What has passed is remembered, for these sources alone."""

from pathlib import Path

import pytest

from tests.tvm.sweep import progress


def test_a_share_is_remembered_for_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(progress, "FILE", tmp_path / "build" / "sweep.txt")
    assert not progress.has_passed(3, "one")
    progress.remember(3, "one")
    progress.remember(14, "one")
    assert progress.has_passed(3, "one")
    assert progress.has_passed(14, "one")
    assert not progress.has_passed(4, "one")
    assert not progress.has_passed(3, "another")


def test_a_change_of_any_source_is_another_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = progress.digest()
    assert before == progress.digest()
    (tmp_path / "kernel.py").write_text("")
    monkeypatch.setattr(progress, "FOLDERS", (*progress.FOLDERS, tmp_path))
    after = progress.digest()
    (tmp_path / "kernel.py").write_text("1")
    assert len({before, after, progress.digest()}) == 3
