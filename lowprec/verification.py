"""Is the artifact right? Its answers against ONNX Runtime's and the reference evaluator's, per output and per layer.

    report = verify(art, "model.onnx")
    report.passed, report.first_bad, report.smallest_bound

Layers are compared on a probe build: the same options compiled once more, with the inner tensors as further outputs.
An output passes when it is within its bound of ONNX Runtime's, and of the evaluator's unless those two disagree between
themselves by more than the bound. An artifact that computes with integers must equal the oracle besides, in all that
the oracle promises.
"""

import concurrent.futures
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowprec import isolation, references
from lowprec.arguments import bind
from lowprec.artifact import Artifact, load
from lowprec.comparison import compare
from lowprec.compilation import model_file
from lowprec.errors import LowprecError, UsageError
from lowprec.exactness import Agreement, Oracle, ask_oracle, computes_integers
from lowprec.format_names import FLOAT, formats_in
from lowprec.recipe import Recipe
from lowprec.references import EVALUATOR, ONNXRUNTIME, ORACLE, ReferenceFailed
from lowprec.samples import sample_inputs
from lowprec.verdict import BOUNDS, ORACLE_ALONE, Bound, Report, TensorErrors

Array = NDArray[np.generic]

EVALUATOR_SECONDS = 20.0  # the evaluator is for small models: pooling in it takes 20 us an element


class Inner(NamedTuple):
    """A tensor inside the artifact: its layer, its ONNX name, its value, and how it agrees with the oracle."""

    layer: str
    tensor: str
    value: Array
    agreement: Agreement | None = None


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
        oracle = _oracle(artifact, path, given, [probe.tensor for probe in probes], notes)
        inside = [_translated(probe, oracle) for probe in probes] if oracle else probes
        trusted, reference = _main_reference(path, given, [probe.tensor for probe in inside], evaluated, notes)
        second = None if reference == EVALUATOR else _second_reference(evaluated, notes)
    outputs = artifact(given)
    against_first = _compare(outputs, trusted, bound, oracle)
    against_second = _compare(outputs, second, bound) if second else ()
    shown = given | trusted  # what the front end made of a folded node, the reference does not show
    layers = tuple(
        _entry(probe.layer, probe.tensor, shown[probe.tensor], probe.value, bound, probe.agreement)
        for probe in inside
        if probe.tensor in shown
    )
    agreements = _agreements(inside, outputs, oracle)
    bad = {entry.name for entry in layers if not entry.passed}
    bad |= {layer for layer, agreement in agreements if not agreement.passed}
    judged = [*against_first, *(_undisputed(against_second, second, trusted, bound, notes) if second else ())]
    return Report(
        passed=all(entry.passed for entry in judged) and _is_proved(artifact, agreements),
        bound=bound,
        smallest_bound=bound.smallest([entry.errors for entry in judged]),
        reference=reference,
        outputs=against_first,
        layers=layers,
        first_bad=next((probe.layer for probe in inside if probe.layer in bad), None),
        second=EVALUATOR if second else None,
        second_outputs=against_second,
        agreements=agreements,
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
    options = artifact.manifest.options
    least = options.get("min_sqnr")
    if isinstance(least, float):
        return Bound(measure="sqnr_db", limit=least)
    recipe = Recipe.from_json(options.get("recipe") or [])
    formats = set(formats_in(str(options.get("precision", FLOAT)), recipe))
    if formats == {FLOAT} and computes_integers(artifact.plan):
        formats = {"int8"}
    if not formats <= BOUNDS.keys():
        return ORACLE_ALONE
    return min((BOUNDS[name] for name in formats), key=lambda bound: (bound.measure == "relative", bound.limit))


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


def _oracle(
    artifact: Artifact, model: Path, inputs: Mapping[str, Array], inner: Sequence[str], notes: list[str]
) -> Oracle | None:
    """The oracle of an artifact that computes with integers."""
    if not computes_integers(artifact.plan):
        return None
    try:
        return ask_oracle(model, inputs, artifact.manifest.options, inner)
    except ReferenceFailed as problem:
        notes.append(f"nothing is proved, because the {ORACLE} gave no answer: {problem}")
        return None


def _translated(probe: Inner, oracle: Oracle) -> Inner:
    """A tensor of kernels as the model's, in numbers."""
    tensor, value = oracle.original(probe.tensor, probe.value)
    return Inner(probe.layer, tensor, value, oracle.agreement(probe.tensor, probe.value))


def _agreements(
    inside: Sequence[Inner], outputs: Mapping[str, Array], oracle: Oracle | None
) -> tuple[tuple[str, Agreement], ...]:
    """By layer, then by output."""
    if oracle is None:
        return ()
    ends = [(name, oracle.agreement(name, array)) for name, array in outputs.items()]
    found = [*((probe.layer, probe.agreement) for probe in inside), *ends]
    return tuple((name, agreement) for name, agreement in found if agreement is not None)


def _is_proved(artifact: Artifact, agreements: Sequence[tuple[str, Agreement]]) -> bool:
    """Whether all that is promised of integers is held."""
    if not computes_integers(artifact.plan):
        return True
    return bool(agreements) and all(agreement.passed for _, agreement in agreements)


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


def _compare(
    found: Mapping[str, Array], wanted: Mapping[str, Array], bound: Bound, oracle: Oracle | None = None
) -> tuple[TensorErrors, ...]:
    return tuple(
        _entry(name, name, wanted[name], array, bound, oracle.agreement(name, array) if oracle else None)
        for name, array in found.items()
        if name in wanted
    )


def _entry(
    name: str, tensor: str, wanted: Array, found: Array, bound: Bound, agreement: Agreement | None
) -> TensorErrors:
    errors = compare(wanted, found)
    passed = bound.holds(errors) and (agreement is None or agreement.passed)
    return TensorErrors(name=name, tensor=tensor, errors=errors, passed=passed, agreement=agreement)


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
