"""Whole networks beside ONNX Runtime and OpenVINO, in one run: `python -m benchmarks.networks --threads 2`.

The nine architectures of the onnx package by default (models.py), our own full-size builders (tests/networks) with
`--own`; `--only` takes the names of either. Every engine has a process of its own; they take turns of a fraction of a
second, the others stopped; inputs rotate among eight, and every run's outputs are compared with ONNX Runtime's.

The bound is the least time a direct algorithm could take: all multiply-adds over the measured peak, or weights, inputs
and outputs, read once, over the measured bandwidth, whichever is longer.

With `--precision int8` peers run what ONNX Runtime's quantizer makes of the network (quantized.py), made once, and
OpenVINO runs the network in bf16 besides, which is what it would do if left alone; ONNX Runtime in fp32 is there to
compare answers with. Beside bf16 OpenVINO runs bf16, and both run fp32, as they do beside fp16 and qI.F, which is
calibrated. The bound is by the peak of what is multiplied.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import command, machine, models, quantized
from lowprec import storage
from lowprec.benchmarking import INPUT_SETS, TOLERANCES, BenchReport, Engine, Row, measure
from lowprec.compilation import Options, compile_to, run_on_model
from lowprec.errors import LowprecError, UsageError
from lowprec.peaks import measure_peaks
from lowprec.profiling import BYTE_STEPS, WORD_STEPS
from lowprec.samples import sample_inputs
from lowprec.targets import parse_target
from lowprec.tensors import TensorSpec
from lowprec.vocabulary import PEERS
from tests.networks import NETWORKS

OURS = "lowprec"
DEFAULT_SECONDS = 5.0
FLOAT_BYTES = 4
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
WORD_BYTES = 2
"""Of qI.F."""
CALIBRATING = 8
"""Samples."""
TOLERANCE = 1e-4
SUBJECTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "fp32": {"onnxruntime": ("fp32",), "openvino": ("fp32",)},
    "bf16": {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16")},
    "fp16": {"onnxruntime": ("fp32",), "openvino": ("fp32",)},
    "int8": {"onnxruntime": ("fp32", "int8"), "openvino": ("int8", "bf16")},
}
"""What each peer runs in beside ours in a precision."""
WORDS = SUBJECTS["fp32"]
"""The same, beside qI.F."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one run must do at least: multiply-adds, and bytes moved once."""

    macs: int
    bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("networks", __doc__.partition("\n")[0], PEERS)
    parser.add_argument("--own", action="store_true", help="the architectures of tests/networks instead of the nine")
    parser.add_argument("--repeats", type=int, default=1, help="measure everything so many times, in fresh processes")
    parser.add_argument("--models", type=Path, default=Path("build/models"), help="folder of the made models")
    options = parser.parse_args(arguments)
    return command.run(lambda: measure_all(options))


def measure_all(options: argparse.Namespace) -> int:
    """Measure every network asked for, print a line each, save all; 1 if ours failed or answered wrongly anywhere."""
    peers = command.check(options, PEERS)
    if options.precision not in SUBJECTS and not options.precision.startswith("q"):
        known = ", ".join((*SUBJECTS, "qI.F"))
        raise UsageError(f"--precision is {options.precision!r}: networks are measured in {known}")
    own = [network.name for network in NETWORKS]
    names = [*models.NAMES, *own]
    chosen = command.select(names, options.only or (names if options.list else own if options.own else models.NAMES))
    if options.list:
        print("\n".join(chosen))
        return 0
    peaks = machine.measure(options.threads, parse_target(options.target))
    command.announce(peaks)
    limits = _limits(peaks, options)
    subjects = [(peer, kind) for peer in peers for kind in SUBJECTS.get(options.precision, WORDS)[peer]]
    labels = [_label(peer, kind) for peer, kind in subjects]
    print(_header(labels))
    rows = []
    for name in chosen * options.repeats:
        rows.append(measure_network(name, subjects, limits, options))
        print(_line(rows[-1], labels), flush=True)
    print(_summary(rows))
    print(f"written to {command.save('networks-own' if options.own else 'networks', options, peaks, rows)}")
    return int(any(OURS in row["failures"] for row in rows))


