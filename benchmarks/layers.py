"""Single layers beside ONNX Runtime, OpenVINO and torch, in one run: `python -m benchmarks.layers --threads 1`.

Every engine has a process of its own and runs a bank of copies of the layer (layer_suite.py); what is timed is the
layer alone, in each engine's inner layout, and once more with the changes of layout that a caller's arrays need: the
last column is the fastest peer's time over ours then (layer_engines.py says how). Engines take turns of a fraction of a
second, the others stopped; every round's outputs are compared with ONNX Runtime's.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx

from benchmarks import command, formats, machine
from benchmarks.figures import Figure, summarize
from benchmarks.layer_suite import BenchLayer, bank, copies_past
from benchmarks.layer_suites import BATCHES, LAVIN_GRAY, SUITES, USUAL, suite
from lowprec.choosing import named
from lowprec.compilation import Options, compile_to
from lowprec.engine_process import Child, child_process
from lowprec.errors import LowprecError
from lowprec.manifest import FILE_NAME, from_text
from lowprec.targets import parse_target
from lowprec.vocabulary import Vocabulary

OURS = "lowprec"
REFERENCE = "onnxruntime"
PEERS = Vocabulary(kind="engine", built=("onnxruntime", "openvino", "torch"))
TURN_SECONDS = 0.1
LEAST_TURNS = 3
LAYER_ENGINES = ("-m", "benchmarks.layer_engines")
DEFAULT_SECONDS = 1.0
TOLERANCE = 1e-4
L2_BYTES = 2 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("layers", __doc__.partition("\n")[0], PEERS)
    parser.add_argument("--suite", choices=sorted(SUITES), default=USUAL, help="which layers (default: %(default)s)")
    parser.add_argument("--batch", type=int, choices=BATCHES, default=1, help="images at once, in suite vgg-e")
    options = parser.parse_args(arguments)
    return command.run(lambda: measure(options))


def measure(options: argparse.Namespace) -> int:
    """Measure every layer asked for, print a line each, save all; 1 if ours failed or answered wrongly anywhere."""
    engines = (OURS, *command.check(options, PEERS))
    layers = suite(options.suite, options.batch)
    chosen = command.select([layer.name for layer in layers], options.only)
    if options.list:
        print("\n".join(chosen))
        return 0
    peaks = machine.measure(options.threads, parse_target(options.target))
    command.announce(peaks)
    if options.suite == "formats":
        return _measure_formats([layer for layer in layers if layer.name in chosen], peaks, options)
    print(_header(engines))
    rows = []
    for layer in (layer for layer in layers if layer.name in chosen):
        rows.append(measure_layer(layer, engines, peaks, options))
        print(_line(rows[-1], engines), flush=True)
    print(_summary(rows, options))
    print(f"written to {command.save(_result_name(options), options, peaks, rows)}")
    return int(any(OURS in row["failures"] for row in rows))


def _measure_formats(layers: Sequence[BenchLayer], peaks: machine.Peaks, options: argparse.Namespace) -> int:
    """Ours alone, in every format."""
    print(formats.header())
    rows = []
    for layer in layers:
        rows.append(formats.measure_formats(layer, options))
        print(formats.line(rows[-1]), flush=True)
    print(f"written to {command.save(_result_name(options), options, peaks, rows)}")
    return int(any(row["failures"] for row in rows))


def measure_layer(
    layer: BenchLayer, engines: Sequence[str], peaks: machine.Peaks, options: argparse.Namespace
) -> dict[str, Any]:
    """One layer on every engine: figures, and why an engine has none."""
    copies = copies_past(L2_BYTES, layer)
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lowprec-layers-")))
        paths = _make(layer, copies, folder, options, failures)
        algorithm = "" if OURS in failures else _algorithm(Path(paths[OURS]))
        children: dict[str, Child] = {}
        for engine in engines:
            if engine in failures:
                continue
            child = stack.enter_context(child_process(folder / f"{engine}.log", LAYER_ENGINES))
            request = {"engine": engine, "path": paths[engine], "layer": layer.name, "copies": copies}
            try:
                child.ask({"do": "open", "threads": options.threads, "seed": options.seed} | request)
            except LowprecError as problem:
                failures[engine] = str(problem)
                continue
            children[engine] = child
        errors = _take_turns(children, failures, folder, options.duration or DEFAULT_SECONDS)
        times = {engine: child.ask({"do": "times"}) for engine, child in children.items()}
    for engine in [engine for engine, found in times.items() if not all(map(sum, found["turns"]))]:
        failures[engine] = "its profile shows no operator that is this layer"
        del times[engine]
    figures, whole = (_figures(times, kind, errors) for kind in ("turns", "whole"))
    failures |= _wrong(figures)
    bound = peaks.bound_s(macs=layer.macs, read=layer.bytes, working_set=copies * layer.bytes)
    return {
        "layer": layer.name,
        "algorithm": algorithm,
        "macs": layer.macs,
        "bytes": layer.bytes,
        "copies": copies,
        "bound_ms": 1e3 * bound,
        "engines": {figure.engine: figure.to_json() for figure in figures},
        "with_layout": {figure.engine: figure.to_json() for figure in whole},
        "failures": failures,
    }


def _figures(times: Mapping[str, Any], kind: str, errors: Mapping[str, float]) -> list[Figure]:
    ours = times[OURS][kind] if OURS in times else None
    return [summarize(name, found[kind], ours, error=errors[name]) for name, found in times.items()]


def _make(
    layer: BenchLayer, copies: int, folder: Path, options: argparse.Namespace, failures: dict[str, str]
) -> dict[str, str]:
    """What each engine opens: the bank's file, and for ours the artifact compiled from it."""
    model = folder / "bank.onnx"
    onnx.save(bank(layer, copies, seed=options.seed), model)
    artifact = folder / "bank.lowprec"
    try:
        chosen = Options(precision=options.precision, threads=options.threads, target=options.target)
        compile_to(str(artifact), model, chosen, command="python -m benchmarks.layers")
    except LowprecError as problem:
        failures[OURS] = str(problem)
    return dict.fromkeys(PEERS.built, str(model)) | {OURS: str(artifact)}


