"""Is the choice of algorithms good? `python -m benchmarks.choices --layers 200 --seed 0`.

Layers are drawn from the seed: shapes as networks have them, dense, grouped and depthwise. All candidates of each are
timed twice, each time in a fresh process, as `lowprec tune` does it, and judged by the second times:

- untuned: the algorithm that is predicted to be fastest;
- with records: the one that was fastest the first time.

A choice is good if it took at most 1.1 times as long as the fastest.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import command, machine
from lowprec.choosing import best_of, candidates, named
from lowprec.convolution import Conv
from lowprec.plan import describe
from lowprec.records import Records, environment_of, times_in
from lowprec.targets import Target, parse_target
from lowprec.tuning import Bench, run_session, tasks_of
from lowprec.vocabulary import Vocabulary

GOOD = 1.1
TAKEN = (("predicted", "untuned"), ("measured", "with_records"))
TAKEN = (("predicted", "untuned"), ("measured", "with_records"))
NO_PEERS = Vocabulary(kind="engine", built=())

SIZES = (7, 13, 14, 17, 27, 28, 35, 56, 112)
CHANNELS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
KERNELS = ((1, 1), (3, 3), (3, 3), (3, 3), (5, 5), (7, 7), (1, 7), (7, 1), (11, 11), (15, 15))
MOST_MACS, LEAST_MACS = 4e9, 2e6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("choices", __doc__.partition("\n")[0], NO_PEERS)
    parser.add_argument("--layers", type=int, default=200, help="how many are drawn (default: %(default)s)")
    return command.run(lambda: measure(parser.parse_args(arguments)))


def measure(options: argparse.Namespace) -> int:
    """Time all, print a line for each layer whose choice was not good, save all."""
    command.check(options, NO_PEERS)
    target = parse_target(options.target)
    peaks = machine.measure(options.threads, target)
    command.announce(peaks)
    layers = draw(options.layers, options.seed)
    first, second = (times(layers, target, options) for _ in range(2))
    rows = [row(conv, target, first[conv], second[conv]) for conv in layers if conv in first and conv in second]
    for entry in rows:
        if max(entry["untuned"], entry["with_records"]) > GOOD:
            taken = (f"{entry[what]:<12} {entry[how]:.2f}" for what, how in TAKEN)
            print(f"{entry['layer']:<44} {'   '.join(taken)}")
    for name in ("untuned", "with_records"):
        good = sum(entry[name] <= GOOD for entry in rows)
        mean = np.exp(np.mean([np.log(entry[name]) for entry in rows]))
        print(
            f"{name}: within {GOOD - 1:.0%} of the fastest on {good} of {len(rows)} layers, {mean:.3f} times on average"
        )
    print(f"{len(layers) - len(rows)} layers of {len(layers)} offer no choice")
    print(f"written to {command.save('choices', options, peaks, rows)}")
    return 0


def draw(count: int, seed: int) -> list[Conv]:
    """Different layers, of a size that a network would have."""
    rng = np.random.default_rng(seed)
    found: dict[Conv, None] = {}
    while len(found) < count:
        kernel = KERNELS[rng.integers(len(KERNELS))]
        size = int(rng.choice(SIZES))
        first, second = (int(rng.choice(CHANNELS)) for _ in range(2))
        kind = rng.choice(["dense"] * 7 + ["depthwise", "groups", "image"])
        groups = {"depthwise": first, "groups": 2}.get(str(kind), 1)
        channels = 3 if kind == "image" else first
        conv = Conv(
            batch=1,
            in_channels=channels,
            out_channels=first if kind == "depthwise" else second,
            groups=groups,
            size=(size, size),
            kernel=kernel,
            stride=(2, 2) if rng.random() < 0.15 else (1, 1),
            dilation=(1, 1),
            pads_begin=(kernel[0] // 2, kernel[1] // 2),
            pads_end=(kernel[0] // 2, kernel[1] // 2),
        )
        if LEAST_MACS <= conv.macs <= MOST_MACS:
            found[conv] = None
    return list(found)


def times(layers: list[Conv], target: Target, options: argparse.Namespace) -> dict[Conv, dict[Any, float]]:
    """Every candidate's seconds, by a fresh process."""
    environment = environment_of(target, options.threads)
    tasks = tasks_of(Counter(layers), target, environment)
    with (
        TemporaryDirectory(prefix="lowprec-choices-") as folder,
        Records(Path(folder) / "records.db") as store,
        Bench(options.target, options.threads) as bench,
    ):
        run_session(store, tasks, bench, most=len(tasks), budget=None, say=lambda _: None)
        return times_in(store, layers, environment)


def row(conv: Conv, target: Target, first: dict[Any, float], second: dict[Any, float]) -> dict[str, Any]:
    """How much longer than the fastest each choice took."""
    predicted = best_of([candidate for candidate in candidates(conv, target) if candidate.within_budget])
    untuned = (predicted.algorithm, predicted.sizes)
    fastest = min(first, key=lambda entry: first[entry])
    return {
        "layer": describe(conv),
        "conv": asdict(conv),
        "predicted": named(*untuned),
        "untuned": second.get(untuned, float("inf")) / min(second.values()),
        "with_records": second.get(fastest, float("inf")) / min(second.values()),
        "measured": named(*fastest),
        "seconds": [{named(*entry): seconds for entry, seconds in run.items()} for run in (first, second)],
    }


if __name__ == "__main__":
    sys.exit(main())
