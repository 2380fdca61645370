"""Models of the form that Brevitas exports run on integers, and as in ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest

from lowprec.quantized_reference import evaluate
from tests.networks.drawing import session_of
from tests.qcdq import SHAPE, Bits, exported
from tests.tvm.test_quantized_networks import assert_equal, compiled

CHOICES = (
    Bits(),
    Bits(weights=4),
    Bits(activations=4, weights=4, per_channel=False),
    Bits(activations=4, stored=True),
)


@pytest.mark.parametrize("bits", CHOICES, ids=str)
def test_every_layer_multiplies_integers(bits: Bits, tmp_path: Path) -> None:
    artifact, graph = compiled(exported(bits), tmp_path, threads=2)
    layers = [choice for choice in artifact.manifest.plan.choices if choice.op in ("Conv", "Gemm")]
    assert len(layers) == 5
    assert all(choice.formats.integers for choice in layers)
    feeds = {"x": np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)}
    assert_equal(artifact, graph, feeds)
    (wanted,) = session_of(exported(bits)).run(None, feeds)
    (found,) = evaluate(graph, feeds).values()
    step = 3 / ((1 << bits.activations) - 1)
    off = np.abs(found.astype(np.float64) - wanted)
    assert off.max() <= step
    assert np.median(off) <= 1e-5
