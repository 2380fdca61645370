"""`lowprec.compile`'s arguments: what cannot be is refused before any work starts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowprec
from lowprec import compilation
from lowprec.compilation import Options, model_file
from lowprec.errors import LowprecError, Unsupported, UsageError
from lowprec.recipe import Recipe, Rule


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ({"precision": "bf61"}, UsageError, "unknown precision 'bf61'"),
        ({"precision": 8}, UsageError, "precision is given as int: give a name"),
        ({"rounding": "stochastic"}, UsageError, "rounding 'stochastic' is for formats that round"),
        ({"rounding": "up"}, UsageError, "unknown rounding 'up'"),
        ({"algorithm": "strassen"}, Unsupported, "algorithm 'strassen' is not built yet"),
        ({"target": "cuda:sm_80"}, Unsupported, "target 'cuda:sm_80' is not built yet"),
        ({"target": None}, UsageError, "target is given as NoneType"),
        ({"recipe": 3}, UsageError, "recipe is a int: give a lowprec.Recipe"),
        ({"recipe": "none.toml"}, UsageError, "recipe 'none.toml' does not exist"),
        ({"threads": 0}, UsageError, "threads is 0: give a whole number from 1 to 1024"),
        ({"threads": True}, UsageError, "threads is True"),
        ({"threads": 2.0}, UsageError, "threads is 2.0"),
        ({"seed": -1}, UsageError, "seed is -1"),
        ({"seed": 2**64}, UsageError, "seed is 18446744073709551616"),
        ({"input_shapes": {"x": (1, 0)}}, UsageError, "an extent of input 'x' is 0"),
        ({"input_shapes": {"x": 5}}, UsageError, "the shape of input 'x' is 5: give a tuple"),
        ({"input_shapes": [("x", (1,))]}, UsageError, "input_shapes is a list: give a dict"),
        ({"records": "tuned.db"}, UsageError, "records 'tuned.db' does not exist"),
        ({"records": 3}, UsageError, "records is a int: give the path of a file"),
        ({"min_sqnr": 30.0}, UsageError, "min_sqnr is for precision 'auto'"),
        ({"max_ms": 3.0}, UsageError, "max_ms is for precision 'auto'"),
    ],
)
def test_refusals(arguments: dict[str, Any], kind: type[LowprecError], said: str) -> None:
    with pytest.raises(kind) as refused:
        lowprec.compile("model.onnx", **arguments)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("precision", "calibration", "said"),
    [
        ("fp32", [np.zeros(3)], "calibration is for int8 and qI.F; fp32 has no ranges: leave it out"),
        ("int8", "none.npz", "calibration 'none.npz' does not exist: give the path of a file"),
        ("int8", 3, "calibration is a int: give the path of an .npz, or an iterable of arrays or dicts"),
        ("int8", [np.zeros(3), "text", object()], "calibration sample 2 is a object: give an array"),
    ],
)
def test_calibrations_that_are_none(tmp_path: Path, precision: str, calibration: Any, said: str) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(UsageError) as refused:
        lowprec.compile(tmp_path / "m.onnx", precision=precision, calibration=calibration)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("model", "said"), [("none.onnx", "'none.onnx' does not exist"), ("/", "is not a file"), (7, "model is a int")]
)
def test_models_that_are_none(model: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        lowprec.compile(model)


class Proto:
    """Stands for `onnx.ModelProto`, which is known by its method alone, so that onnx need not be imported."""

    def SerializeToString(self) -> bytes:
        return b"proto"


@pytest.mark.parametrize(
    ("model", "content"), [(b"bytes", b"bytes"), (bytearray(b"more"), b"more"), (Proto(), b"proto")]
)
def test_models_in_memory_become_files_for_a_while(model: Any, content: bytes) -> None:
    with model_file(model) as path:
        assert path.read_bytes() == content
    assert not path.exists()


def test_the_request_carries_every_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def run(task: str, request: dict[str, Any], *, model_bytes: int, **_: object) -> dict[str, Any]:
        seen.update(request, task=task, model_bytes=model_bytes)
        return {}

    monkeypatch.setattr("lowprec.isolation.run", run)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"12345")
    recipe = Recipe(rules=(Rule(op="Conv", algorithm="direct"),))
    numbers: dict[str, Any] = {"threads": np.int64(3), "input_shapes": {"x": (1, np.int32(2))}}
    options = Options(recipe=recipe, seed=5, **numbers)
    compilation.compile_to("out", path, options, command="lowprec compile m.onnx", probe=True)
    assert seen == {
        "task": "compile",
        "model": str(path),
        "model_bytes": 5,
        "out": str(Path.cwd() / "out"),
        "probe": True,
        "command": "lowprec compile m.onnx",
        "precision": "fp32",
        "rounding": "nearest",
        "min_sqnr": None,
        "max_ms": None,
        "algorithm": "auto",
        "recipe": [{"op": "Conv", "algorithm": "direct"}],
        "target": "native",
        "threads": 3,
        "seed": 5,
        "input_shapes": {"x": [1, 2]},
        "records": None,
        "calibration": None,
    }


def test_a_failed_compile_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(LowprecError):
        lowprec.compile(b"this is no model")
    assert list(tmp_path.iterdir()) == []
