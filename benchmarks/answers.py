"""Are the answers right? `lowprec verify` over the nine networks and our own builders: `python -m benchmarks.answers`.

One line each: the worst error of any output and of any layer, against ONNX Runtime, relative to the tensor's largest
magnitude. `--batch` and `--image` rebuild our own networks at another size (197, say); the nine keep theirs.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

import lowprec
from benchmarks import command, models
from lowprec.errors import LowprecError, OutOfBounds
from lowprec.targets import available_cores
from tests.networks import NETWORKS


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="GLOB", help="names to verify; may be given again")
    parser.add_argument("--small", action="store_true", help="our own networks at the size the tests use")
    parser.add_argument("--batch", type=int, default=1, help="of our own networks")
    parser.add_argument("--image", type=int, help="rows and columns of our own networks' inputs")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=Path, default=Path("build/models"), help="folder of the made models")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    return command.run(lambda: verify_all(options))


def verify_all(options: argparse.Namespace) -> int:
    """Verify every network asked for; exit 5 when any is outside its bound or fails."""
    names = command.select([*models.NAMES, *(network.name for network in NETWORKS)], options.only)
    print(f"{'network':<20}{'output':>10}{'layer':>10}{'seconds':>9}  verdict")
    rows = []
    for name in names:
        rows.append(verify_one(name, options))
        print(_line(rows[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"schema": "lowprec.answers/1", "rows": rows}, indent=1) + "\n")
    wrong = sum(not row["passed"] for row in rows)
    return OutOfBounds.exit_code if wrong else 0


def verify_one(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One network's verdict, or why there is none."""
    began = time.perf_counter()
    row: dict[str, Any] = {"network": name, "passed": False}
    try:
        with _model(name, options) as model:
            artifact = lowprec.compile(model, threads=options.threads)
            report = lowprec.verify(artifact, model, seed=options.seed)
        row |= {
            "passed": report.passed,
            "output": max(entry.errors.relative for entry in report.outputs),
            "layer": max((entry.errors.relative for entry in report.layers), default=0.0),
            "first_bad": report.first_bad,
            "notes": list(report.notes),
        }
    except LowprecError as problem:
        row["failed"] = str(problem)
    return row | {"seconds": time.perf_counter() - began}


@contextmanager
def _model(name: str, options: argparse.Namespace) -> Iterator[Path]:
    if name in models.NAMES:
        yield models.cached(name, options.models)
        return
    network = next(network for network in NETWORKS if network.name == name)
    size = network.small if options.small else network.full
    size = size if options.image is None else replace(size, image=options.image)
    with tempfile.TemporaryDirectory(prefix="lowprec-answers-") as folder:
        path = Path(folder) / f"{name}.onnx"
        onnx.save(network.model(size, batch=options.batch), path)
        yield path


def _line(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"{row['network']:<20}{'':>20}{row['seconds']:>9.1f}  failed: {row['failed']}"
    verdict = "passed" if row["passed"] else f"WRONG, first at {row['first_bad']}"
    notes = "".join(f"\n    note: {note}" for note in row["notes"])
    return f"{row['network']:<20}{row['output']:>10.1e}{row['layer']:>10.1e}{row['seconds']:>9.1f}  {verdict}{notes}"


if __name__ == "__main__":
    sys.exit(main())
