"""Time per run, side by side: each engine in its own process, interleaved, on the same inputs, answers compared.

    report = bench("model.lowprec", against=("onnxruntime",), threads=2, duration=5)
    print(report)

How it is fair: engines take turns of a fraction of a second, so that a slow minute of the machine hits all alike; while
one runs the others are stopped (SIGSTOP), so that nobody's idle threads spin; every turn begins with a run that is not
counted; every run's outputs are compared with ONNX Runtime's, or with the artifact's own first where it is no peer.
A ratio is the median over turns of two medians taken one right after the other, not of two global numbers.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from lowprec import storage
from lowprec.artifact import choose_threads
from lowprec.compilation import run_on_model
from lowprec.engine_process import BusyMeter, Child, Turn, child_process
from lowprec.engines import save_sets
from lowprec.errors import LowprecError, UsageError
from lowprec.manifest import Manifest, current_versions, installed_version
from lowprec.samples import sample_inputs
from lowprec.vocabulary import PEERS

Array = NDArray[np.generic]

INPUT_SETS = 8
TURN_SECONDS = 0.2
MIN_TURNS = 5
NOISY_SPREAD = 0.25
NOISY_OTHERS = 0.15
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What to run: an engine's name, and the artifact's directory or the ONNX file it opens."""

    name: str
    path: str
    precision: str = "fp32"

    @property
    def label(self) -> str:
        return f"{self.name} {self.precision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One engine's result. `spread` is (p90 - p10) / p50; `ratio` is its time over the first engine's: above 1, the
    first is faster; `error` is the worst distance from the reference, relative to that output's largest magnitude."""

    engine: str
    precision: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    spread: float
    ratio: float
    runs: int
    error: float
    open_seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Rows in the order asked for, the first being what ratios refer to; `failures` says why an engine has no row."""

    threads: int
    rows: tuple[Row, ...]
    failures: dict[str, str]
    machine: dict[str, object]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"rows": [asdict(row) for row in self.rows], "warnings": list(self.warnings)}

    def __str__(self) -> str:
        lines = [f"{'engine':<20}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}{'spread':>9}{'ratio':>8}{'error':>10}"]
        for row in self.rows:
            times = "".join(f"{value:>10.3f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms))
            name = f"{row.engine} {row.precision}"
            lines.append(f"{name:<20}{times}{row.spread:>9.1%}{row.ratio:>8.2f}{row.error:>10.1e}")
        lines += [f"{engine}: {reason}" for engine, reason in self.failures.items()]
        return "\n".join(lines)


def bench(
    artifact: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    against: Sequence[str] = (),
    threads: int | None = None,
    duration: float = 5.0,
    seed: int = 0,
) -> BenchReport:
    """The artifact beside its peers, `duration` seconds each; `against` names peers, as `openvino` or `openvino:bf16`.

    Peers run the model the artifact was compiled from, which is looked for where compile found it unless given; in int8
    they run what `lowprec export` makes of it with the artifact's own ranges.
    """
    manifest = storage.read(Path(artifact))
    precision = str(manifest.options.get("precision", "fp32"))
    engines = [Engine(name="lowprec", path=str(artifact), precision=precision)]
    peers = [_peer(text, precision) for text in against]
    with tempfile.TemporaryDirectory(prefix="lowprec-peers-") as folder:
        if peers:
            source = _source(manifest, model)
            quantized = _exported(source, manifest, Path(folder)) if any(kind == "int8" for _, kind in peers) else None
            engines += [
                Engine(name=name, path=str(quantized if kind == "int8" else source), precision=kind)
                for name, kind in peers
            ]
        inputs = [sample_inputs(manifest.inputs, seed, index) for index in range(INPUT_SETS)]
        return measure(engines, inputs=inputs, threads=choose_threads(threads, manifest), duration=duration)


def measure(
    engines: Sequence[Engine], *, inputs: Sequence[Mapping[str, Array]], threads: int, duration: float = 5.0
) -> BenchReport:
    """Every engine on the same inputs, `duration` seconds each. The first must work; others that fail are reported.

    The reference for errors is the first onnxruntime fp32 among them, else the first engine.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lowprec-bench-")))
        save_sets(folder / "inputs.npz", inputs)
        children, failures = _open_all(engines, stack, folder, threads)
        if engines[0] not in children:
            raise failures[engines[0].label]
        _share_reference(children, folder)
        busy = BusyMeter([child.process.pid for child in children.values()])
        turns = _take_turns(children, failures, duration)
        if engines[0] not in children:
            raise failures[engines[0].label]
        rows = tuple(_row(engine, children[engine], turns[engine], turns[engines[0]]) for engine in children)
        warnings = _warnings(rows, busy.share_of_others())
    reasons = {name: str(problem) for name, problem in failures.items()}
    return BenchReport(threads=threads, rows=rows, failures=reasons, machine=describe_machine(), warnings=warnings)


