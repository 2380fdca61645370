"""Layers in every number format, as shares of what the machine's units can do: `layers --suite formats`.

    conv3_256_56    fp32 163 GOP/s 95 %    int8 596 GOP/s 78 %    ...

Each format is a build of a chain of copies (layer_suite.py), each of which reads what the one before gave, as in a
network, and has weights of its own; what is timed is the kernels of the layer alone, in turns. Each turn measures the
units anew, since a shared machine's clock has good and bad minutes: a share is the median over turns of a rate over the
unit's in that turn. Floats are computed directly, with as many multiplications as the model has.

The unit of fp32 is that of its multiply-adds, and so is that of bf16 and fp16 where there are no tiles; that of
integers the one of products of bytes, of which exact products of 16 bits take four, and on tiles those of bf16 two, of
fp16 six. That of signs is not measured: three instructions xor, count and add 512 products, where two make 32 of fp32,
so it is 32/3 of fp32's.
"""

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from benchmarks.layer_suite import BenchLayer, chain, inputs
from lowprec.artifact import Artifact, load
from lowprec.compilation import Options, compile_to
from lowprec.errors import LowprecError
from lowprec.peaks import Peaks, measure_peaks
from lowprec.profiling import BFLOAT_STEPS, HALF_STEPS, WORD_STEPS
from lowprec.recipe import Recipe, Rule
from lowprec.targets import native

FORMATS = ("fp32", "bf16", "fp16", "int8", "q2.14", "binary")
FORCED = {"fp32": "direct", "bf16": "direct", "fp16": "direct"}
"""Algorithms with as many multiplications as the model: the share of a peak means something then."""
COPIES = 8
FEWEST = 7
"""Turns."""
SIGNS = 32 / 3


def header() -> str:
    return f"{'layer':<24}" + "".join(f"{fmt + ' GOP/s':>15}{'share':>7}" for fmt in FORMATS)


def units(threads: int) -> dict[str, float]:
    """Operations a second that each format's unit can do at best."""
    peaks: Peaks = measure_peaks(threads)
    tiles = native().has("amx_bf16")
    return {
        "fp32": peaks.flops,
        "bf16": peaks.byte_operations / BFLOAT_STEPS if tiles else peaks.flops,
        "fp16": peaks.byte_operations / HALF_STEPS if tiles else peaks.flops,
        "int8": peaks.byte_operations,
        "q2.14": peaks.byte_operations / WORD_STEPS,
        "binary": SIGNS * peaks.flops,
    }


def measure_formats(layer: BenchLayer, options: argparse.Namespace) -> dict[str, Any]:
    """One layer in every format."""
    feeds = inputs(layer, 1, seed=options.seed)
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="lowprec-formats-") as folder:
        model = Path(folder) / "chain.onnx"
        built = {}
        for fmt in FORMATS:
            onnx.save(chain(layer, COPIES, seed=options.seed, rectified=fmt != "binary"), model)
            try:
                built[fmt] = _build(fmt, model, Path(folder) / fmt, options)
            except LowprecError as problem:
                failures[fmt] = str(problem)
        rates: dict[str, list[float]] = {fmt: [] for fmt in built}
        shares: dict[str, list[float]] = {fmt: [] for fmt in built}
        for _ in range(FEWEST):
            peaks = units(options.threads)
            for fmt, artifact in built.items():
                rates[fmt].append(2 * layer.macs * COPIES / _seconds(artifact, feeds))
                shares[fmt].append(rates[fmt][-1] / peaks[fmt])
    rows = {}
    for fmt, found in rates.items():
        rate = statistics.median(found)
        rows[fmt] = {"p50_ms": 2e3 * layer.macs / rate, "gops": rate / 1e9, "share": statistics.median(shares[fmt])}
    return {"layer": layer.name, "macs": layer.macs, "copies": COPIES, "formats": rows, "failures": failures}


def line(row: Mapping[str, Any]) -> str:
    cells = "".join(_cell(row["formats"].get(fmt)) for fmt in FORMATS)
    return f"{row['layer']:<24}{cells}" + "".join(f"\n    {fmt} failed: {why}" for fmt, why in row["failures"].items())


def _cell(found: Mapping[str, float] | None) -> str:
    return f"{'failed':>15}{'':>7}" if found is None else f"{found['gops']:>15.0f}{found['share']:>7.0%}"


def _build(fmt: str, model: Path, directory: Path, options: argparse.Namespace) -> Artifact:
    """The chain with all layers in a format, the first and the last one too."""
    chosen = Options(
        recipe=Recipe(rules=tuple(Rule(op=op, weights=fmt, activations=fmt) for op in ("Conv", "Gemm"))),
        algorithm=FORCED.get(fmt, "auto"),
        threads=options.threads,
        target=options.target,
        seed=options.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a random network is not calibrated, or not trained to be binary
        compile_to(str(directory), model, chosen, command="python -m benchmarks.layers --suite formats")
    return load(directory, options.threads)


def _seconds(artifact: Artifact, feeds: Mapping[str, Any]) -> float:
    """Of the kernels that multiply, of all copies, in the second of two runs."""
    artifact.profile(feeds, repeats=1)
    calls = artifact.profile(feeds, repeats=1)
    return sum(call.seconds for call in calls if any(op in call.op for op in ("conv", "matmul")))
