"""Rounding 16 M float32 values to q2.14, beside a copy of them and QPyTorch: `python -m benchmarks.rounding`.

All in one process, in turns, on the same arrays, which are warm. `copy` is numpy.copyto, the least that any pass over
memory takes; ours are the compiled kernel, whose result is given a place like the copy's, and the torch twin, which
makes a new tensor as QPyTorch does. The answers of every engine of ours are compared with the NumPy oracle's.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
import tvm_ffi
from numpy.typing import NDArray

from benchmarks import command, machine
from lowprec.errors import UsageError
from lowprec.formats import Fixed
from lowprec.philox import key_of, random_bits
from lowprec.rounding import Rounding, round_to
from lowprec.schedules.quantizing import Quantizing, build_quantizing
from lowprec.targets import Target, parse_target
from lowprec.train import Draw
from lowprec.train import round_to as torch_round_to

FORMAT = Fixed(2, 14)
COUNT = 1 << 24
ROUNDS = 21
CHECKED = 1 << 20
"""Values at the beginning and at the end that the oracle rounds too."""

NAME, STEP = "weight", 7
COPY, QPYTORCH = "copy", "qpytorch"
NEAREST, STOCHASTIC = Rounding.NEAREST_EVEN, Rounding.STOCHASTIC

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A way to round; `run` does it once, `result` is what it last gave."""

    name: str
    rounding: Rounding | None
    run: Callable[[], object]
    result: Callable[[], Values] | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return command.run(lambda: measure(options))


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.rounding", description=__doc__.partition("\n")[0])
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--count", type=int, default=COUNT, help="values (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=ROUNDS, help="turns of every engine (default: %(default)s)")
    made.add_argument("--target", default="native", help="what our kernel may use of the CPU")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results here as well")
    made.set_defaults(precision="q2.14", only=None)
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure all engines, print and save; 1 if an answer of ours is wrong."""
    for name in ("threads", "count", "rounds"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is {getattr(options, name)}: give a whole number above 0")
    target = parse_target(options.target)
    peaks = machine.measure(options.threads, target)
    command.announce(peaks)
    torch.set_num_threads(options.threads)
    x = _aligned(options.count)
    np.random.default_rng(options.seed).standard_normal(out=x, dtype=np.float32)
    engines = _engines(x, options, target)
    wrong = [engine.name for engine in engines if engine.result is not None and not _right(engine, x, options.seed)]
    rows = _rows(engines, _turns(engines, options.rounds), options.count)
    _print(rows)
    print(f"written to {command.save('rounding', options, peaks, rows)}")
    for name in wrong:
        print(f"wrong: {name} differs from the oracle", file=sys.stderr)
    return int(bool(wrong))


def _engines(x: Values, options: argparse.Namespace, target: Target) -> list[Engine]:
    y = _aligned(x.size)
    tensor = torch.from_numpy(x)
    made = [Engine(name=COPY, rounding=None, run=lambda: np.copyto(y, x))]
    for rounding in (STOCHASTIC, NEAREST):
        made.append(_kernel(x, y, rounding, options, target))
        made.append(_twin(tensor, rounding, options.seed))
        made += _qpytorch(tensor, rounding)
    return made


def _kernel(x: Values, y: Values, rounding: Rounding, options: argparse.Namespace, target: Target) -> Engine:
    spec = Quantizing(count=x.size, format=FORMAT, rounding=rounding, target=target)
    made = tvm.target.Target(target.tvm_target(options.threads))
    function = tvm.compile(tvm.IRModule({"main": build_quantizing(spec)}), target=made)["main"]
    tvm.get_global_func("runtime.config_threadpool")(1, options.threads)
    source, result, key = tvm_ffi.from_dlpack(x), tvm_ffi.from_dlpack(y), key_of(options.seed, NAME)
    return Engine(
        name="kernel", rounding=rounding, run=lambda: function(source, *key, STEP, 0, result), result=lambda: y
    )


def _twin(x: torch.Tensor, rounding: Rounding, seed: int) -> Engine:
    draw = Draw(seed=seed, tensor_name=NAME, step=STEP)
    last: list[torch.Tensor] = []

    def run() -> None:
        last[:] = [torch_round_to(x, FORMAT, rounding, bits=draw)]

    return Engine(name="torch twin", rounding=rounding, run=run, result=lambda: last[0].numpy())


def _qpytorch(x: torch.Tensor, rounding: Rounding) -> list[Engine]:
    """QPyTorch, which compiles itself, by a program that may stand beside Python's; a warning where it cannot."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    try:
        from qtorch.quant import fixed_point_quantize

        mode = "stochastic" if rounding is STOCHASTIC else "nearest"
        fixed_point_quantize(x[:1000], wl=FORMAT.bits, fl=FORMAT.fraction, rounding=mode)
    except (ImportError, OSError, RuntimeError) as error:
        print(f"warning: QPyTorch cannot run here ({type(error).__name__})", file=sys.stderr)
        return []
    run = lambda: fixed_point_quantize(x, wl=FORMAT.bits, fl=FORMAT.fraction, rounding=mode)  # noqa: E731
    return [Engine(name=QPYTORCH, rounding=rounding, run=run)]


