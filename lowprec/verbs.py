"""What each verb does: its arguments in, an `Answer` out. Nothing here is imported before its verb is asked for."""

import argparse
import shlex
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lowprec.cli import Answer
from lowprec.compilation import (
    Options,
    as_recipe,
    compile_to,
    existing_file,
    export_to,
    model_file,
    refuse_auto,
    replaceable_file,
    run_on_model,
)
from lowprec.errors import EnvironmentMismatch, OutOfBounds, Unsupported, UsageError
from lowprec.options import gather_shapes
from lowprec.plan import Plan, table
from lowprec.recipe import Recipe
from lowprec.search_text import search_text

DEFAULT_RECORDS = "lowprec-records.db"


def doctor(_arguments: argparse.Namespace) -> Answer:
    from lowprec.doctor import Status, examine

    checks = examine()
    usable = all(check.status is not Status.PROBLEM for check in checks)
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = "" if check.status is Status.FINE else f"{check.status.value}: "
        lines.append(f"{check.name.ljust(width)}  {mark}{check.found}")
        if check.advice:
            lines.append(f"{' ' * width}  -> {check.advice}")
    document = {"usable": usable, "checks": [check.to_json() for check in checks]}
    return Answer(document=document, text="\n".join(lines), exit_code=0 if usable else EnvironmentMismatch.exit_code)


def inspect(arguments: argparse.Namespace) -> Answer:
    request = {"input_shapes": gather_shapes(arguments.input_shape)}
    with model_file(arguments.model) as path:
        found = run_on_model("inspect", path, request)
    layers = found["layers"]
    totals = {name: sum(layer[name] for layer in layers) for name in ("parameters", "macs", "bytes")} | {
        "layers": len(layers)
    }
    return Answer(document={**found, "totals": totals}, text=_inspection(found, totals))


def plan(arguments: argparse.Namespace) -> Answer:
    options = _options(arguments)
    refuse_auto(options, "plan")
    with model_file(arguments.model) as path:
        found = Plan.from_json(run_on_model("plan", path, options.to_json()))
    return Answer(document={"options": options.to_json(), **found.to_json()}, text=str(found))


def compile(arguments: argparse.Namespace) -> Answer:
    options = _options(arguments)
    with model_file(arguments.model) as path:
        if arguments.write_recipe:
            replaceable_file(arguments.write_recipe, path)
        seconds = _compile(path, arguments.output, options, arguments)
    from lowprec.storage import read

    manifest = read(Path(arguments.output))
    search: Any = manifest.options.get("search")
    if arguments.write_recipe:
        Recipe.from_json(manifest.options["recipe"]).save(arguments.write_recipe)
    size = sum(file.bytes for file in manifest.files.values())
    document = {
        "artifact": arguments.output,
        "seconds": seconds,
        "bytes": size,
        "inputs": [asdict(spec) for spec in manifest.inputs],
        "outputs": [asdict(spec) for spec in manifest.outputs],
        "target": asdict(manifest.target),
        "plan": manifest.plan.to_json(),
        **({"search": search, "recipe": manifest.options["recipe"]} if search else {}),
    }
    text = f"{arguments.output}: {size / 1e6:.1f} MB for {manifest.target.name}, compiled in {seconds:.1f} s"
    if manifest.plan.transformed:
        text += f"\n{manifest.plan.transformed}"
    if search:
        text += f"\n{search_text(search)}"
    return Answer(document=document, text=text)


def export(arguments: argparse.Namespace) -> Answer:
    options = _options(arguments)
    refuse_auto(options, "export")
    with model_file(arguments.model) as path:
        found = export_to(arguments.output, path, options, notify=None if arguments.quiet else Progress())
    counts = Counter(found["formats"].values())
    shares = [f"{count} of {counts.total()} layers in {name}" for name, count in counts.most_common()] or ["no layers"]
    size, opset = found["bytes"] / 1e6, found["opset"]
    lines = [
        f"{arguments.output}: {size:.1f} MB, {found['nodes']} nodes of opset {opset}; {', '.join(shares)}",
        *(f"{entry['layer']} stays in float: {entry['reason']}" for entry in found["floats"]),
    ]
    return Answer(document={"path": arguments.output, **found}, text="\n".join(lines))


