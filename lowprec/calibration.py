"""Calibration: samples that a model is run on, and the ranges of its tensors seen on the way.

A sample is an array for each input, without the model's batch axis or with one of any length; a model of batch b takes
b of them in each run, the last of which repeats its samples to be full. A model whose inputs have no first axis in
common is run on samples of exactly its shapes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowprec.errors import UsageError, shown
from lowprec.formats import Int
from lowprec.histograms import Histogram
from lowprec.manifest import dtype_of
from lowprec.ranges import Method, Range, find_range
from lowprec.sample_files import read_samples
from lowprec.samples import sample_inputs
from lowprec.seen import Means, rounded_means
from lowprec.tensors import TensorSpec
from lowprec.vocabulary import suggestion

Array = NDArray[np.generic]
Source = str | PathLike[str] | Iterable[object]

COUNT = 32
"""Samples of a model nobody gave any."""


def load_calibration(source: Source, inputs: Sequence[TensorSpec]) -> Iterator[dict[str, Array]]:
    """What each run of the model takes: from the path of an `.npz`, or an iterable of arrays or dicts.

    No more than one sample is held, and those of one run.
    """
    if isinstance(source, str | PathLike):
        return _runs(read_samples(Path(source), [spec.name for spec in inputs]), inputs)
    if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise UsageError(
            f"calibration is a {type(source).__name__}: give the path of an .npz, or an iterable of arrays or dicts"
        )
    return _runs(source, inputs)


def default_samples(inputs: Sequence[TensorSpec], seed: int, count: int = COUNT) -> Iterator[dict[str, Array]]:
    """Seeded N(0, 1) samples, each a run."""
    return (sample_inputs(inputs, seed, index) for index in range(count))


class Observer:
    """What was seen of each tensor, and of layers' inputs on average."""

    __slots__ = ("_seen", "_sums")

    def __init__(self) -> None:
        self._seen: dict[str, Histogram] = {}
        self._sums: dict[str, tuple[int, NDArray[np.float64]]] = {}

    def observe(self, name: str, values: ArrayLike) -> None:
        """Values of a tensor in another run."""
        try:
            self._seen.setdefault(name, Histogram()).add(values)
        except UsageError as error:
            raise UsageError(f"tensor {name!r}: {error}") from None

    def average(self, layer: str, values: ArrayLike, axis: int) -> None:
        """Another run's input of a layer, whose sums go over that axis."""
        found = np.asarray(values, np.float32)
        others = tuple(index for index in range(found.ndim) if index != axis)
        count, sums = self._sums.get(layer, (0, np.zeros(found.shape[axis])))
        own = found.size // max(1, found.shape[axis])
        self._sums[layer] = count + own, sums + found.sum(axis=others, dtype=np.float64)

    def ranges(self, methods: Mapping[str, Method], fmt: Int) -> dict[str, Range]:
        """The range of each tensor that integers of a format should cover; a tensor without elements has none."""
        return {
            name: find_range(self._seen[name], method, fmt) if self._seen[name].count else (0.0, 0.0)
            for name, method in methods.items()
        }

    def means(self) -> dict[str, Means]:
        """Of each layer's input, by channel."""
        return {layer: rounded_means(sums / max(1, count)) for layer, (count, sums) in self._sums.items()}


def _runs(samples: Iterable[object], specs: Sequence[TensorSpec]) -> Iterator[dict[str, Array]]:
    batch = _batch(specs)
    waiting: list[dict[str, Array]] = []
    number = -1
    for number, sample in enumerate(samples):
        arrays = _checked(number, _named(number, sample, specs), specs, batch)
        if batch is None:
            yield {name: array.copy() for name, array in arrays.items()}
            continue
        for row in range(_length(number, arrays)):
            waiting.append({name: array[row].copy() for name, array in arrays.items()})
            if len(waiting) == batch:
                yield _stacked(waiting, batch)
                waiting.clear()
    if number < 0:
        raise UsageError("calibration holds no samples: give at least one")
    if waiting and batch is not None:
        yield _stacked(waiting, batch)


def _batch(specs: Sequence[TensorSpec]) -> int | None:
    """The length of the inputs' first axis, if they have one in common; a vector's axis counts no samples."""
    lengths = {spec.shape[0] if len(spec.shape) > 1 else None for spec in specs}
    return lengths.pop() if len(lengths) == 1 else None


