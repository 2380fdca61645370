"""One candidate built, checked and timed, in a process of its own: `python -m lowprec.trials`, driven by `tuning`.

One JSON object a line: {"conv": {...}, "algorithm": "winograd:4", "sizes": [], "target": "native", "threads": 1} on
stdin, {"status": "right", "seconds": 0.0012, "error": 3e-07} on stdout. A kernel that answers wrongly has no time.

Weights are cold, as in a network: several copies take turns, more than the second-level cache holds. The answer is
compared with float64 at a few pixels, all channels of them.

A machine is slower in one second than in another, so candidates of a layer are not compared by when they had their
turn: the first right one stays, every other runs alternately with it, and its time is the first's time, multiplied by
the ratio of the two, turn by turn.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from lowprec import runtime, strict_json
from lowprec.building import quick_passes
from lowprec.choosing import Candidate, candidate_of, candidates
from lowprec.convolution import Conv
from lowprec.errors import LowprecError
from lowprec.records import FAILED, RIGHT, WRONG
from lowprec.schedules.convolution import (
    ConvolutionRequest,
    Kernel,
    build_convolution,
    convolution_kernel,
    pack_convolution,
)
from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.windows import whole
from lowprec.targets import Target, parse_target

Floats = NDArray[np.float32]

CACHE = 8 << 20
"""Bytes of weights that have left the second-level cache when their turn comes again."""

MOST_COPIES = 8
RUNS, SECONDS = 7, 0.25
PIXELS = 24
FAR = 12.0
"""So many times the error that is predicted for the worst place of a tile is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A kernel, and arguments to run it with, some of which take turns."""

    function: Any
    banks: list[list[Any]]
    y: Any

    def seconds(self, turn: int) -> float:
        """Of one run."""
        arguments = self.banks[turn % len(self.banks)]
        start = time.perf_counter()
        self.function(*arguments, self.y)
        return time.perf_counter() - start


@dataclass(slots=True)
class Yardstick:
    """The kernel that others of the same layer are measured by: the first that was right."""

    conv: Conv | None = None
    built: Built | None = None
    own: float = 0.0

    def measure(self, conv: Conv, built: Built) -> float:
        """The time of a kernel."""
        if self.built is None or conv != self.conv:
            self.conv, self.built = conv, built
            self.own = float(np.median(turns([built])))
            return self.own
        found = turns([self.built, built])
        return self.own * float(np.median(found[:, 1] / found[:, 0]))


def turns(kernels: Sequence[Built]) -> NDArray[np.float64]:
    """The seconds of each in every turn."""
    found: list[list[float]] = []
    began = time.perf_counter()
    while len(found) < RUNS or time.perf_counter() - began < SECONDS * len(kernels):
        found.append([kernel.seconds(len(found)) for kernel in kernels])
    return np.array(found)


def attempt(request: Mapping[str, Any], yardstick: Yardstick) -> dict[str, Any]:
    """The answer to a request."""
    conv = strict_json.decode(Conv, request["conv"])
    target = parse_target(request["target"])
    candidate = candidate_of(conv, request["algorithm"], tuple(request["sizes"]), target)
    if candidate is None:
        named = (other for other in candidates(conv, target) if other.algorithm == request["algorithm"])
        obstacle = next((other.obstacle for other in named), "")
        return {"status": FAILED, "detail": obstacle or f"{request['algorithm']} is no algorithm for this layer"}
    bare = unpadded(conv)
    threads = request["threads"]
    kernel, function = build(bare, candidate, target, threads=threads, bias=True)
    source, result = _shapes(bare)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(source, np.float32)
    w = rng.standard_normal(bare.weight_shape, np.float32) / np.float32(np.sqrt(prod(bare.weight_shape[1:])))
    bias = rng.standard_normal(bare.out_channels, np.float32)
    packed = pack_convolution(kernel, bare, w, bias)
    copies = max(1, min(MOST_COPIES, -(-CACHE // max(1, sum(array.nbytes for array in packed)))))
    y = tvm.runtime.tensor(np.full(result, np.nan, np.float32))
    banks = [[tvm.runtime.tensor(array) for array in (x, *packed)] for _ in range(copies)]
    runtime.set_threads(threads)
    function(*banks[0], y)
    error = _error(bare, x, w, bias, y.numpy(), rng)
    prediction = candidate.prediction
    assert prediction is not None
    if not error <= FAR * prediction.peak * prediction.error:
        return {"status": WRONG, "detail": f"off by {error:.1e}, predicted was {prediction.error:.1e}"}
    built = Built(function=function, banks=banks, y=y)
    return {"status": RIGHT, "seconds": yardstick.measure(conv, built), "error": error}


def build(
    conv: Conv, candidate: Candidate, target: Target, *, threads: int = 1, bias: bool = False
) -> tuple[Kernel, Any]:
    """The kernel that computes an unpadded convolution alone, and its function."""
    source, result = map(whole, _shapes(conv))
    request = ConvolutionRequest(
        conv=conv,
        source=source,
        result=result,
        epilogue=Epilogue(),
        bias=bias,
        algorithm=candidate.algorithm,
        sizes=candidate.sizes,
        threads=threads,
    )
    kernel = convolution_kernel(request, target)
    module = tvm.IRModule({"main": build_convolution(kernel)})
    with quick_passes():
        return kernel, tvm.compile(module, target=tvm.target.Target(target.tvm_target(threads)))["main"]


def _shapes(conv: Conv) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of an unpadded convolution's input and result, channels last."""
    return (conv.batch, *conv.size, conv.in_channels), (conv.batch, *conv.output_size, conv.out_channels)