def _algorithm(artifact: Path) -> str:
    """What ours computes the layer by."""
    choice = from_text((artifact / FILE_NAME).read_bytes()).plan.choices[0]
    return named(choice.algorithm, choice.sizes)


def _take_turns(children: dict[str, Child], failures: dict[str, str], folder: Path, seconds: float) -> dict[str, float]:
    """Round after round, each engine its turn; the worst error of each. An engine that fails leaves the children."""
    errors = dict.fromkeys(children, 0.0)

    def ask(engine: str, request: Mapping[str, object]) -> dict[str, Any]:
        try:
            return children[engine].ask(request)
        except LowprecError as problem:
            failures[engine] = str(problem)
            del children[engine]
            return {}

    reference = folder / "reference.npz"
    ask(REFERENCE if REFERENCE in children else next(iter(children)), {"do": "outputs", "file": str(reference)})
    for engine in list(children):
        ask(engine, {"do": "reference", "file": str(reference)})
    deadline, done = time.monotonic() + seconds * len(children), 0
    while children and (done < LEAST_TURNS or time.monotonic() < deadline):
        for engine in list(children):
            answer = ask(engine, {"do": "turn", "seconds": TURN_SECONDS})
            errors[engine] = max(errors[engine], answer.get("error", 0.0))
        done += 1
    return errors


def _result_name(options: argparse.Namespace) -> str:
    parts = ["layers", *([] if options.suite == USUAL else [options.suite])]
    return "-".join([*parts, *([f"batch{options.batch}"] if options.batch > 1 else [])])


def _summary(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """How many times as fast as the best peer, over the layers that have both."""
    gains = _gains(rows, "engines")
    if not gains:
        return "nothing to compare with"
    lines = [f"the best peer / ours: {_mean_and_least(gains)}"]
    lines.append(f"with changes of layout: {_mean_and_least(_gains(rows, 'with_layout'))}")
    if options.suite == "vgg-e":
        theirs = LAVIN_GRAY[options.batch]
        lines.append(f"Lavin & Gray at batch {options.batch}, F(2x2, 3x3) over their vendor's library: {theirs:.2f}")
    return "\n".join(lines)


def _gains(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, float]:
    return {row["layer"]: gain for row in rows if (gain := _gain(row[kind])) is not None}


def _gain(figures: Mapping[str, Any]) -> float | None:
    """The fastest peer's time over ours."""
    peers = [figure["p50_ms"] for name, figure in figures.items() if name != OURS]
    return min(peers) / float(figures[OURS]["p50_ms"]) if OURS in figures and peers else None


def _mean_and_least(gains: Mapping[str, float]) -> str:
    worst = min(gains, key=lambda name: gains[name])
    mean = math.exp(sum(map(math.log, gains.values())) / len(gains))
    return f"geometric mean {mean:.2f}, least {gains[worst]:.2f} ({worst})"


def _wrong(figures: Sequence[Figure]) -> dict[str, str]:
    """Engines whose outputs are not the reference's."""
    return {
        figure.engine: f"wrong: off by {figure.error:.1e} of the largest output, allowed is {TOLERANCE:.0e}"
        for figure in figures
        if figure.error > TOLERANCE
    }


def _header(engines: Sequence[str]) -> str:
    columns = "".join(f"{name + ' ms':>16}{'±':>6}" + (f"{'ratio':>7}" if name != OURS else "") for name in engines)
    return f"{'layer':<24}{'algorithm':<13}{'bound ms':>9}{'of bound':>9}{columns}{'with layout':>13}"


def _line(row: dict[str, Any], engines: Sequence[str]) -> str:
    ours = row["engines"].get(OURS)
    share = f"{row['bound_ms'] / ours['p50_ms']:>9.0%}" if ours else f"{'':>9}"
    cells = "".join(_cell(row["engines"].get(name), ours=name == OURS) for name in engines)
    gain = _gain(row["with_layout"])
    whole = f"{'' if gain is None else f'{gain:.2f}':>13}"
    failed = "".join(f"\n    {name} failed: {reason}" for name, reason in row["failures"].items())
    return f"{row['layer']:<24}{row['algorithm']:<13}{row['bound_ms']:>9.3f}{share}{cells}{whole}{failed}"


def _cell(figure: dict[str, Any] | None, *, ours: bool) -> str:
    if figure is None:
        return f"{'failed':>16}{'':>6}" + ("" if ours else f"{'':>7}")
    ratio = "" if figure["ratio"] is None else f"{figure['ratio']:.2f}"
    return f"{figure['p50_ms']:>16.3f}{figure['spread']:>6.0%}" + ("" if ours else f"{ratio:>7}")


if __name__ == "__main__":
    sys.exit(main())
