"""An artifact's weights take the bytes that their format needs, and answer as they did before they were packed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from lowprec import lossless, pipeline, storage
from lowprec.artifact import load
from lowprec.compilation import Options
from lowprec.frontend import load_graph
from lowprec.manifest import WEIGHTS, Manifest
from lowprec.seen import Question, Seen
from tests.rounded import chain, random

PARAMETERS = {"wa": (32, 3, 3, 3), "wb": (64, 32, 3, 3), "wc": (64, 128), "bc": (128,)}
"""Channels are multiples of 32: what is measured is no filling of words and vectors."""

FLOATS = 4 * sum(int(np.prod(shape)) for shape in PARAMETERS.values())
ENDS = 4 * sum(int(np.prod(PARAMETERS[name])) for name in ("wa", "wc", "bc"))
REST = 24 * (32 + 64 + 128) + 1024
"""Three numbers of 8 bytes for each channel, where a kernel has them, and what starts at a multiple of 64."""

WANTED = {
    "int8": FLOATS // 4 + REST,
    "q2.8": FLOATS * 10 // 32 + REST,
    "q1.4": FLOATS * 5 // 32 + REST,
    "bf16": FLOATS // 2 + REST,
    "binary": (FLOATS - ENDS) // 32 + ENDS + REST,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "wa"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["ra"]),
        helper.make_node("Conv", ["ra", "wb"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "wc", "bc"], ["y"]),
    ]
    constants = {name: random(*shape, seed=i) * 0.2 for i, (name, shape) in enumerate(PARAMETERS.items())}
    path = tmp_path_factory.mktemp("small") / "network.onnx"
    onnx.save(chain(nodes, constants, [1, 3, 12, 12], "y"), path)
    return path


def observe(_graph: object, question: Question, *_: object) -> Seen:
    """Ranges that need no run."""
    return Seen(ranges=dict.fromkeys(question.methods, (-4.0, 4.0)))


@pytest.mark.parametrize("precision", WANTED)
def test_weights_take_what_their_format_needs(
    precision: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written twice from one build, packed and plain."""
    built: list[NDArray[Any]] = []

    def write_both(out: str, library: Path, weights: Sequence[NDArray[Any]], manifest: Manifest) -> None:
        built.extend(weights)
        write(out, library, weights, manifest)
        with monkeypatch.context() as plainly:
            plainly.setattr(lossless, "SMALL", 1 << 60)  # every array counts as small
            write(tmp_path / "plain", library, weights, manifest)

    write = storage.write
    monkeypatch.setattr(storage, "write", write_both)
    monkeypatch.setattr(pipeline, "_observe", observe)
    asked = Options(precision=precision, algorithm="direct", threads=1).to_json()
    inner = {"out": str(tmp_path / "packed"), "probe": False, "command": "", "model": str(model)}
    pipeline.compile_task(asked | inner, load_graph(model))

    packed, plain = load(tmp_path / "packed"), load(tmp_path / "plain")
    assert packed.manifest.files[WEIGHTS].bytes <= WANTED[precision]
    assert {spec.packing for spec in plain.manifest.weights} == {"plain"}
    for array, wanted in zip(storage.load_weights(packed.directory, packed.manifest), built, strict=True):
        assert (array.dtype, array.shape, array.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())
    x = random(1, 3, 12, 12, seed=9)
    assert packed(x).tobytes() == plain(x).tobytes()
