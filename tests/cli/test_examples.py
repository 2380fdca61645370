"""Every example runs, at toy size."""

import json
import sys
from pathlib import Path

import onnx
import pytest

from examples import quantizers, resnet50
from tests.cli.conftest import conv_relu_gemm


def test_resnet50(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(conv_relu_gemm(), tmp_path / "small.onnx")
    words = ["--model", str(tmp_path / "small.onnx"), "--output", str(tmp_path / "demo"), "--duration", "0.2"]
    assert resnet50.main(words) == 0
    said = capsys.readouterr().out
    assert said.count("onnxruntime fp32") == 2
    assert said.count("onnxruntime int8") == said.count("lowprec int8") == 1
    assert "promised tensors are equal, bit for bit" in said
    for suffix in ("", "-int8"):
        assert (tmp_path / "demo" / f"report{suffix}.html").is_file()
        assert (tmp_path / "demo" / f"model{suffix}.lowprec" / "manifest.json").is_file()


def test_quantizers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--only", "lowprec", "--only", "ml_dtypes", "--json", str(tmp_path / "verdicts.json")]
    assert quantizers.main(words) == 0
    rows = json.loads((tmp_path / "verdicts.json").read_text())
    assert [row["passed"] for row in rows] == [True] * 6
    assert "ml_dtypes astype(float8_e5m2)      e5m2     nearest-even  ok" in capsys.readouterr().out


def test_a_library_that_is_missing_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim.quant_utils", None)
    assert quantizers.main(["--only", "torchao"]) == 0
    assert "torchao                            passed over: ModuleNotFoundError" in capsys.readouterr().out
