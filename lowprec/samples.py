"""Seeded inputs for a model nobody gave any: the same seed and index give the same arrays everywhere."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lowprec.manifest import dtype_of
from lowprec.tensors import TensorSpec

Array = NDArray[np.generic]


def sample_inputs(specs: Sequence[TensorSpec], seed: int, index: int = 0) -> dict[str, Array]:
    """One array per input: N(0, 1) for floats, fair coins for bools, small numbers for integers."""
    return {
        spec.name: _sample(spec, np.random.default_rng([seed, index, position])) for position, spec in enumerate(specs)
    }


def _sample(spec: TensorSpec, generator: np.random.Generator) -> Array:
    """Integers of 8 bits are taken for pixels; wider ones may be indices, and 0 and 1 index almost anything."""
    dtype = dtype_of(spec.dtype)
    if dtype == np.bool_:
        return generator.integers(0, 2, spec.shape).astype(dtype)
    if dtype.kind in "iu":
        return generator.integers(0, 128 if dtype.itemsize == 1 else 2, spec.shape).astype(dtype)
    return np.asarray(generator.standard_normal(spec.shape)).astype(dtype)
