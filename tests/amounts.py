"""How much a quick run takes: some of the cases, evenly; `make test-slow` takes the others."""

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def thinned(cases: Iterable[Any], step: int = 2, first: int = 0) -> list[ParameterSet]:
    """Every so manyth case for a quick run, beginning with the `first`; the others are slow."""
    return [
        pytest.param(case, marks=() if number % step == first else pytest.mark.slow)
        for number, case in enumerate(cases)
    ]