def run(arguments: argparse.Namespace) -> Answer:
    from lowprec.archives import read_inputs, write_outputs
    from lowprec.artifact import load
    from lowprec.samples import sample_inputs

    artifact = load(arguments.artifact, threads=arguments.threads)
    given = arguments.inputs
    inputs = read_inputs(given, artifact.inputs) if given else sample_inputs(artifact.inputs, arguments.seed)
    began = time.perf_counter()
    outputs = artifact(inputs)
    seconds = time.perf_counter() - began
    assert isinstance(outputs, dict)
    if arguments.outputs:
        write_outputs(arguments.outputs, outputs)
    specs = [asdict(spec) for spec in artifact.outputs]
    lines = [f"{spec['name']}: {spec['dtype']}{list(spec['shape'])}" for spec in specs]
    where = f", written to {arguments.outputs}" if arguments.outputs else ""
    text = "\n".join([*lines, f"{1e3 * seconds:.2f} ms, the first run included{where}"])
    return Answer(document={"outputs": specs, "seconds": seconds, "file": arguments.outputs}, text=text)


def verify(arguments: argparse.Namespace) -> Answer:
    from lowprec.archives import read_inputs
    from lowprec.artifact import load
    from lowprec.verification import verify as verify_artifact

    artifact = load(arguments.artifact, threads=arguments.threads)
    inputs = read_inputs(arguments.inputs, artifact.inputs) if arguments.inputs else None
    model = existing_file(arguments.model, "model")
    verdict = verify_artifact(artifact, model, inputs=inputs, min_sqnr=arguments.min_sqnr, seed=arguments.seed)
    code = 0 if verdict.passed else OutOfBounds.exit_code
    return Answer(document=verdict.to_json(), text=str(verdict), exit_code=code)


def bench(arguments: argparse.Namespace) -> Answer:
    from lowprec.benchmarking import bench as bench_artifact
    from lowprec.profiling import check_profilable, profile_artifact

    if arguments.duration <= 0:
        raise UsageError(f"--duration is {arguments.duration}: give seconds above 0")
    with _benchable(arguments) as (directory, model):
        if arguments.layers:
            check_profilable(directory)
        measured = bench_artifact(
            directory,
            model=model,
            against=arguments.against,
            threads=arguments.threads,
            duration=arguments.duration,
            seed=arguments.seed,
        )
        layers = None
        if arguments.layers:
            run_ms = measured.rows[0].p50_ms
            layers = profile_artifact(
                directory, threads=measured.threads, run_ms=run_ms, duration=arguments.duration, seed=arguments.seed
            )
    found = [*measured.warnings, *(layers.warnings if layers else ())]
    for warning in found:
        warnings.warn(warning, stacklevel=1)
    document = measured.to_json() | (layers.to_json() if layers else {}) | {"warnings": found}
    return Answer(document=document, text=f"{measured}\n\n{layers}" if layers else str(measured))


def tune(arguments: argparse.Namespace) -> Answer:
    from lowprec.tuning import tune as tune_model

    if arguments.tracker:
        raise Unsupported("--tracker is not built yet: tune on this machine")
    if arguments.calibration:
        raise Unsupported("--calibration is for precisions that tune does not build yet: leave it out")
    if arguments.min_sqnr is not None or arguments.max_ms is not None:
        raise Unsupported("--min-sqnr and --max-ms are for precision 'auto', which tune does not search: compile does")
    if arguments.algorithm != "auto":
        raise UsageError(f"--algorithm is {arguments.algorithm!r}: tuning tries all of them, leave it out")
    done = tune_model(
        arguments.model,
        precision=arguments.precision,
        recipe=arguments.recipe,
        target=arguments.target,
        rounding=arguments.rounding,
        records=arguments.records or DEFAULT_RECORDS,
        trials=arguments.trials,
        budget=arguments.budget,
        input_shapes=gather_shapes(arguments.input_shape),
        threads=arguments.threads,
        seed=arguments.seed,
        say=None if arguments.quiet else lambda line: print(f"lowprec: {line}", file=sys.stderr, flush=True),
    )
    return Answer(document=done.to_json(), text=str(done))


