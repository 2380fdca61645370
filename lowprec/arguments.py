"""What a call passes against what the model takes: names, ranks, shapes and dtypes must match; nothing is cast."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import Unsupported, UsageError
from lowprec.manifest import GuardSpec, dtype_of
from lowprec.tensors import TensorSpec
from lowprec.vocabulary import suggestion

Array = NDArray[np.generic]


def bind(specs: Sequence[TensorSpec], args: Sequence[Any]) -> list[Array]:
    """The arrays in the model's order, from arrays in order or one mapping by name; UsageError otherwise."""
    if len(args) == 1 and isinstance(args[0], Mapping):
        arrays = _by_name(specs, args[0])
    elif len(args) == len(specs):
        arrays = list(args)
    else:
        raise UsageError(f"{len(args)} arrays were given: the model takes {len(specs)}, {_names(specs)}")
    for spec, array in zip(specs, arrays, strict=True):
        check_array(spec, array)
    return [np.asarray(array) for array in arrays]


def check_array(spec: TensorSpec, array: object) -> None:
    """The array is a NumPy array of the spec's shape and dtype; UsageError otherwise."""
    wanted = f"{spec.dtype}{list(spec.shape)}"
    if not isinstance(array, (np.ndarray, np.generic)):
        raise UsageError(f"input {spec.name!r} is a {type(array).__name__}: pass a NumPy array {wanted}")
    if array.dtype != dtype_of(spec.dtype):
        raise UsageError(
            f"input {spec.name!r} is {array.dtype}{list(array.shape)}: the model takes {wanted},"
            " and nothing is cast silently"
        )
    if array.shape != spec.shape:
        raise UsageError(f"input {spec.name!r} has shape {list(array.shape)}: the model takes {list(spec.shape)}")


def _by_name(specs: Sequence[TensorSpec], given: Mapping[str, Array]) -> list[Array]:
    known = [spec.name for spec in specs]
    for name in given:
        if name not in known:
            raise UsageError(f"the model has no input {name!r}{suggestion(str(name), known)}: it takes {_names(specs)}")
    for name in known:
        if name not in given:
            raise UsageError(f"input {name!r} is missing: the model takes {_names(specs)}")
    return [given[name] for name in known]


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs) or "none"


def check_guards(guards: Sequence[GuardSpec], inputs: Mapping[str, Array]) -> None:
    """Refuse a run whose answer would not be the model's."""
    for guard in guards:
        drops = not guard.ratio or bool(np.any(inputs[guard.ratio]))
        if drops and bool(np.any(inputs[guard.training])):
            raise Unsupported(
                f"Dropout node {guard.layer!r}: input {guard.training!r} asks for training, and only inference is "
                f"supported: give False"
            )
