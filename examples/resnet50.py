"""The main job from end to end: ResNet-50 in fp32 and int8, compiled, verified, measured beside ONNX Runtime, reported.

    python -m examples.resnet50                     # build/demo/report.html, report-int8.html and a short table

The weights are random and seeded: time depends on the architecture alone, and nothing has to be downloaded.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lowprec
from benchmarks import models
from lowprec.benchmarking import BenchReport, bench
from lowprec.report import write_report
from lowprec.samples import sample_inputs
from lowprec.verdict import Report

SAMPLES = 16


def main(words: Sequence[str] | None = None) -> int:
    """Do the job; exit code 0 when the artifacts' answers are right."""
    options = _parser().parse_args(words)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)

    # 1. The model, an ONNX file like any other.
    model = Path(options.model) if options.model else models.cached("resnet50", output)

    # 2. In fp32: compiled, proved, measured, reported.
    plain, verdict = build(output, model, options, precision="fp32")

    # 3. In int8, with ranges from samples: here random ones, as the weights are; with real weights, real images.
    samples = [sample_inputs(plain.inputs, seed=1, index=index) for index in range(SAMPLES)]
    _, quantized = build(output, model, options, precision="int8", calibration=samples)
    return 0 if verdict.passed and quantized.passed else 5


def build(
    output: Path, model: Path, options: argparse.Namespace, *, precision: str, **more: Any
) -> tuple[lowprec.Artifact, Report]:
    """One precision, from the model to the report."""
    suffix = "" if precision == "fp32" else f"-{precision}"
    folder = output / f"model{suffix}.lowprec"

    # 1. Compile it. The artifact is a directory, to be copied to wherever it should run.
    began = time.perf_counter()
    lowprec.compile(model, precision=precision, threads=options.threads, **more).save(folder)
    print(f"compiled {model} in {precision} in {time.perf_counter() - began:.1f} s", flush=True)

    # 2. Prove it: per output and per layer against ONNX Runtime, and in int8 bit for bit against what integers mean.
    artifact = lowprec.load(folder)
    verdict = lowprec.verify(artifact, model)
    print(verdict, flush=True)

    # 3. Measure it beside ONNX Runtime, in turns, in one run; in int8 both run the same quantized model.
    print(measure(folder, model, precision, options), flush=True)

    # 4. One HTML file with everything that was found.
    write_report(artifact, output / f"report{suffix}.html", model=model)
    print(f"the report is {output / f'report{suffix}.html'}\n", flush=True)
    return artifact, verdict


def measure(folder: Path, model: Path, precision: str, options: argparse.Namespace) -> BenchReport:
    """The artifact beside ONNX Runtime in the same precision, and in fp32."""
    against = dict.fromkeys(("onnxruntime", "onnxruntime" if precision == "fp32" else f"onnxruntime:{precision}"))
    measured = bench(folder, model=model, against=[*against], threads=options.threads, duration=options.duration)
    for warning in measured.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return measured


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="build/demo", help="the folder for artifacts and reports")
    parser.add_argument("--model", help="another ONNX file in place of ResNet-50")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds to measure each engine for")
    parser.add_argument("--threads", type=int, help="default: every core allowed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
