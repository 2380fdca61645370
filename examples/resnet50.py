"""The main job from end to end: ResNet-50 compiled, verified, measured beside ONNX Runtime, reported.

    python -m examples.resnet50                     # build/demo/report.html and a short table

The weights are random and seeded: time depends on the architecture alone, and nothing has to be downloaded.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import lowprec
from benchmarks import models
from lowprec.benchmarking import bench
from lowprec.report import write_report


def main(words: Sequence[str] | None = None) -> int:
    """Do the job; exit code 0 when the artifact's answers are right."""
    options = _parser().parse_args(words)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)

    # 1. The model, an ONNX file like any other.
    model = Path(options.model) if options.model else models.cached("resnet50", output)

    # 2. Compile it. The artifact is a directory, to be copied to wherever it should run.
    began = time.perf_counter()
    artifact = lowprec.compile(model, threads=options.threads)
    artifact.save(output / "model.lowprec")
    print(f"compiled {model} in {time.perf_counter() - began:.1f} s", flush=True)

    # 3. Prove it, against ONNX Runtime, per output and per layer.
    artifact = lowprec.load(output / "model.lowprec")
    verdict = lowprec.verify(artifact, model)
    print(verdict, flush=True)

    # 4. Measure it beside ONNX Runtime, in turns, in one run.
    measured = bench(
        output / "model.lowprec",
        model=model,
        against=["onnxruntime"],
        threads=options.threads,
        duration=options.duration,
    )
    print(measured)
    for warning in measured.warnings:
        print(f"warning: {warning}", file=sys.stderr)

    # 5. One HTML file with everything that was found.
    write_report(artifact, output / "report.html", model=model)
    print(f"the report is {output / 'report.html'}")
    return 0 if verdict.passed else 5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="build/demo", help="the folder for the artifact and the report")
    parser.add_argument("--model", help="another ONNX file in place of ResNet-50")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds to measure each engine for")
    parser.add_argument("--threads", type=int, help="default: every core allowed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