def _limits(peaks: machine.Peaks, options: argparse.Namespace) -> machine.Peaks:
    """The peaks that bounds are made of: of integers, and of 16-bit floats on tiles, what they take of the peak of
    products of bytes."""
    steps = _byte_steps(options)
    if not steps:
        return peaks
    found = replace(peaks, flops=measure_peaks(options.threads).byte_operations / steps)
    print(f"bounds are by the peak of products in {options.precision}: {found.flops / 1e9:.0f} G a second")
    return found


def _byte_steps(options: argparse.Namespace) -> int:
    """Products of bytes that take as long as one of the precision; 0 where float32 is multiplied."""
    if options.precision in ("fp32", "bf16", "fp16"):
        return BYTE_STEPS.get(options.precision, 0) if parse_target(options.target).has("amx_bf16") else 0
    return 1 if options.precision == "int8" else WORD_STEPS


def _label(peer: str, kind: str) -> str:
    return peer if kind == "fp32" else f"{peer} {kind}"


def measure_network(
    name: str, subjects: Sequence[tuple[str, str]], peaks: machine.Peaks, options: argparse.Namespace
) -> dict[str, Any]:
    """One network on every engine: figures, and why an engine has none."""
    row: dict[str, Any] = {"network": name, "engines": {}, "failures": {}, "warnings": []}
    try:
        with tempfile.TemporaryDirectory(prefix="lowprec-networks-") as folder:
            model = _model(name, options)
            artifact = Path(folder) / f"{name}.lowprec"
            began = time.perf_counter()
            chosen = Options(
                precision=options.precision,
                threads=options.threads,
                target=options.target,
                seed=options.seed,
                calibration=_samples(model, Path(folder), options),
            )
            compile_to(str(artifact), model, chosen, command="python -m benchmarks.networks")
            row["compile_seconds"] = time.perf_counter() - began
            work = _work(model, WEIGHT_BYTES.get(options.precision, WORD_BYTES))
            bound = peaks.bound_s(macs=work.macs, read=work.bytes, working_set=work.bytes)
            row |= asdict(work) | {"bound_ms": 1e3 * bound}
            report = _bench(model, artifact, subjects, options)
    except LowprecError as problem:
        row["failures"][OURS] = str(problem)
        return row
    row["engines"] = {_name(figure): asdict(figure) for figure in report.rows}
    row["failures"] |= {label.removesuffix(" fp32"): reason for label, reason in report.failures.items()}
    for figure in report.rows:
        allowed = TOLERANCE if figure.precision == "fp32" else TOLERANCES.get(figure.precision, TOLERANCES["int8"])
        if figure.error > allowed:
            reason = f"wrong: off by {figure.error:.1e} of the largest output, allowed is {allowed:.0e}"
            row["failures"][_name(figure)] = reason
    return row | {"warnings": report.warnings}


def _samples(model: Path, folder: Path, options: argparse.Namespace) -> Path | None:
    """What qI.F is calibrated by: left alone it is literal, and saturates in random networks."""
    if not options.precision.startswith("q"):
        return None
    specs = [
        TensorSpec(name=spec["name"], dtype=spec["dtype"], shape=tuple(spec["shape"]))
        for spec in run_on_model("inspect", model, {"input_shapes": {}})["inputs"]
    ]
    runs = [sample_inputs(specs, options.seed, index) for index in range(CALIBRATING)]
    path = folder / "samples.npz"
    stacked: dict[str, Any] = {spec.name: np.concatenate([run[spec.name] for run in runs]) for spec in specs}
    np.savez(path, **stacked)
    return path


def _name(figure: Row) -> str:
    """Ours has one name in every precision."""
    return OURS if figure.engine == OURS else _label(figure.engine, figure.precision)


