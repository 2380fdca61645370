"""The benchmark of rounding, at toy size: ours are right, and ratios are of the same turns."""

import json
from pathlib import Path

import pytest

from benchmarks import command, rounding


def test_it_measures_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(rounding, "_qpytorch", lambda *_: [])  # which compiles itself for half a minute
    assert rounding.main(["--count", "5003", "--rounds", "3", "--json", str(tmp_path / "here.json")]) == 0
    document = json.loads((tmp_path / "rounding-q2.14-1t.json").read_text())
    assert document == json.loads((tmp_path / "here.json").read_text())
    names = [(row["engine"], row["rounding"]) for row in document["rows"]]
    ours = [(engine, way) for way in ("stochastic", "nearest-even") for engine in ("kernel", "torch twin")]
    assert names == [("copy", ""), *ours]
    assert document["rows"][0]["speed_over"] == {"copy": 1.0}
    assert "of a copy" in capsys.readouterr().out


def test_a_wrong_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(rounding, "_qpytorch", lambda *_: [])
    monkeypatch.setattr(rounding, "_right", lambda engine, *_: engine.name != "kernel")
    assert rounding.main(["--count", "1000", "--rounds", "1"]) == 1
    assert "wrong: kernel differs from the oracle" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--threads", "--count", "--rounds"])
def test_refusals(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rounding.main([option, "0"]) == 2
    assert f"{option} is 0: give a whole number above 0" in capsys.readouterr().err
