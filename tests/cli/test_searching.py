"""`lowprec compile --precision auto`, and what cannot search."""

from pathlib import Path

import numpy as np
import onnx

from lowprec.errors import Unsupported
from tests.cli.conftest import Lowprec
from tests.tvm.test_mixed_formats import SAMPLES, images


def test_the_command_line(tmp_path: Path, lowprec: Lowprec) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(images(), model)
    np.savez(tmp_path / "s.npz", x=SAMPLES)
    words = ["--precision", "auto", "--min-sqnr", "25", "--calibration", tmp_path / "s.npz"]
    done = lowprec("compile", model, "-o", tmp_path / "art", *words, "--write-recipe", tmp_path / "r.toml")
    assert done.code == 0, done.err
    assert "chosen" in done.out
    assert (tmp_path / "r.toml").is_file()
    assert lowprec("verify", tmp_path / "art", "--model", model).code == 0
    refused = lowprec("plan", model, *words)
    assert refused.code == Unsupported.exit_code
    assert "compile with --write-recipe" in refused.err
