"""Time by layer, beside the least time that the machine allows: which layer is slow, and how much faster it could be.

    print(profile_artifact("model.lowprec", threads=2, run_ms=12.5, duration=5))

Every kernel call is timed on its own, inside whole runs. Its bound is the larger of two times: its multiply-adds at the
measured peak of what it multiplies (fp32, or bytes), and its bytes, moved once, at the measured bandwidth of the place
they may come from (`peaks`).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec import storage
from lowprec.artifact import Artifact, load
from lowprec.errors import UsageError
from lowprec.manifest import CallSpec
from lowprec.peaks import Bound, Peaks, measure_peaks
from lowprec.plan import Plan, table
from lowprec.samples import sample_inputs
from lowprec.tiles import TERMS

Array = NDArray[np.generic]

FEWEST, MOST = 3, 1000  # runs
GRANTED = 0.9  # share of the time that measured peaks need
_BAR = 20  # characters for the slowest layer


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """One kernel call. `ms` is the median over runs, `spread` (p90 - p10) / p50, `share` of the sum over all calls,
    `gflops` counts operations on floats or bytes, `bound_ms` is the least time by what `bound` names, and `of_bound`
    that over `ms`: 1 is as fast as the machine."""

    layer: str
    op: str
    family: str
    ms: float
    spread: float
    share: float
    macs: int
    bytes: int
    gflops: float
    gb_per_s: float
    bound: str
    bound_ms: float
    of_bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Every kernel call in the order of a run; `run_ms` is the time of a whole run that nobody observed."""

    layers: tuple[LayerTime, ...]
    peaks: Peaks
    run_ms: float

    @property
    def totals(self) -> dict[str, Any]:
        """Sums over calls, and the whole run against the sum of bounds."""
        names = ("ms", "macs", "bytes", "bound_ms")
        sums = {name: sum(getattr(layer, name) for layer in self.layers) for name in names}
        return sums | {"run_ms": self.run_ms, "of_bound": sums["bound_ms"] / self.run_ms}

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.peaks.granted >= GRANTED:
            return ()
        return (
            f"the threads were given {self.peaks.granted:.0%} of the time in which the machine's peaks were measured: "
            "they may be too low, and the shares of them too high",
        )

    def to_json(self) -> dict[str, Any]:
        layers = [asdict(layer) for layer in self.layers]
        return {"layers": layers, "totals": self.totals, "peaks": self.peaks.to_json()}

    def __str__(self) -> str:
        totals, longest = self.totals, max(layer.share for layer in self.layers)
        rows = [_cells(layer, longest) for layer in self.layers]
        sums = _numbers(totals["ms"], totals["macs"], totals["bytes"])
        total = ("total", "", "", sums[0], "", "100.0%", *sums[1:], "", f"{totals['bound_ms'] / totals['ms']:.0%}", "")
        run = (
            f"a whole run takes {self.run_ms:.3f} ms and the layers' bounds are {totals['bound_ms']:.3f} ms together: "
            f"{totals['of_bound']:.0%} of what the machine allows a direct algorithm"
        )
        return "\n".join([str(self.peaks), "", table(_right([_HEADER, *rows, total])), "", run])


WORD_STEPS, BFLOAT_STEPS, HALF_STEPS = 4, 2, 2 * TERMS
"""Products of bytes that take as long as one of 16-bit integers, and on tiles as one of bf16, or of fp16."""

BYTE_STEPS = {"int16": WORD_STEPS, "bf16": BFLOAT_STEPS, "fp16": HALF_STEPS}
_NUMBERS = ("ms", "spread", "share", "GMAC", "MB", "GOP/s", "GB/s")
_HEADER = ("layer", "operators", "family", *_NUMBERS, "bound", "of bound", "")


def check_profilable(directory: str | os.PathLike[str]) -> None:
    """There must be something to time: refused before anything is measured."""
    if not storage.read(Path(directory)).calls:
        raise UsageError("the artifact calls no kernels, so there is nothing to time by layer: leave --layers out")


