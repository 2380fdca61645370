"""What the tensors of a model hold: it is compiled in float32 with these as its outputs, and run on samples."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowprec.artifact import load
from lowprec.calibration import Observer, default_samples, load_calibration
from lowprec.engines import load_sets
from lowprec.frontend.graph import Array, Graph
from lowprec.isolation import Notify
from lowprec.precision import BYTES
from lowprec.seen import Question, Seen
from lowprec.tensors import TensorSpec

Build = Callable[[Graph, Path], None]
"""Compile a graph for this machine, as an artifact in a directory."""

NUMBERED = "{:06}.npz"
"""The samples of an iterable, one file each, as `compile` hands them on."""


def silent(_line: str) -> None:
    """Tells nobody how far the work is."""


def observed(
    graph: Graph, question: Question, samples: Iterator[dict[str, Array]], build: Build, notify: Notify
) -> Seen:
    """The answer over all samples; where nothing is asked, none is run."""
    names = question.tensors
    if not names:
        return Seen()
    observer = Observer()
    inputs = {spec.name for spec in graph.inputs}
    watched = tuple(graph.types[name] for name in names if name not in inputs)
    with tempfile.TemporaryDirectory(prefix="lowprec-calibration-") as folder:
        run = _runner(replace(graph, outputs=watched), Path(folder) / "watched", build) if watched else None
        for number, sample in enumerate(samples, start=1):
            found = dict(sample) if run is None else {**sample, **run(sample)}
            for name in question.methods:
                observer.observe(name, found[name])
            for layer, (name, axis) in question.averages.items():
                observer.average(layer, found[name], axis)
            notify(f"calibration: {number} sample{'s' * (number > 1)} seen")
    return Seen(ranges=observer.ranges(question.methods, BYTES), means=observer.means())


def _runner(graph: Graph, directory: Path, build: Build) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    build(graph, directory)
    artifact = load(directory)
    return lambda sample: artifact(dict(sample))


def samples_of(request: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> Iterator[dict[str, Array]]:
    """The request's samples, or seeded ones."""
    given = request.get("calibration")
    if given is None:
        return default_samples(inputs, request["seed"])
    return load_calibration(_numbered(Path(given)) if os.path.isdir(given) else given, inputs)


def _numbered(folder: Path) -> Iterator[Any]:
    """The samples of a folder: an array has no name."""
    for path in sorted(folder.iterdir()):
        (sample,) = load_sets(path)
        yield sample[""] if list(sample) == [""] else sample
