"""One candidate built, checked and timed, in a process of its own: `python -m lowprec.trials`, driven by `tuning`.

One JSON object a line: {"conv": {...}, "algorithm": "winograd:4", "sizes": [], "target": "native", "threads": 1} on
stdin, {"status": "right", "seconds": 0.0012, "error": 3e-07} on stdout. A kernel that answers wrongly has no time.

Weights are cold, as in a network: several copies take turns, more than the second-level cache holds. The answer is
compared with float64 at a few pixels, all channels of them.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from lowprec import runtime
from lowprec.choosing import candidate_of, candidates
from lowprec.convolution import Conv
from lowprec.errors import LowprecError
from lowprec.records import FAILED, RIGHT, WRONG
from lowprec.schedules.convolution import ConvolutionRequest, build_convolution, convolution_kernel, pack_convolution
from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.windows import whole
from lowprec.targets import parse_target
from lowprec.tuning import conv_from

Floats = NDArray[np.float32]

CACHE = 8 << 20
"""Bytes of weights that have left the second-level cache when their turn comes again."""

MOST_COPIES = 8
RUNS, SECONDS = 7, 0.25
PIXELS = 24
FAR = 12.0
"""So many times the predicted error, at any one place, is wrong."""


def attempt(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    conv = conv_from(request["conv"])
    target = parse_target(request["target"])
    candidate = candidate_of(conv, request["algorithm"], tuple(request["sizes"]), target)
    if candidate is None:
        named = (other for other in candidates(conv, target) if other.algorithm == request["algorithm"])
        obstacle = next((other.obstacle for other in named), "")
        return {"status": FAILED, "detail": obstacle or f"{request['algorithm']} is no algorithm for this layer"}
    bare = unpadded(conv)
    threads = request["threads"]
    source, result = (bare.batch, *bare.size, bare.in_channels), (bare.batch, *bare.output_size, bare.out_channels)
    kernel = convolution_kernel(
        ConvolutionRequest(
            conv=bare,
            source=whole(source),
            result=whole(result),
            epilogue=Epilogue(),
            bias=True,
            algorithm=candidate.algorithm,
            sizes=candidate.sizes,
            threads=threads,
        ),
        target,
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal(source, np.float32)
    w = rng.standard_normal(bare.weight_shape, np.float32) / np.float32(np.sqrt(prod(bare.weight_shape[1:])))
    bias = rng.standard_normal(bare.out_channels, np.float32)
    packed = pack_convolution(kernel, bare, w, bias)
    function = tvm.compile(
        tvm.IRModule({"main": build_convolution(kernel)}),
        target=tvm.target.Target(target.tvm_target(threads)),
    )["main"]
    copies = max(1, min(MOST_COPIES, -(-CACHE // max(1, sum(array.nbytes for array in packed)))))
    y = tvm.runtime.tensor(np.full(result, np.nan, np.float32))
    banks = [[tvm.runtime.tensor(array) for array in (x, *packed)] for _ in range(copies)]
    runtime.set_threads(threads)
    function(*banks[0], y)
    error = _error(bare, x, w, bias, y.numpy(), rng)
    assert candidate.error is not None
    if not error <= FAR * candidate.error:
        return {"status": WRONG, "detail": f"off by {error:.1e}, predicted was {candidate.error:.1e}"}
    return {"status": RIGHT, "seconds": _time(function, banks, y), "error": error}


def unpadded(conv: Conv) -> Conv:
    """The convolution of an input that has its padding around it."""
    size = tuple(b + n + e for b, n, e in zip(conv.pads_begin, conv.size, conv.pads_end, strict=True))
    none = (0,) * len(size)
    return replace(conv, size=size, pads_begin=none, pads_end=none)


def _error(conv: Conv, x: Floats, w: Floats, bias: Floats, y: Floats, rng: np.random.Generator) -> float:
    """The largest difference at some pixels, relative to what the sums of squares say of a result's size."""
    worst = 0.0
    count = prod((conv.batch, *conv.output_size))
    corners = {0, count - 1}
    group, taps = conv.out_channels // conv.groups, w.shape[1]
    for flat in {*rng.integers(0, count, PIXELS).tolist(), *corners}:
        n, *at = np.unravel_index(flat, (conv.batch, *conv.output_size))
        axes = zip(at, conv.stride, conv.kernel, conv.dilation, strict=True)
        window = tuple(slice(o * s, o * s + (k - 1) * d + 1, d) for o, s, k, d in axes)
        seen = np.moveaxis(x[(n, *window)].astype(np.float64), -1, 0).reshape(conv.groups, taps, -1)
        weights = w.astype(np.float64).reshape(conv.groups, group, taps, -1)
        exact = np.einsum("gct,gkct->gk", seen, weights).ravel() + bias
        size = np.sqrt(np.einsum("gct,gkct->gk", seen**2, weights**2)).ravel() + np.abs(bias)
        worst = float(np.maximum(worst, np.max(np.abs(y[(n, *at)] - exact) / size)))  # NaN stays NaN
    return worst


def _time(function: Any, banks: list[list[Any]], y: Any) -> float:
    """The median of some runs, the copies in turn."""
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < RUNS or (time.perf_counter() - began < SECONDS and len(seconds) < 200):
        arguments = banks[len(seconds) % len(banks)]
        start = time.perf_counter()
        function(*arguments, y)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> None:
    """Answer requests until stdin ends; what libraries print goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = attempt(json.loads(line))
        except (LowprecError, ValueError, RuntimeError, tvm.error.InternalError) as problem:
            lines = str(problem).strip().splitlines() or [type(problem).__name__]
            reply = {"status": FAILED, "detail": lines[-1]}
        os.write(out, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