def _model(name: str, options: argparse.Namespace) -> Path:
    """The network's file, made when it is not there."""
    if name in models.NAMES:
        return models.cached(name, options.models, seed=options.seed)
    network = next(network for network in NETWORKS if network.name == name)
    path: Path = options.models / "own" / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(network.model(network.full), path)
    return path


def _bench(
    model: Path, artifact: Path, subjects: Sequence[tuple[str, str]], options: argparse.Namespace
) -> BenchReport:
    paths = {"fp32": model, "bf16": model}
    if any(kind == "int8" for _, kind in subjects):
        paths["int8"] = quantized.cached(model, model.parent / "int8", seed=options.seed)
    engines = [Engine(name=OURS, path=str(artifact), precision=options.precision)]
    engines += [Engine(name=peer, path=str(paths[kind]), precision=kind) for peer, kind in subjects]
    specs = storage.read(artifact).inputs
    inputs = [sample_inputs(specs, options.seed, index) for index in range(INPUT_SETS)]
    return measure(engines, inputs=inputs, threads=options.threads, duration=options.duration or DEFAULT_SECONDS)


def _work(model: Path, weight_bytes: int) -> Work:
    found = run_on_model("inspect", model, {"input_shapes": {}})
    ends = sum(math.prod(spec["shape"]) for spec in (*found["inputs"], *found["outputs"]))
    parameters = sum(layer["parameters"] for layer in found["layers"])
    macs = sum(layer["macs"] for layer in found["layers"])
    return Work(macs=macs, bytes=FLOAT_BYTES * ends + weight_bytes * parameters)


def _header(labels: Sequence[str]) -> str:
    columns = "".join(f"{name + ' ms':>{_width(name)}}{'±':>6}{'ratio':>7}{'MiB':>6}" for name in labels)
    return f"{'network':<18}{'bound ms':>9}{'of bound':>9}{OURS + ' ms':>12}{'±':>6}{'MiB':>6}{columns}"


def _width(label: str) -> int:
    return max(16, len(label) + 5)


def _line(row: dict[str, Any], labels: Sequence[str]) -> str:
    ours = row["engines"].get(OURS)
    if ours is None:
        return f"{row['network']:<18} {OURS} failed: {row['failures'].get(OURS, 'no reason given')}"
    cells = "".join(_cell(row["engines"].get(name), _width(name)) for name in labels)
    notes = "".join(f"\n    {name} failed: {reason}" for name, reason in row["failures"].items())
    notes += "".join(f"\n    warning: {warning}" for warning in row["warnings"])
    share, memory = row["bound_ms"] / ours["p50_ms"], ours["memory_bytes"] / 2**20
    head = f"{row['network']:<18}{row['bound_ms']:>9.2f}{share:>9.0%}{ours['p50_ms']:>12.2f}"
    return f"{head}{ours['spread']:>6.0%}{memory:>6.0f}{cells}{notes}"


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    """Ours as a multiple of the best peer's time: the geometric mean, and the network where it is largest."""
    multiples = {
        row["network"]: max(figure["ratio"] ** -1 for name, figure in row["engines"].items() if name != OURS)
        for row in rows
        if OURS in row["engines"] and len(row["engines"]) > 1
    }
    if not multiples:
        return "no network ran on ours and on a peer"
    mean = math.exp(sum(map(math.log, multiples.values())) / len(multiples))
    worst = max(multiples, key=multiples.__getitem__)
    return f"ours / the best peer: geometric mean {mean:.3f}, largest {multiples[worst]:.2f} ({worst})"


def _cell(figure: dict[str, Any] | None, width: int) -> str:
    if figure is None:
        return f"{'failed':>{width}}{'':>19}"
    memory = figure["memory_bytes"] / 2**20
    return f"{figure['p50_ms']:>{width}.2f}{figure['spread']:>6.0%}{figure['ratio']:>7.2f}{memory:>6.0f}"


if __name__ == "__main__":
    sys.exit(main())