def db(arguments: argparse.Namespace) -> Answer:
    from lowprec.record_keeping import check_records, list_records, merge_records, prune_records

    actions = {"list": list_records, "merge": merge_records, "prune": prune_records, "check": check_records}
    document, text, code = actions[arguments.action](Path(arguments.records), [Path(path) for path in arguments.others])
    return Answer(document=document, text=text, exit_code=code)


def report(arguments: argparse.Namespace) -> Answer:
    from lowprec.artifact import load
    from lowprec.report import write_report

    path = arguments.output or f"{arguments.artifact.rstrip('/')}.html"
    artifact = load(arguments.artifact, threads=arguments.threads)
    model = existing_file(arguments.model, "model") if arguments.model else None
    write_report(artifact, path, model=model, seed=arguments.seed)
    return Answer(document={"report": path}, text=path)


class Progress:
    """Lines about how far slow work is, on stderr: one a second at most, none in the first."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._last >= 1:
            self._last = time.monotonic()
            print(f"lowprec: {line}", file=sys.stderr, flush=True)


@contextmanager
def _benchable(arguments: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """An artifact's directory and its model: DIR itself, or MODEL compiled into a temporary place."""
    if Path(arguments.subject).is_dir():
        yield arguments.subject, arguments.model
        return
    options = _options(arguments)
    with model_file(arguments.subject) as path, tempfile.TemporaryDirectory(prefix="lowprec-bench-") as folder:
        _compile(path, f"{folder}/artifact", options, arguments)
        yield f"{folder}/artifact", str(path)


def _options(arguments: argparse.Namespace) -> Options:
    """compile's options, checked."""
    return Options(
        precision=arguments.precision,
        rounding=arguments.rounding,
        algorithm=arguments.algorithm,
        recipe=as_recipe(arguments.recipe),
        target=arguments.target,
        threads=arguments.threads,
        seed=arguments.seed,
        input_shapes=gather_shapes(arguments.input_shape),
        records=arguments.records,
        calibration=arguments.calibration and existing_file(arguments.calibration, "calibration"),
        min_sqnr=arguments.min_sqnr,
        max_ms=arguments.max_ms,
    )


def _compile(model: Path, directory: str, options: Options, arguments: argparse.Namespace) -> float:
    """Compile, saying so on stderr; the seconds it took."""
    if not arguments.quiet:
        print(f"lowprec: compiling {model.name} for {options.target}", file=sys.stderr)
    began = time.perf_counter()
    command = shlex.join(["lowprec", *arguments.command])
    compile_to(directory, model, options, command=command, notify=None if arguments.quiet else Progress())
    return time.perf_counter() - began


def _inspection(found: dict[str, Any], totals: dict[str, int]) -> str:
    header = ("layer", "op", "inputs", "output", "parameters", "MMACs", "MB", "FLOP/byte")
    rows = [
        (
            layer["name"],
            layer["op"],
            " ".join(map(_dims, layer["input_shapes"])),
            _dims(layer["output_shape"]),
            f"{layer['parameters']:,}",
            f"{layer['macs'] / 1e6:.2f}",
            f"{layer['bytes'] / 1e6:.2f}",
            f"{layer['intensity']:.1f}",
        )
        for layer in found["layers"]
    ]
    sums = (f"{totals['parameters']:,}", f"{totals['macs'] / 1e6:.2f}", f"{totals['bytes'] / 1e6:.2f}")
    total = ("total", "", "", "", *sums, f"{2 * totals['macs'] / max(1, totals['bytes']):.1f}")
    ends = [
        f"{kind} {spec['name']}: {spec['dtype']}{list(spec['shape'])}"
        for kind, specs in (("input", found["inputs"]), ("output", found["outputs"]))
        for spec in specs
    ]
    return "\n".join([*ends, "", table([header, *rows, total])])


def _dims(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
