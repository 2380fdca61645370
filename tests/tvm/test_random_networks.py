"""Random small networks, compiled in process for every x86-64 target and compared with ONNX Runtime.

A failure names its seed: `random_graph(seed)` draws the same network again.
"""

from pathlib import Path

import numpy as np
import pytest

from lowprec.artifact import Artifact, load
from lowprec.compilation import Options
from lowprec.frontend import load_graph
from lowprec.pipeline import compile_task
from tests.networks.drawing import Array, session_of
from tests.networks.random_graphs import random_graph

QUICK, ALL = 12, 400
BOUND = 1e-4  # of the output's largest magnitude: verify's default for fp32
CHOICES = [(target, threads) for target in ("native", "x86-64", "x86-64-v3") for threads in (1, 2, 3)]


def compiled(model: bytes, folder: Path, seed: int) -> Artifact:
    """The model with the target and threads of that seed's turn; every second one shows its inner tensors."""
    path = folder / "model.onnx"
    path.write_bytes(model)
    target, threads = CHOICES[seed % len(CHOICES)]
    options = Options(target=target, threads=threads).to_json()
    inner = {"out": str(folder / "artifact"), "probe": seed % 2 == 1, "command": "", "model": str(path)}
    compile_task(options | inner, load_graph(path))
    return load(folder / "artifact")


@pytest.mark.parametrize(
    "seed", [*range(QUICK), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(QUICK, ALL))]
)
def test_a_random_network_matches_onnxruntime(seed: int, tmp_path: Path) -> None:
    model, feeds = random_graph(seed)
    artifact = compiled(model.SerializeToString(), tmp_path, seed)
    session = session_of(model)
    names = [output.name for output in session.get_outputs()]
    for given in (feeds, mixed(feeds)):  # twice, so that an output left over from the first would show
        found, _ = artifact.run_probes(given)
        assert list(found) == names
        for name, expected in zip(names, session.run(None, given), strict=True):
            assert relative(expected, found[name]) <= BOUND, name


def mixed(feeds: dict[str, Array]) -> dict[str, Array]:
    """The same inputs with their elements in another order."""
    rng = np.random.default_rng(0)
    return {name: rng.permutation(array.ravel()).reshape(array.shape) for name, array in feeds.items()}


def relative(expected: Array, found: Array) -> float:
    """The largest difference over the largest magnitude; NaN and wrong shapes count as infinite."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    worst = np.abs(found.astype(np.float64) - expected).max()
    error = float(worst / max(np.abs(expected).max(), 1e-3))
    return error if np.isfinite(error) else float("inf")


def test_a_seed_draws_one_network() -> None:
    first, again = random_graph(3), random_graph(3)
    assert first[0].SerializeToString() == again[0].SerializeToString()
    assert all(np.array_equal(first[1][name], again[1][name]) for name in first[1])