def unpadded(conv: Conv) -> Conv:
    """The convolution of an input that has its padding around it."""
    size = tuple(b + n + e for b, n, e in zip(conv.pads_begin, conv.size, conv.pads_end, strict=True))
    none = (0,) * len(size)
    return replace(conv, size=size, pads_begin=none, pads_end=none)


def _error(conv: Conv, x: Floats, w: Floats, bias: Floats, y: Floats, rng: np.random.Generator) -> float:
    """The largest difference at some pixels, relative to what the sums of squares say of a result's size."""
    extents = (conv.batch, *conv.output_size)
    count = prod(extents)
    places = {*rng.integers(0, count, PIXELS).tolist(), 0, count - 1}
    pixels = [tuple(map(int, np.unravel_index(place, extents))) for place in places]
    weights = w.astype(np.float64).reshape(conv.groups, conv.out_channels // conv.groups, -1)
    seen = np.stack([_window(conv, x, pixel) for pixel in pixels], axis=1)
    exact, size = (np.einsum("gpt,gkt->pgk", a, b, optimize=True) for a, b in ((seen, weights), (seen**2, weights**2)))
    flat = (len(pixels), conv.out_channels)
    got = np.stack([y[pixel] for pixel in pixels])
    off = np.abs(got - (exact.reshape(flat) + bias)) / (np.sqrt(size.reshape(flat)) + np.abs(bias))
    return float(np.max(off))


def _window(conv: Conv, x: Floats, pixel: tuple[int, ...]) -> NDArray[np.float64]:
    """What an output pixel sees: (group, channel and tap)."""
    n, *at = pixel
    axes = zip(at, conv.stride, conv.kernel, conv.dilation, strict=True)
    window: tuple[Any, ...] = (n, *(slice(o * s, o * s + (k - 1) * d + 1, d) for o, s, k, d in axes))
    seen: NDArray[np.float64] = x[window].astype(np.float64)
    return np.moveaxis(seen, -1, 0).reshape(conv.groups, -1)


def main() -> None:
    """Answer requests until stdin ends; what libraries print goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    yardstick = Yardstick()
    for line in sys.stdin:
        try:
            reply = attempt(json.loads(line), yardstick)
        except (LowprecError, ValueError, RuntimeError, tvm.error.InternalError) as problem:
            lines = str(problem).strip().splitlines() or [type(problem).__name__]
            reply = {"status": FAILED, "detail": lines[-1]}
        os.write(out, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
