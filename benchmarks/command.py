"""What the benchmark programs share: options, the machine's lines, the results file."""

import argparse
import fnmatch
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine
from lowprec.errors import LowprecError, UsageError
from lowprec.targets import available_cores, parse_target
from lowprec.vocabulary import PRECISIONS, Vocabulary

RESULTS = Path(__file__).parent / "results"


def parser(name: str, summary: str, peers: Vocabulary) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=summary)
    made.add_argument("--only", action="append", metavar="GLOB", help="names to measure; may be given again")
    made.add_argument("--threads", type=int, default=available_cores(), help="for every engine (default: all cores)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--precision", default="fp32", help="what ours computes in; peers compute in fp32")
    made.add_argument("--target", default="native", help="what ours may use of the CPU; peers use all of it")
    made.add_argument("--peers", default=",".join(peers.built), help="comma-separated (default: %(default)s)")
    made.add_argument("--duration", type=float, metavar="SECONDS", help="measuring, for every engine and subject")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results here as well")
    made.add_argument("--list", action="store_true", help="print the names and stop")
    return made


def run(program: Callable[[], int]) -> int:
    """The program's exit code; an error is one line on stderr."""
    try:
        return program()
    except LowprecError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.exit_code


def check(options: argparse.Namespace, peers: Vocabulary) -> tuple[str, ...]:
    """Refuse what cannot be measured; the peers asked for."""
    PRECISIONS.check(options.precision)
    parse_target(options.target)
    if not 1 <= options.threads <= 1024:
        raise UsageError(f"--threads is {options.threads}: give a whole number from 1 to 1024")
    if options.duration is not None and not options.duration > 0:
        raise UsageError(f"--duration is {options.duration}: give seconds above 0")
    return tuple(peers.check(name) for name in options.peers.split(",") if name)


def select(names: Sequence[str], globs: Sequence[str] | None) -> list[str]:
    """The names that any glob matches; a glob that matches nothing is an error."""
    for glob in globs or ():
        if not fnmatch.filter(names, glob):
            raise UsageError(f"--only {glob} matches nothing: allowed is {', '.join(names)}")
    return [name for name in names if not globs or any(fnmatch.fnmatch(name, glob) for glob in globs)]


def announce(peaks: machine.Peaks) -> None:
    """The machine, what it can do at best, and whether it is ours alone."""
    facts = machine.describe()
    caches = " ".join(f"{level} {size}" for level, size in facts["cache"].items())
    print(f"{facts['cpu']}, {facts['cores']} cores, {caches}, {facts['memory_gib']} GiB, kernel {facts['kernel']}")
    print(f"load average {facts['load_average'][0]}, governor {facts['governor']}, python {facts['python']}")
    print(", ".join(f"{name} {version}" for name, version in facts["packages"].items()))
    print(peaks)
    warning = machine.noise(peaks.threads)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)


def save(name: str, options: argparse.Namespace, peaks: machine.Peaks, rows: Sequence[dict[str, Any]]) -> Path:
    """Write benchmarks/results/NAME-PRECISION-THREADSt.json (another target: ...-TARGET.json; a part of the suite:
    ...-part.json), and --json's file."""
    document = {
        "schema": "lowprec.benchmark/1",
        "benchmark": name,
        "command": shlex.join(["python", "-m", f"benchmarks.{name.partition('-')[0]}", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "precision": options.precision,
        "target": options.target,
        "threads": options.threads,
        "seed": options.seed,
        "machine": machine.record(peaks),
        "rows": list(rows),
    }
    part = ("" if options.target == "native" else f"-{options.target}") + ("-part" if options.only else "")
    path = RESULTS / f"{name}-{options.precision}-{options.threads}t{part}.json"
    for target in (path, options.json):
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(document, indent=1) + "\n")
    return path
