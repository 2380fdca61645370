"""Every example runs, at toy size."""

from pathlib import Path

import onnx
import pytest

from examples import resnet50
from tests.cli.conftest import conv_relu_gemm


def test_resnet50(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(conv_relu_gemm(), tmp_path / "small.onnx")
    words = ["--model", str(tmp_path / "small.onnx"), "--output", str(tmp_path / "demo"), "--duration", "0.2"]
    assert resnet50.main(words) == 0
    said = capsys.readouterr().out
    assert "onnxruntime fp32" in said
    assert (tmp_path / "demo" / "report.html").is_file()
    assert (tmp_path / "demo" / "model.lowprec" / "manifest.json").is_file()
