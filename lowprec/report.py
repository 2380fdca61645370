"""An artifact's story in one HTML file that needs nothing else: plan, time per layer, error per layer, environment.

    write_report(load("model.lowprec"), "model.html", model="model.onnx")

Numbers are measured while the report is made. Whatever comes from the model goes through the template's escaping.
"""

import itertools
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from lowprec import charts, storage
from lowprec.artifact import Artifact, load
from lowprec.benchmarking import describe_machine
from lowprec.errors import UsageError
from lowprec.exactness import share_text, summary
from lowprec.peaks import measure_peaks
from lowprec.plan import Choice
from lowprec.profiling import LayerTime, profile_layers
from lowprec.samples import sample_inputs
from lowprec.verdict import Report, TensorErrors
from lowprec.verification import verify

Array = NDArray[np.generic]

COLOURS = 6  # the template's palette; the rarest operators share its last


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Whole runs, in milliseconds as shown."""

    p50: str
    p90: str
    runs: int


def write_report(
    artifact: Artifact | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    seed: int = 0,
    duration: float = 2.0,
) -> None:
    """Measure for about `duration` seconds, compare with the model where it can be found, write the file."""
    art = artifact if isinstance(artifact, Artifact) else load(artifact)
    page = render(art, model=model, seed=seed, duration=duration)
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as problem:
        raise UsageError(f"{path} cannot be written ({problem.strerror}): give another place") from None


def render(art: Artifact, *, model: str | os.PathLike[str] | None = None, seed: int = 0, duration: float = 2.0) -> str:
    """The page's text."""
    inputs = sample_inputs(art.inputs, seed)
    latency = _latency(art, inputs, duration / 2)
    peaks = measure_peaks(art.threads)
    profile = profile_layers(art, peaks, inputs=inputs, run_ms=float(latency.p50), duration=duration / 2)
    source, why_not = _find_model(art, model)
    verdict = verify(art, source, seed=seed) if source else None
    manifest = art.manifest
    return _template().render(
        title=Path(manifest.model.path).name,
        version=manifest.versions.get("lowprec", "?"),
        target=manifest.target,
        precision=manifest.options.get("precision", "fp32"),
        threads=art.threads,
        latency=latency,
        kernels=len({call.symbol for call in manifest.calls}),
        calls=len(manifest.calls),
        size=_megabytes(sum(file.bytes for file in manifest.files.values())),
        accuracy=_accuracy(verdict) if verdict else None,
        why_no_accuracy=why_not,
        seed=seed,
        parts=_parts(art.plan.choices, profile.layers),
        rows=_rows(art.plan.choices, profile.layers, verdict.layers if verdict else ()),
        ports=[("input", spec) for spec in art.inputs] + [("output", spec) for spec in art.outputs],
        front=_front(art),
        command=manifest.command,
        environment=[*_environment(art), ("at best", str(peaks))],
    )


def _front(art: Artifact) -> dict[str, Any] | None:
    """How `auto` chose the formats, if it did."""
    search: Any = art.manifest.options.get("search")
    if not search:
        return None
    rows = [
        {
            "name": row["name"],
            "ms": _milliseconds(row["ms"]),
            "sqnr": charts.decibels(float("inf") if row["sqnr_db"] is None else row["sqnr_db"]),
            "chosen": row["chosen"],
        }
        for row in search["measured"]
    ]
    return {"rows": rows, "chart": charts.front_chart(search)}


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("lowprec")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html")


def _latency(art: Artifact, inputs: Mapping[str, Array], duration: float) -> Latency:
    art(inputs)
    milliseconds: list[float] = []
    deadline = time.monotonic() + duration
    while len(milliseconds) < 5 or time.monotonic() < deadline:
        began = time.perf_counter()
        art(inputs)
        milliseconds.append(1e3 * (time.perf_counter() - began))
    p50, p90 = np.percentile(milliseconds, (50, 90))
    return Latency(p50=_milliseconds(p50), p90=_milliseconds(p90), runs=len(milliseconds))


def _find_model(art: Artifact, model: str | os.PathLike[str] | None) -> tuple[Path | None, str]:
    """The model's file: the one given, or the one compiled if it is still the same; and why there is none."""
    if model is not None:
        return Path(model), ""
    source = art.manifest.model
    if Path(source.path).is_file() and storage.sha256(Path(source.path)) == source.sha256:
        return Path(source.path), ""
    return None, "give the model with --model to compare"


