"""One engine on one bank of layers, in a process of its own: `python -m benchmarks.layer_engines`, driven by layers.py.

What is timed is the layer alone, in the layout the engine would use inside a network, and beside it the whole way from
the bank's inputs to its outputs, as a caller has them. ONNX Runtime's, OpenVINO's and our own profilers time every
operator apart, so the conversions at the bank's ends are left out of the first by name; torch is handed tensors in its
layouts, and both its times are the layer's. A copy's input was just written, by that conversion or by us, as a producer
would have left it; its weights come from beyond the second-level cache, as they do in a network.

One JSON object a line, as `lowprec.engines` speaks it:

    {"do": "open", "engine": "torch", "path": "bank.onnx", "layer": "vgg_5", "copies": 2, "seed": 0, "threads": 2}
    {"do": "outputs", "file": "out.npz"}       what every copy answers
    {"do": "reference", "file": "out.npz"}     compare every later round with these
    {"do": "turn", "seconds": 0.1}             rounds over all copies until the time is over -> {"error": 3e-07}
    {"do": "times"}                            -> {"turns": [[seconds of one copy, a mean for every round], ...],
                                                   "whole": the same, changes of layout included}
"""

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Seconds
from benchmarks.layer_suite import inputs
from benchmarks.layer_suites import find
from lowprec.artifact import CallTime
from lowprec.confinement import die_with_parent
from lowprec.engines import load_lists, save_arrays
from lowprec.errors import LowprecError, UsageError

