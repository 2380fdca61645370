"""Where the small model and the records of it lie."""

from pathlib import Path

import pytest

from tests.tvm.tuning.network import MODEL


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "times.db"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(MODEL)
    return path
