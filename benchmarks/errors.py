"""How exact each algorithm is: `python -m benchmarks.errors`. Two tables that others have published, made here.

- Lavin & Gray 2015, table 3: the largest error on layers of VGG-E, inputs and weights from U[-1, 1];
- Barabasz 2018: the relative error of one tile size after the other, here with one channel.

Our kernels' results are compared with float64 at some pixels, all channels of them. Beside each error stands the one
that was predicted, relative to the root mean square of the results.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import tvm
from numpy.typing import NDArray

from benchmarks import command, machine
from lowprec.choosing import Candidate, candidates
from lowprec.convolution import Conv
from lowprec.schedules.convolution import pack_convolution
from lowprec.targets import Target, parse_target
from lowprec.trials import build
from lowprec.vocabulary import Vocabulary

PIXELS = 64
NO_PEERS = Vocabulary(kind="engine", built=())

VGG_E = {
    "1.2": (64, 64, 224),
    "2.2": (128, 128, 112),
    "3.2": (256, 256, 56),
    "4.2": (512, 512, 28),
    "5.2": (512, 512, 14),
}

LAVIN_GRAY = {"1.2": {"direct": 4.0e-5, "winograd:2": 1.5e-5, "winograd:4": 2.8e-4}} | {
    "5.2": {"direct": 3.4e-4, "winograd:2": 4.2e-5, "winograd:4": 1.1e-3}
}
"""Their largest errors; a direct convolution there sums in another order than ours."""

BARABASZ = {"direct": 4.6e-8, "winograd:2": 7.7e-8, "winograd:4": 3.3e-7, "winograd:6": 8.8e-7}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One algorithm's errors on one layer: the largest, and the relative one, measured and predicted."""

    layer: str
    algorithm: str
    largest: float
    relative: float
    predicted: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("errors", __doc__.partition("\n")[0], NO_PEERS)
    return command.run(lambda: measure(parser.parse_args(arguments)))


def measure(options: argparse.Namespace) -> int:
    """Both tables."""
    command.check(options, NO_PEERS)
    target = parse_target(options.target)
    rng = np.random.default_rng(options.seed)
    rows: list[Found] = []
    print(f"{'layer':<8}{'algorithm':<12}{'largest':>10}{'theirs':>10}{'relative':>10}{'predicted':>11}")
    for name in command.select(list(VGG_E), options.only):
        for found in errors(name, _layer(*VGG_E[name]), target, rng):
            print(_line(found, LAVIN_GRAY.get(name, {}).get(found.algorithm)))
            rows.append(found)
    print("\none channel, relative error; theirs: Barabasz 2018")
    for found in errors("ladder", _layer(1, 16, 48), target, rng):
        print(_line(found, BARABASZ.get(found.algorithm)))
        rows.append(found)
    peaks = machine.measure(options.threads, target)
    print(f"written to {command.save('errors', options, peaks, [asdict(row) for row in rows])}")
    return 0


def _layer(first: int, second: int, size: int) -> Conv:
    one, three, none = (1, 1), (3, 3), (0, 0)
    return Conv(
        batch=1,
        in_channels=first,
        out_channels=second,
        groups=1,
        size=(size + 2, size + 2),
        kernel=three,
        stride=one,
        dilation=one,
        pads_begin=none,
        pads_end=none,
    )


def errors(name: str, conv: Conv, target: Target, rng: np.random.Generator) -> list[Found]:
    """Every algorithm on the same numbers."""
    x = rng.uniform(-1, 1, (1, *conv.size, conv.in_channels)).astype(np.float32)
    w = rng.uniform(-1, 1, conv.weight_shape).astype(np.float32)
    rows, columns = (rng.integers(0, extent, PIXELS) for extent in conv.output_size)
    seen = np.stack([x[0, i : i + 3, j : j + 3] for i, j in zip(rows, columns, strict=True)]).astype(np.float64)
    exact = np.einsum("phwc,kchw->pk", seen, w.astype(np.float64))
    found = []
    for candidate in candidates(conv, target):
        if candidate.obstacle or candidate.error is None:
            continue
        off = _run(conv, candidate, target, x, w)[0, rows, columns] - exact
        found.append(
            Found(
                layer=name,
                algorithm=candidate.algorithm,
                largest=float(np.max(np.abs(off))),
                relative=float(np.linalg.norm(off) / np.linalg.norm(exact)),
                predicted=candidate.error,
            )
        )
    return found


def _run(
    conv: Conv, candidate: Candidate, target: Target, x: NDArray[np.float32], w: NDArray[np.float32]
) -> NDArray[np.float32]:
    kernel, function = build(conv, candidate, target)
    y = tvm.runtime.tensor(np.full((1, *conv.output_size, conv.out_channels), np.nan, np.float32))
    function(*map(tvm.runtime.tensor, (x, *pack_convolution(kernel, conv, w, None))), y)
    result: NDArray[np.float32] = y.numpy()
    return result


def _line(found: Found, theirs: float | None) -> str:
    beside = "" if theirs is None else f"{theirs:.1e}"
    shown = found.relative if found.layer == "ladder" else found.largest
    ours = f"{shown:>10.1e}{beside:>10}{found.relative:>10.1e}{found.predicted:>11.1e}"
    return f"{found.layer:<8}{found.algorithm:<12}{ours}"


if __name__ == "__main__":
    sys.exit(main())