Array = NDArray[np.generic]
LAYOUT_OP = "permute_dims"
LAYER_OPS = frozenset({"Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
OPENVINO_ENDS = frozenset({"Input", "Output", "Parameter", "Result", "Constant"})
OPENVINO_LAYOUT_TYPE = "Reorder"
WARM_ROUNDS = 3
LEAST_ROUNDS = 4
PIECE = 1 << 16
"""Elements that are compared at once."""


class Bank(Protocol):
    """An engine that has opened a bank."""

    most_rounds: int

    def begin_turn(self) -> None:
        """Called before the rounds of a turn."""

    def round(self) -> Sequence[Array]:
        """Run every copy once; what they answer."""

    def times(self) -> list[Seconds]:
        """For every round so far."""


def write_again(feeds: Mapping[str, Array]) -> None:
    """The inputs as they are, just written: all of them, so that the first may have left L2 again."""
    for array in feeds.values():
        np.multiply(array, 1, out=array)


class OrtBank:
    """ONNX Runtime; its profile can be read once, at the end."""

    most_rounds = 10_000

    def __init__(self, path: str, feeds: Mapping[str, Array], threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        self._folder = tempfile.TemporaryDirectory()
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._feeds = dict(feeds)
        self._rounds = 0

    def begin_turn(self) -> None:
        pass

    def round(self) -> Sequence[Array]:
        self._rounds += 1
        write_again(self._feeds)
        outputs: list[Array] = self._session.run(None, self._feeds)
        return outputs

    def times(self) -> list[Seconds]:
        events = json.loads(Path(self._session.end_profiling()).read_text())
        kernels = [event for event in events if event["name"].endswith("_kernel_time")]
        took = np.array([event["dur"] * 1e-6 for event in kernels])
        of_layers = np.array([event["args"]["op_name"] in LAYER_OPS for event in kernels], np.bool_)
        rounds = zip(np.array_split(took, self._rounds), np.array_split(of_layers, self._rounds), strict=True)
        return [Seconds(float(whole[layers].sum()), float(whole.sum())) for whole, layers in rounds]


class OpenvinoBank:
    """OpenVINO, told to compute in fp32: left alone it takes bf16 where the CPU can.

    Its profile is a mean over all runs so far, in whole microseconds, so that round n took n mean_n - (n-1) mean_(n-1),
    give or take n/2 microseconds. To keep that small the model is compiled anew for every turn, which is kept short.
    """

    most_rounds = 32

    def __init__(self, path: str, feeds: Mapping[str, Array], threads: int) -> None:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
        core: Any = openvino.Core()
        model = core.read_model(path)
        self._compile: Callable[[], Any] = lambda: core.compile_model(
            model, "CPU", settings | {"INFERENCE_NUM_THREADS": threads}
        )
        self._feeds = dict(feeds)
        self._times: list[Seconds] = []
        self.begin_turn()

    def begin_turn(self) -> None:
        compiled = self._compile()
        self._ports = compiled.outputs
        self._request = compiled.create_infer_request()
        self._rounds, self._total = 0, Seconds(0.0, 0.0)
        for _ in range(2):
            self._infer()

    def round(self) -> Sequence[Array]:
        outputs, seconds = self._infer()
        self._times.append(seconds)
        return outputs

    def times(self) -> list[Seconds]:
        return self._times

    def _infer(self) -> tuple[Sequence[Array], Seconds]:
        write_again(self._feeds)
        results = self._request.infer(self._feeds, share_inputs=True, share_outputs=True)
        self._rounds += 1
        work = [info for info in self._request.profiling_info if info.node_type not in OPENVINO_ENDS]
        layers = [info for info in work if info.node_type != OPENVINO_LAYOUT_TYPE]
        means = [sum(info.real_time.total_seconds() for info in part) for part in (layers, work)]
        total = Seconds(*(self._rounds * mean for mean in means))
        seconds = Seconds(*(max(now - before, 1e-9) for now, before in zip(total, self._total, strict=True)))
        self._total = total
        return [results[port] for port in self._ports], seconds


class LowprecBank:
    """Our own artifact: its profile names the operator behind every kernel call."""

    most_rounds = 10_000

    def __init__(self, path: str, feeds: Mapping[str, Array], threads: int) -> None:
        from lowprec.artifact import load

        self._artifact = load(path, threads)
        self._feeds = dict(feeds)
        self._times: list[Seconds] = []

    def begin_turn(self) -> None:
        pass

    def round(self) -> Sequence[Array]:
        write_again(self._feeds)
        self._times.append(own_seconds(self._artifact.profile(self._feeds, repeats=1)))
        outputs = self._artifact(self._feeds)
        assert isinstance(outputs, dict)
        return list(outputs.values())

    def times(self) -> list[Seconds]:
        return self._times


def own_seconds(calls: Sequence[CallTime]) -> Seconds:
    """What our artifact spends on the copies themselves: the calls up to each that bears a copy's name, less the change
    of layout they begin with. What comes after the last is the outputs' change of layout."""
    layers, since = 0.0, list[CallTime]()
    for call in calls:
        since.append(call)
        if call.layer:
            layers += sum(work.seconds for work in dropwhile(lambda work: work.op == LAYOUT_OP, since))
            since = []
    return Seconds(layers, sum(call.seconds for call in calls))


def open_bank(request: Mapping[str, Any]) -> Bank:
    """The engine that the request names, on its bank."""
    layer = find(request["layer"])
    feeds = inputs(layer, request["copies"], seed=request["seed"])
    match request["engine"]:
        case "lowprec":
            return LowprecBank(request["path"], feeds, request["threads"])
        case "onnxruntime":
            return OrtBank(request["path"], feeds, request["threads"])
        case "openvino":
            return OpenvinoBank(request["path"], feeds, request["threads"])
        case "torch":
            from benchmarks.layer_torch import TorchBank

            return TorchBank(layer, feeds, seed=request["seed"], threads=request["threads"])
        case other:
            raise UsageError(f"unknown engine {other!r}")


class Worker:
    """The child's side of the protocol."""

    def __init__(self) -> None:
        self._bank: Bank | None = None
        self._copies = 0
        self._turn_lengths: list[int] = []
        self._warm_rounds = 0
        self._reference: list[Array] = []

    def answer(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Do what the request asks."""
        if request["do"] == "open":
            self._bank, self._copies = open_bank(request), request["copies"]
            return {}
        assert self._bank is not None
        match request["do"]:
            case "outputs":
                save_arrays(request["file"], [self._bank.round()])
                self._warm_rounds += 1
                return {}
            case "reference":
                (self._reference,) = load_lists(request["file"])
                for _ in range(WARM_ROUNDS):
                    self._bank.round()
                self._warm_rounds += WARM_ROUNDS
                return {}
            case "turn":
                return self._turn(self._bank, float(request["seconds"]))
            case "times":
                layers, whole = zip(*self._bank.times(), strict=True)
                return {"turns": self._turns(layers), "whole": self._turns(whole)}
            case other:
                raise UsageError(f"unknown request {other!r}")

    def _turn(self, bank: Bank, seconds: float) -> dict[str, object]:
        """A few rounds at least, of which the first, after the others' turns, is not counted."""
        bank.begin_turn()
        deadline = time.perf_counter() + seconds
        worst, rounds = self._compare(bank.round()), 1
        while rounds < LEAST_ROUNDS or (time.perf_counter() < deadline and rounds < bank.most_rounds):
            worst = max(worst, self._compare(bank.round()))
            rounds += 1
        self._turn_lengths.append(rounds)
        return {"error": min(worst, 1e30)}

    def _turns(self, rounds: Sequence[float]) -> list[list[float]]:
        """Seconds of one copy, turn by turn."""
        each = iter([total / self._copies for total in rounds[self._warm_rounds :]])
        return [[next(each) for _ in range(length)][1:] for length in self._turn_lengths]

    def _compare(self, outputs: Sequence[Array]) -> float:
        pairs = zip(self._reference, outputs, strict=True)
        return max(_off(want, np.asarray(found)) for want, found in pairs)


def _off(want: NDArray[Any], found: NDArray[Any]) -> float:
    """The largest difference as a share of the largest magnitude, in pieces that stay in the cache: a batch of 64
    has 200 million outputs."""
    if want.shape != found.shape:
        return math.inf
    wanted, other = want.reshape(-1), found.reshape(-1)
    largest, off = 0.0, 0.0
    for begin in range(0, wanted.size, PIECE):
        piece = wanted[begin : begin + PIECE]
        largest = max(largest, float(np.abs(piece).max()))
        difference = float(np.abs(piece - other[begin : begin + PIECE]).max())
        off = max(off, math.inf if math.isnan(difference) else difference)
    return off / largest if largest else off


def main() -> None:
    """Answer requests until stdin ends; what libraries print goes to stderr."""
    die_with_parent()  # which may be killed while this process is stopped
    out = os.dup(1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        try:
            reply = worker.answer(json.loads(line))
        except LowprecError as problem:
            reply = {"failed": str(problem)}
        except ImportError as problem:
            reply = {"failed": f"{problem.name} is not installed: pip install 'lowprec[bench]'"}
        os.write(out, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
