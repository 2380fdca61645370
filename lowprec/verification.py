"""Is the artifact right? Its answers against ONNX Runtime's and the reference evaluator's, per output and per layer.

    report = verify(art, "model.onnx")
    report.passed, report.first_bad, report.smallest_bound

Layers are compared on a probe build: the same options compiled once more, with the inner tensors as further outputs.
An output passes when it is within its bound of ONNX Runtime's, and of the evaluator's unless those two disagree between
themselves by more than the bound.
"""

import concurrent.futures
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowprec import isolation, references
from lowprec.arguments import bind
from lowprec.artifact import Artifact, load
from lowprec.comparison import Errors, compare
from lowprec.compilation import model_file
from lowprec.errors import LowprecError, UsageError
from lowprec.references import EVALUATOR, ONNXRUNTIME, ReferenceFailed
from lowprec.samples import sample_inputs

Array = NDArray[np.generic]

EVALUATOR_SECONDS = 20.0  # the evaluator is for small models: pooling in it takes 20 us an element


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What is still right: `relative` errors at most `limit`, or `sqnr_db` at least `limit`."""

    measure: str
    limit: float

    def holds(self, errors: Errors) -> bool:
        if self.measure == "relative":
            return errors.relative <= self.limit
        return errors.sqnr_db >= self.limit

    def smallest(self, all_errors: Sequence[Errors]) -> float:
        """The tightest limit that all of these would pass."""
        if self.measure == "relative":
            return max((errors.relative for errors in all_errors), default=0.0)
        return min((errors.sqnr_db for errors in all_errors), default=math.inf)

    def __str__(self) -> str:
        return f"relative error <= {self.limit:g}" if self.measure == "relative" else f"SQNR >= {self.limit:g} dB"


BOUNDS = {
    "fp32": Bound(measure="relative", limit=1e-4),
    "fp16": Bound(measure="sqnr_db", limit=45.0),
    "bf16": Bound(measure="sqnr_db", limit=30.0),
    "int8": Bound(measure="sqnr_db", limit=15.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorErrors:
    """One tensor's distance from its reference; for a layer, `name` is the layer's and `tensor` what was compared."""

    name: str
    tensor: str
    errors: Errors
    passed: bool

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "tensor": self.tensor, "passed": self.passed} | self.errors.to_json()


class Inner(NamedTuple):
    """A tensor inside the artifact: the layer it belongs to, its ONNX name, its value."""

    layer: str
    tensor: str
    value: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`outputs` and `layers` are against `reference`, `second_outputs` against `second`; `notes`: what was left out."""

    passed: bool
    bound: Bound
    smallest_bound: float
    reference: str
    outputs: tuple[TensorErrors, ...]
    layers: tuple[TensorErrors, ...]
    first_bad: str | None
    second: str | None = None
    second_outputs: tuple[TensorErrors, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {
            "passed": self.passed,
            "bound": {"measure": self.bound.measure, "limit": self.bound.limit},
            "smallest_bound": self.smallest_bound if math.isfinite(self.smallest_bound) else None,
            "reference": self.reference,
            "outputs": [entry.to_json() for entry in self.outputs],
            "layers": [entry.to_json() for entry in self.layers],
            "first_bad": self.first_bad,
            "second": {"reference": self.second, "outputs": [entry.to_json() for entry in self.second_outputs]},
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        lines = [f"{verdict}: {self.bound}; the smallest bound that passes is {self.smallest_bound:.3g}"]
        worst = sorted(self.layers, key=lambda entry: entry.errors.sqnr_db)[:5]
        groups = [
            (f"output, against {self.reference}", self.outputs),
            (f"output, against {self.second}", self.second_outputs),
            (f"inside, the worst {len(worst)} of {len(self.layers)}", worst),
        ]
        lines += _tables([(title, entries) for title, entries in groups if entries])
        if self.layers:
            lines.append(f"first layer that goes bad: {self.first_bad or 'none'}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def verify(
    art: Artifact | str | os.PathLike[str],
    model: Any,
    *,
    inputs: Mapping[str, Array] | Sequence[Array] | None = None,
    seed: int = 0,
    min_sqnr: float | None = None,
) -> Report:
    """Hold an artifact against the model it was compiled from, on seeded inputs or the given ones."""
    artifact = art if isinstance(art, Artifact) else load(art)
    given = _inputs(artifact, inputs, seed)
    bound = _bound(artifact, min_sqnr)
    notes: list[str] = []
    with model_file(model) as path, concurrent.futures.ThreadPoolExecutor(1) as background:
        evaluated = background.submit(references.answers, EVALUATOR, path, given, seconds=EVALUATOR_SECONDS)
        probes = _probe(artifact, path, given, notes)
        trusted, reference = _main_reference(path, given, [probe.tensor for probe in probes], evaluated, notes)
        second = None if reference == EVALUATOR else _second_reference(evaluated, notes)
    outputs = artifact(given)
    against_first = _compare(outputs, trusted, bound)
    against_second = _compare(outputs, second, bound) if second else ()
    layers = tuple(
        _entry(probe.layer, probe.tensor, trusted[probe.tensor], probe.value, bound)
        for probe in probes
        if probe.tensor in trusted  # what the front end made of a folded node, the reference does not show
    )
    judged = [*against_first, *(_undisputed(against_second, second, trusted, bound, notes) if second else ())]
    return Report(
        passed=all(entry.passed for entry in judged),
        bound=bound,
        smallest_bound=bound.smallest([entry.errors for entry in judged]),
        reference=reference,
        outputs=against_first,
        layers=layers,
        first_bad=next((entry.name for entry in layers if not entry.passed), None),
        second=EVALUATOR if second else None,
        second_outputs=against_second,
        notes=tuple(notes),
    )


def _inputs(artifact: Artifact, inputs: Mapping[str, Array] | Sequence[Array] | None, seed: int) -> dict[str, Array]:
    if inputs is None:
        return sample_inputs(artifact.inputs, seed)
    arrays = bind(artifact.inputs, (inputs,) if isinstance(inputs, Mapping) else tuple(inputs))
    return dict(zip([spec.name for spec in artifact.inputs], arrays, strict=True))


def _bound(artifact: Artifact, min_sqnr: float | None) -> Bound:
    if min_sqnr is not None:
        if not math.isfinite(min_sqnr):
            raise UsageError(f"min_sqnr is {min_sqnr}: give a number of decibels")
        return Bound(measure="sqnr_db", limit=float(min_sqnr))
    return BOUNDS[str(artifact.manifest.options.get("precision", "fp32"))]


def _probe(artifact: Artifact, model: Path, inputs: Mapping[str, Array], notes: list[str]) -> tuple[Inner, ...]:
    """The inner tensors of a build of the same options that shows them; none when it cannot be built."""
    with tempfile.TemporaryDirectory(prefix="lowprec-probe-") as folder:
        directory = Path(folder) / "probe"
        request = artifact.manifest.options | {
            "model": str(model.absolute()),
            "out": str(directory),
            "probe": True,
            "command": artifact.manifest.command,
        }
        try:
            isolation.run("compile", request, model_bytes=model.stat().st_size)
        except LowprecError as problem:
            notes.append(f"layers are not compared: the probe build failed ({problem})")
            return ()
        probe = load(directory, artifact.threads)
        _, tensors = probe.run_probes(inputs)
        if probe.manifest.model.sha256 != artifact.manifest.model.sha256:
            notes.append("the model given is not the file that the artifact was compiled from")
        return tuple(Inner(spec.layer, spec.tensor, tensors[spec.tensor]) for spec in probe.manifest.probes)


def _main_reference(
    model: Path,
    inputs: Mapping[str, Array],
    inner: Sequence[str],
    evaluated: "concurrent.futures.Future[dict[str, Array]]",
    notes: list[str],
) -> tuple[dict[str, Array], str]:
    """ONNX Runtime's values; the evaluator's where ONNX Runtime cannot run the model."""
    try:
        return references.answers(ONNXRUNTIME, model, inputs, inner=inner), ONNXRUNTIME
    except ReferenceFailed as problem:
        notes.append(f"{ONNXRUNTIME} gave no answer: {problem}")
    try:
        return evaluated.result(), EVALUATOR
    except ReferenceFailed as problem:
        raise UsageError(f"nothing to compare with: {'; '.join(notes)}; {EVALUATOR}: {problem}") from None


def _second_reference(
    evaluated: "concurrent.futures.Future[dict[str, Array]]", notes: list[str]
) -> dict[str, Array] | None:
    try:
        return evaluated.result()
    except ReferenceFailed as problem:
        notes.append(f"{EVALUATOR} left out: {problem}")
        return None


def _compare(found: Mapping[str, Array], wanted: Mapping[str, Array], bound: Bound) -> tuple[TensorErrors, ...]:
    return tuple(_entry(name, name, wanted[name], array, bound) for name, array in found.items() if name in wanted)


def _entry(name: str, tensor: str, wanted: Array, found: Array, bound: Bound) -> TensorErrors:
    errors = compare(wanted, found)
    return TensorErrors(name=name, tensor=tensor, errors=errors, passed=bound.holds(errors))


def _undisputed(
    entries: Sequence[TensorErrors],
    second: Mapping[str, Array],
    first: Mapping[str, Array],
    bound: Bound,
    notes: list[str],
) -> list[TensorErrors]:
    """The entries against the second reference that count: those on which both references agree."""
    agreed = []
    for entry in entries:
        if bound.holds(compare(first[entry.tensor], second[entry.tensor])):
            agreed.append(entry)
        else:
            notes.append(f"{ONNXRUNTIME} and {EVALUATOR} disagree on {entry.tensor}: only the first counts")
    return agreed


def _tables(groups: Sequence[tuple[str, Sequence[TensorErrors]]]) -> list[str]:
    """Groups under one another, their columns in line."""
    width = max(len(text) for title, entries in groups for text in (title, *(entry.name for entry in entries)))
    lines = []
    for title, entries in groups:
        lines.append(f"{title:<{width}}{'max abs':>11}{'relative':>11}{'cosine':>11}{'SQNR dB':>9}")
        lines += [_line(entry, width) for entry in entries]
    return lines


def _line(entry: TensorErrors, width: int) -> str:
    errors = entry.errors
    numbers = f"{errors.max_abs:>11.2e}{errors.relative:>11.2e}{errors.cosine:>11.7f}{errors.sqnr_db:>9.1f}"
    return f"{entry.name:<{width}}{numbers}{'' if entry.passed else '  outside the bound'}"