def profile_artifact(
    directory: str | os.PathLike[str], *, threads: int, run_ms: float, duration: float, seed: int = 0
) -> Profile:
    """The profile of an artifact on disk, on seeded inputs."""
    art = load(directory, threads=threads)
    inputs = sample_inputs(art.inputs, seed)
    return profile_layers(art, measure_peaks(threads), inputs=inputs, run_ms=run_ms, duration=duration)


def profile_layers(
    art: Artifact, peaks: Peaks, *, inputs: Mapping[str, Array], run_ms: float, duration: float
) -> Profile:
    """Time every kernel call for about `duration` seconds; `run_ms` is what a run takes."""
    calls = art.manifest.calls
    repeats = max(FEWEST, min(MOST, round(1e3 * duration / max(run_ms, 1e-3))))
    seconds = [time.seconds for time in art.profile(inputs, repeats)]
    milliseconds = 1e3 * np.array(seconds).reshape(repeats, len(calls))
    layers = layer_times(calls, milliseconds, peaks, byte_steps=byte_steps(art.plan, calls))
    return Profile(layers=layers, peaks=peaks, run_ms=run_ms)


def byte_steps(plan: Plan, calls: Sequence[CallSpec]) -> dict[str, int]:
    """Of layers that multiply integers, or floats on tiles: products of bytes that take as long as one of theirs."""
    on_tiles = {call.layer for call in calls if call.family == "amx"}
    products = (choice for choice in plan.choices if choice.formats.integers or choice.layer in on_tiles)
    return {choice.layer: BYTE_STEPS.get(choice.formats.activations, 1) for choice in products}


def layer_times(
    calls: Sequence[CallSpec],
    milliseconds: NDArray[np.float64],
    peaks: Peaks,
    *,
    byte_steps: Mapping[str, int] | None = None,
) -> tuple[LayerTime, ...]:
    """A row for each call, from the times of several runs: `milliseconds` is runs by calls; `byte_steps` are of some
    layers."""
    p10, p50, p90 = np.maximum(np.percentile(milliseconds, (10, 50, 90), axis=0), 1e-6)  # a clock's tick at least
    far = sum(call.cost.weight_bytes for call in calls)
    steps = [(byte_steps or {}).get(call.layer, 0) for call in calls]
    bounds = [peaks.bound(call.cost, far=far, byte_steps=count) for call, count in zip(calls, steps, strict=True)]
    return tuple(
        _layer(call, bounds[i], ms=float(p50[i]), spread=float((p90[i] - p10[i]) / p50[i]), total=float(p50.sum()))
        for i, call in enumerate(calls)
    )


def _layer(call: CallSpec, bound: Bound, *, ms: float, spread: float, total: float) -> LayerTime:
    return LayerTime(
        layer=call.layer,
        op=call.op,
        family=call.family,
        ms=ms,
        spread=spread,
        share=ms / total,
        macs=call.cost.macs,
        bytes=call.cost.bytes,
        gflops=2e-6 * call.cost.macs / ms,
        gb_per_s=1e-6 * call.cost.bytes / ms,
        bound=str(bound.limit),
        bound_ms=1e3 * bound.seconds,
        of_bound=1e3 * bound.seconds / ms,
    )


def _cells(layer: LayerTime, longest: float) -> tuple[str, ...]:
    ms, macs, size, gflops, speed = _numbers(layer.ms, layer.macs, layer.bytes)
    bar = "#" * max(1, round(_BAR * layer.share / longest))
    measured = (ms, f"{layer.spread:.0%}", f"{layer.share:.1%}", macs, size, gflops, speed)
    return (layer.layer, layer.op, layer.family, *measured, layer.bound, f"{layer.of_bound:.0%}", bar)


def _numbers(ms: float, macs: int, size: int) -> tuple[str, str, str, str, str]:
    """Milliseconds, GMACs, megabytes, operations and bytes a second; nothing where nothing is multiplied."""
    products = (f"{macs / 1e9:.4f}", f"{2e-6 * macs / ms:.0f}") if macs else ("", "")
    return f"{ms:.3f}", products[0], f"{size / 1e6:.3f}", products[1], f"{1e-6 * size / ms:.1f}"


def _right(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The columns of numbers, aligned at their right."""
    widths = [
        max(map(len, column)) if column[0] in (*_NUMBERS, "of bound") else 0 for column in zip(*rows, strict=True)
    ]
    return [tuple(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