def describe_machine() -> dict[str, object]:
    """The machine and the versions that the numbers belong to."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": current_versions() | {name: installed_version(name) for name in PEERS.built},
    }


def _source(manifest: Manifest, model: str | os.PathLike[str] | None) -> Path:
    path = Path(model if model is not None else manifest.model.path)
    if not path.is_file():
        raise UsageError(f"the model {path} is not there and peers need it: give it with --model")
    return path


def _exported(source: Path, manifest: Manifest, folder: Path) -> Path:
    """The model as the artifact has it quantized, for peers."""
    path = folder / "quantized.onnx"
    run_on_model("export", source, manifest.options | {"out": str(path)})
    return path


def _peer(text: str, own: str) -> tuple[str, str]:
    """`openvino:bf16` -> ("openvino", "bf16"), beside an artifact of precision `own`."""
    name, _, precision = text.partition(":")
    if precision and precision not in TOLERANCES:
        raise UsageError(f"{text!r} asks {name} for {precision!r}: allowed is one of {', '.join(TOLERANCES)}")
    if precision == "int8" != own:
        raise UsageError(f"{text!r} needs a quantized model, and the artifact is {own}: compile with --precision int8")
    return PEERS.check(name), precision or "fp32"


def _open_all(
    engines: Sequence[Engine], stack: ExitStack, folder: Path, threads: int
) -> tuple[dict[Engine, Child], dict[str, LowprecError]]:
    """The engines that open, stopped until their turn, and why the others do not."""
    children: dict[Engine, Child] = {}
    failures: dict[str, LowprecError] = {}
    for engine in engines:
        child = stack.enter_context(child_process(folder / f"{len(children)}-{engine.name}.log"))
        try:
            child.opened = child.ask(
                {"do": "open", "engine": engine.name, "path": engine.path, "precision": engine.precision}
                | {"threads": threads, "inputs": str(folder / "inputs.npz")}
            )
        except LowprecError as problem:
            failures[engine.label] = problem
            continue
        children[engine] = child
    return children, failures


def _share_reference(children: Mapping[Engine, Child], folder: Path) -> None:
    trusted = [engine for engine in children if (engine.name, engine.precision) == ("onnxruntime", "fp32")]
    reference = (trusted or list(children))[0]
    file = str(folder / "reference.npz")
    children[reference].ask({"do": "outputs", "file": file})
    for child in children.values():
        child.ask({"do": "reference", "file": file})


def _take_turns(
    children: dict[Engine, Child], failures: dict[str, LowprecError], duration: float
) -> dict[Engine, list[Turn]]:
    """Round after round, each engine its turn, until each had its time; one that fails leaves the round."""
    counts = {engine: _runs_per_turn(child) for engine, child in children.items()}
    turns: dict[Engine, list[Turn]] = {engine: [] for engine in children}
    deadline = time.monotonic() + duration * len(children)
    while time.monotonic() < deadline or min(map(len, turns.values())) < MIN_TURNS:
        for engine, child in list(children.items()):
            try:
                turns[engine].append(child.turn(counts[engine]))
            except LowprecError as problem:
                failures[engine.label] = problem
                del children[engine], turns[engine]
        if not children:
            break
    return turns


def _runs_per_turn(child: Child) -> int:
    fastest = min(child.turn(3).seconds)
    return max(1, min(10_000, round(TURN_SECONDS / max(fastest, 1e-6))))


def _row(engine: Engine, child: Child, turns: Sequence[Turn], base: Sequence[Turn]) -> Row:
    milliseconds = 1e3 * np.array([second for turn in turns for second in turn.seconds])
    p10, p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, (10, 50, 90, 99)))
    return Row(
        engine=engine.name,
        precision=engine.precision,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        spread=(p90 - p10) / p50,
        ratio=ratio_of(turns, base),
        runs=len(milliseconds),
        error=max(turn.error for turn in turns),
        open_seconds=child.opened["seconds"],
        memory_bytes=child.ask({"do": "memory"})["bytes"],
    )


def ratio_of(turns: Sequence[Turn], base: Sequence[Turn]) -> float:
    """How many times the base's time: the median over rounds, so that a drift of the machine cancels."""
    pairs = zip(turns, base, strict=False)
    return statistics.median(statistics.median(turn.seconds) / statistics.median(own.seconds) for turn, own in pairs)


def _warnings(rows: Sequence[Row], others: float) -> tuple[str, ...]:
    found = []
    if others > NOISY_OTHERS:
        found.append(f"other programs kept {others:.1f} cores busy meanwhile: times are too long, ratios are safer")
    for row in rows:
        if row.spread > NOISY_SPREAD:
            found.append(f"the times of {row.engine} {row.precision} spread by {row.spread:.0%}: the machine was noisy")
        if row.error > TOLERANCES.get(row.precision, 0.5):
            found.append(
                f"{row.engine} {row.precision} answers differently: off by {row.error:.1e} of the largest value"
            )
    return tuple(found)