def _parts(choices: Sequence[Choice], calls: Sequence[LayerTime]) -> list[dict[str, str]]:
    """Time by the operator of the layer that a kernel belongs to, most first, the rest together."""
    operators = {choice.layer: choice.op for choice in choices}
    sums: Counter[str] = Counter()
    for call in calls:
        sums[operators.get(call.layer, "added by compiling")] += call.ms  # type: ignore[assignment]
    total = sum(sums.values()) or 1
    ranked = sums.most_common()
    shown = ranked[: COLOURS - 1] if len(ranked) > COLOURS else ranked
    rest = total - sum(ms for _, ms in shown)
    if len(ranked) > COLOURS:
        shown = [*shown, (f"{len(ranked) - len(shown)} others", rest)]
    return [{"op": op, "ms": _milliseconds(ms), "percent": f"{100 * ms / total:.1f}"} for op, ms in shown]


def _rows(
    choices: Sequence[Choice], calls: Sequence[LayerTime], layers: Sequence[TensorErrors]
) -> list[dict[str, Any]]:
    """The plan's layers, then what runs besides; each with its time, and the error of its last compared tensor."""
    times: dict[str, list[LayerTime]] = defaultdict(list)
    for call in calls:
        times[call.layer].append(call)
    largest = max((sum(call.ms for call in group) for group in times.values()), default=1.0)
    errors = {entry.name: entry for entry in layers}
    planned = [
        (choice.layer, choice.op, choice.algorithm, str(choice.formats), choice.reason, choice.declined)
        for choice in choices
    ]
    names = {choice.layer for choice in choices}
    added = dict.fromkeys((call.layer, call.op) for call in calls if call.layer not in names)
    planned += [(layer, op, "generic", "", "not a layer of the model: added by compiling", ()) for layer, op in added]
    keys = ("layer", "op", "algorithm", "formats", "reason", "declined")
    return _merge_folded(
        [
            dict(zip(keys, row, strict=True)) | _measured(times[row[0]], largest) | _error(errors.get(row[0]))
            for row in planned
        ]
    )


def _merge_folded(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours that have neither a time, nor an error, nor anything declined share one line."""
    merged = []
    for bare, group in itertools.groupby(rows, lambda row: not (row["ms"] or row["sqnr"] or row["declined"])):
        members = list(group)
        if not bare:
            merged += [row | {"folded": 0} for row in members]
            continue
        names, operators = ([row[key] for row in members] for key in ("layer", "op"))
        merged.append({"folded": len(members), "layer": ", ".join(names), "op": ", ".join(dict.fromkeys(operators))})
    return merged


def _measured(calls: Sequence[LayerTime], largest: float) -> dict[str, str]:
    """Of all kernels of a layer."""
    if not calls:
        return {"ms": "", "bar": "", "percent": "", "of_bound": ""}
    spent = sum(call.ms for call in calls)
    return {
        "ms": _milliseconds(spent),
        "bar": f"{100 * spent / largest:.1f}",
        "percent": f"{100 * sum(call.share for call in calls):.1f}",
        "of_bound": f"{100 * sum(call.bound_ms for call in calls) / spent:.0f}",
    }


def _error(entry: TensorErrors | None) -> dict[str, Any]:
    if entry is None:
        return {"sqnr": "", "bad": False, "exact": ""}
    exact = "" if entry.agreement is None else share_text(entry.agreement)
    return {"sqnr": charts.decibels(entry.errors.sqnr_db), "bad": not entry.passed, "exact": exact}


def _accuracy(verdict: Report) -> dict[str, Any]:
    pairs = [(verdict.reference, verdict.outputs), (verdict.second, verdict.second_outputs)]
    return {
        "passed": verdict.passed,
        "verdict": f"{verdict.bound} against {verdict.reference}",
        "reference": verdict.reference,
        "bound": str(verdict.bound),
        "smallest": f"{verdict.smallest_bound:.3g}",
        "exactness": summary(verdict.agreements) if verdict.agreements else "",
        "outputs": [_output(entry, against) for against, entries in pairs for entry in entries],
        "chart": charts.error_chart(verdict) if verdict.layers else None,
        "first_bad": verdict.first_bad,
        "notes": verdict.notes,
    }


def _output(entry: TensorErrors, against: str | None) -> dict[str, Any]:
    errors = entry.errors
    return {
        "name": entry.name,
        "against": against,
        "max_abs": f"{errors.max_abs:.2e}",
        "relative": f"{errors.relative:.2e}",
        "cosine": f"{errors.cosine:.7f}",
        "sqnr": charts.decibels(errors.sqnr_db),
        "passed": entry.passed,
    }


def _environment(art: Artifact) -> list[tuple[str, str]]:
    machine, manifest = describe_machine(), art.manifest
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    return [
        ("measured on", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        ("compiled with", versions),
        ("CPU features needed", ", ".join(manifest.target.features) or f"none beyond {manifest.target.arch}"),
        ("model", f"{manifest.model.path} (SHA-256 {manifest.model.sha256})"),
        ("artifact", str(art.directory)),
        ("seed", str(manifest.seed)),
    ]


def _milliseconds(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