def _stacked(rows: Sequence[dict[str, Array]], batch: int) -> dict[str, Array]:
    """A full batch: what is missing is repeated."""
    full = [rows[index % len(rows)] for index in range(batch)]
    return {name: np.stack([row[name] for row in full]) for name in rows[0]}


def _named(number: int, sample: object, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The sample's arrays, in the model's order."""
    known = [spec.name for spec in specs]
    takes = f"the model takes {', '.join(known) or 'none'}"
    if isinstance(sample, np.ndarray | np.generic) and len(specs) == 1:
        return {known[0]: np.asarray(sample)}
    if not isinstance(sample, Mapping):
        allowed = "an array" if len(specs) == 1 else "a dict of arrays by input name"
        raise UsageError(f"calibration sample {number} is a {type(sample).__name__}: give {allowed}; {takes}")
    for name in sample:
        if name not in known:
            hint = suggestion(str(name), known)
            raise UsageError(f"calibration sample {number}: the model has no input {shown(name)}{hint}: {takes}")
    for name in known:
        if name not in sample:
            raise UsageError(f"calibration sample {number}: input {name!r} is missing: {takes}")
    return {name: _array(number, name, sample[name]) for name in known}


def _array(number: int, name: str, value: object) -> Array:
    if not isinstance(value, np.ndarray | np.generic):
        raise UsageError(f"{_place(number, name)} is a {type(value).__name__}: give a NumPy array")
    return np.asarray(value)


def _checked(
    number: int, arrays: Mapping[str, Array], specs: Sequence[TensorSpec], batch: int | None
) -> dict[str, Array]:
    """The arrays in the model's dtypes, with a batch axis of any length if the model has one."""
    return {
        spec.name: _typed(number, spec, _shaped(number, spec, arrays[spec.name], batch is not None)) for spec in specs
    }


def _shaped(number: int, spec: TensorSpec, array: Array, batched: bool) -> Array:
    if not batched:
        if array.shape != spec.shape:
            raise UsageError(f"{_place(number, spec.name)} has shape {list(array.shape)}: give {list(spec.shape)}")
        return array
    row = spec.shape[1:]
    whole = array[np.newaxis] if array.ndim == len(row) else array
    if whole.shape[1:] != row or whole.ndim != len(spec.shape) or not len(whole):
        raise UsageError(
            f"{_place(number, spec.name)} has shape {list(array.shape)}: give {list(row)}, or several of them as "
            f"[n, {', '.join(map(str, row))}]"
        )
    return whole


def _typed(number: int, spec: TensorSpec, array: Array) -> Array:
    """As the model's dtype, from any width of the same kind of number; NumPy's files know bfloat16 as raw bytes."""
    place, wanted = _place(number, spec.name), dtype_of(spec.dtype)
    if array.dtype.type is np.void and wanted.kind == "V" and array.dtype.itemsize == wanted.itemsize:
        array = array.view(wanted)
    if array.dtype.type is np.void or _kind(array.dtype) != _kind(wanted):
        raise UsageError(f"{place} is {array.dtype}: the model takes {spec.dtype}, convert it first")
    with np.errstate(over="ignore", under="ignore"):
        cast = array.astype(wanted)
    if _kind(wanted) == "f" and not np.isfinite(cast.astype(np.float64)).all():
        raise UsageError(f"{place} holds NaN, infinity or what {spec.dtype} does not reach: give finite values")
    if _kind(wanted) != "f" and not np.array_equal(cast, array):
        raise UsageError(f"{place} holds numbers beyond {spec.dtype}, which the model takes: give smaller ones")
    return cast


def _kind(dtype: np.dtype[np.generic]) -> str:
    """Of number; the floats that are not NumPy's own call themselves V."""
    return "f" if dtype.kind == "V" else dtype.kind


def _length(number: int, arrays: Mapping[str, Array]) -> int:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} of {name!r}" for name, length in lengths.items())
        raise UsageError(f"calibration sample {number} holds {found}: give as many of each input")
    return next(iter(lengths.values()))


def _place(number: int, name: str) -> str:
    return f"calibration sample {number}, input {name!r}"