def _turns(engines: Sequence[Engine], rounds: int) -> list[list[float]]:
    """Seconds of each engine in each turn: its second run of that turn, whose arrays are warm."""
    times: list[list[float]] = [[] for _ in engines]
    for _ in range(rounds):
        for engine, own in zip(engines, times, strict=True):
            engine.run()
            began = time.perf_counter()
            engine.run()
            own.append(time.perf_counter() - began)
    return times


def _right(engine: Engine, x: Values, seed: int) -> bool:
    """Whether the first and the last values are the oracle's, bit for bit."""
    assert engine.result is not None
    assert engine.rounding is not None
    engine.run()
    found = engine.result()
    size = min(CHECKED, x.size)
    for start in {0, x.size - size}:
        bits = random_bits(seed, NAME, size, step=STEP, start=start)
        part = slice(start, start + size)
        right = round_to(x[part], FORMAT, engine.rounding, bits=bits)
        if not np.array_equal(found[part].view(np.uint32), right.view(np.uint32)):
            return False
    return True


def _rows(engines: Sequence[Engine], times: Sequence[list[float]], count: int) -> list[dict[str, Any]]:
    rows = []
    for engine, own in zip(engines, times, strict=True):
        rounding = engine.rounding.value if engine.rounding else ""
        rival = {e.name: t for e, t in zip(engines, times, strict=True) if e.rounding in (engine.rounding, None)}
        # Of the same turn, so that a slow minute of the machine does not move it.
        ratios = {
            name: float(np.median(np.array(rival[name]) / np.array(own))) for name in (COPY, QPYTORCH) if name in rival
        }
        p10, p50, p90 = (float(value) for value in np.percentile(own, (10, 50, 90)))
        timing = {"p50_ms": 1e3 * p50, "p90_ms": 1e3 * p90, "spread": (p90 - p10) / p50, "runs": len(own)}
        rows.append({"engine": engine.name, "rounding": rounding, "values": count, **timing, "speed_over": ratios})
    return rows


def _print(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'engine':12} {'rounding':14} {'ms':>8} {'±':>6} {'of a copy':>10} {'of QPyTorch':>12}")
    for row in rows:
        speeds = [f"{row['speed_over'][name]:.2f}" if name in row["speed_over"] else "" for name in (COPY, QPYTORCH)]
        name = f"{row['engine']:12} {row['rounding']:14}"
        print(f"{name} {row['p50_ms']:8.2f} {row['spread']:6.0%} {speeds[0]:>10} {speeds[1]:>12}")


def _aligned(count: int) -> Values:
    """Zeros whose first is at a multiple of 64 bytes, as kernels assume."""
    room = np.zeros(count + 16, np.float32)
    first = -room.ctypes.data % 64 // 4
    return room[first : first + count]


if __name__ == "__main__":
    sys.exit(main())
