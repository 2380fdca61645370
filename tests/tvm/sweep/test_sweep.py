"""Every fp32 kernel at every shape: 3,000 layers as the passes make them, against float64, at 1, 2 and 3 threads.

    make test         a sample of them
    make test-slow    all the others, in shares; one that has passed is not run again until a source changes

A failure names its layers, each of which `check(layer_of(number))` runs again alone, and shows the simplest like it.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.tvm.sweep import progress
from tests.tvm.sweep.drawing import layers
from tests.tvm.sweep.layer import Layer
from tests.tvm.sweep.running import problems

QUICK, SHARES, SIZE = 1, 77, 40
# Hypothesis begins with its simplest example, whatever the seed. The second is drawn freely; later ones vary it.
SECOND = settings(
    max_examples=2,
    phases=(Phase.generate, Phase.shrink),
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("share", range(QUICK))
def test_a_sample_of_layers(share: int, tmp_path: Path) -> None:
    sweep(share, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(QUICK, SHARES))
def test_layers(share: int, tmp_path: Path) -> None:
    sources = progress.digest()
    if progress.has_passed(share, sources):
        pytest.skip("has passed with these sources")
    sweep(share, tmp_path)
    progress.remember(share, sources)


def sweep(share: int, folder: Path) -> None:
    """Run a share's layers from one library; Hypothesis then looks for a simpler one than the first that fails."""
    drawn = {layer_of(number): number for number in range(share * SIZE, (share + 1) * SIZE)}
    failed = problems(list(drawn), folder)
    if failed:
        report = "\n".join(f"layer_of({drawn[layer]}): {problem}\n    {layer!r}" for layer, problem in failed.items())
        print(report)
        draw(drawn[next(iter(failed))], check)
        pytest.fail(f"wrong in one library, right alone:\n{report}")


def layer_of(number: int) -> Layer:
    """The layer of that number, the same each time."""
    drawn: list[Layer] = []
    draw(number, drawn.append)
    return drawn[1]


def draw(number: int, use: Callable[[Layer], None]) -> None:
    """Hypothesis's simplest layer and the one of that number, used; simpler and simpler ones where that raises."""

    @seed(number)
    @SECOND
    @given(st.integers(), layers())
    def example(_: int, layer: Layer) -> None:  # the second example's first draw is never the simplest
        use(layer)

    example()


def check(layer: Layer) -> None:
    """One layer, in a library of its own."""
    with TemporaryDirectory() as folder:
        found = problems([layer], Path(folder))
    assert not found, found[layer]


def test_a_number_is_one_layer() -> None:
    assert layer_of(7) == layer_of(7) != layer_of(8)
