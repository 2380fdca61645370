"""End to end: every architecture of tests/networks, compiled and compared with ONNX Runtime.

Small sizes here; all batches of all, and full size as published, under the `slow` marker.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from _pytest.mark import ParameterSet
from numpy.typing import NDArray

import lowprec
from tests.networks import NETWORKS, Network

BATCHES = (1, 3, 8)
EVERY_BATCH = ("shufflenet_v2",)
ONE_IMAGE = ("yolo", "regnet_y")  # whose batches take long
BOUND = 1e-4  # of the output's largest magnitude: verify's default for fp32

Arrays = dict[str, NDArray[np.float32]]


def cases() -> Iterator[ParameterSet]:
    """All networks in all batches; a quick run takes one batch of each, in turn, and every batch of a few."""
    for position, network in enumerate(NETWORKS):
        for turn, batch in enumerate(BATCHES):
            taken = 0 if network.name in ONE_IMAGE else position % len(BATCHES)
            quick = turn == taken or network.name in EVERY_BATCH
            marks = () if quick else (pytest.mark.slow,)
            yield pytest.param(network, batch, id=f"{network.name}-{batch}", marks=marks)


@pytest.mark.parametrize(("network", "batch"), [*cases()])
def test_matches_onnxruntime(network: Network, batch: int) -> None:
    assert_same(network.model(network.small, batch=batch))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_matches_onnxruntime_at_full_size(network: Network) -> None:
    assert_same(network.model(network.full))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3", "resnext50", "shufflenet_v2", "convnext", "resnet_v2"])
def test_matches_onnxruntime_at_an_odd_size(name: str) -> None:
    """197 halves to 99, 50, 25, 13, 7: no tile divides them."""
    network = next(network for network in NETWORKS if network.name == name)
    assert_same(network.model(replace(network.full, image=197), batch=3))


def assert_same(model: onnx.ModelProto) -> None:
    """Two inputs, so that an output left over from the first would show."""
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    artifact = lowprec.compile(content, threads=2)
    for seed in range(2):
        feeds = sample(model, seed)
        expected = dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))
        found = artifact(feeds)
        assert isinstance(found, dict)
        assert list(found) == list(expected)
        for name, reference in expected.items():
            assert relative(reference, found[name]) <= BOUND, name


def sample(model: onnx.ModelProto, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def relative(reference: NDArray[np.float32], found: NDArray[np.generic]) -> float:
    """The largest difference over the largest magnitude; NaN and wrong shapes count as infinite."""
    assert found.shape == reference.shape
    assert found.dtype == reference.dtype
    error = float(np.abs(found.astype(np.float64) - reference).max() / np.abs(reference).max())
    return error if np.isfinite(error) else float("inf")
