"""A compiled model as a directory: `model.so`, `weights.bin`, `manifest.json`; written whole, checked before it runs.

Loading and running needs NumPy and TVM's small runtime: not onnx, not torch, not TVM's compiler.

    art = load("model.lowprec")
    y = art(x)                      # one output: an array; several: a dict in the model's order
    y = art({"x": x})               # a dict in gives a dict out
"""

import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from lowprec import runtime, storage
from lowprec.arguments import bind, check_guards
from lowprec.errors import EnvironmentMismatch, UsageError
from lowprec.manifest import LIBRARY, CallSpec, Manifest
from lowprec.philox import LOW
from lowprec.plan import Plan
from lowprec.targets import available_cores
from lowprec.tensors import TensorSpec

__all__ = ["Artifact", "CallTime", "load", "write"]

Array = NDArray[np.generic]
THREADS_VARIABLE = "LOWPREC_NUM_THREADS"
write = storage.write


def load(path: str | os.PathLike[str], threads: int | None = None, *, temporary: bool = False) -> "Artifact":
    """The artifact at `path`, checked: its files, its versions, and that this CPU has what its code needs.

    `threads` overrides LOWPREC_NUM_THREADS, which overrides what compile was given, which overrides all allowed cores.
    A `temporary` directory is deleted with the artifact.
    """
    directory = Path(path)
    manifest = storage.read(directory)
    storage.check_machine(manifest)
    artifact = Artifact(directory.resolve(), manifest, choose_threads(threads, manifest))
    if temporary:
        weakref.finalize(artifact, shutil.rmtree, directory, ignore_errors=True)
    return artifact


def choose_threads(asked: int | None, manifest: Manifest) -> int:
    """How many threads to run with; see `load`."""
    if asked is not None:
        return _positive(asked, "threads")
    variable = os.environ.get(THREADS_VARIABLE, "")
    if variable:
        return _positive(int(variable) if variable.isascii() and variable.isdigit() else variable, THREADS_VARIABLE)
    return manifest.threads or available_cores()


def _positive(count: object, name: str) -> int:
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 1 <= count <= 1024:
        raise UsageError(f"{name} is {count!r}: give a whole number from 1 to 1024")
    return int(count)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTime:
    """The time of one kernel call of one run."""

    layer: str
    op: str
    symbol: str
    seconds: float


class Artifact:
    """A loaded model, safe to call from any number of threads: weights are shared, machines are not."""

    __slots__ = ("__weakref__", "_addresses", "_library", "_local", "_weights", "directory", "manifest", "threads")

    def __init__(self, directory: Path, manifest: Manifest, threads: int) -> None:
        self.directory = directory
        self.manifest = manifest
        self.threads = threads
        runtime.allow_amx_with(manifest.target.features)
        self._weights = [runtime.to_tensor(array) for array in storage.load_weights(directory, manifest)]
        self._addresses = frozenset(tensor.data_ptr() for tensor in self._weights)
        self._library = runtime.open_library(directory / LIBRARY)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"<Artifact {self.directory} for {self.manifest.target.name}, threads={self.threads}>"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs; a probe build has further ones behind them."""
        return self.manifest.outputs

    @property
    def plan(self) -> Plan:
        return self.manifest.plan

    @overload
    def __call__(self, inputs: Mapping[str, Array], /, *, step: int = 0) -> dict[str, Array]: ...

    @overload
    def __call__(self, *arrays: Array, step: int = 0) -> Any: ...

    def __call__(self, *args: Any, step: int = 0) -> Any:
        """Run the model; results are fresh arrays that belong to the caller.

        `step` draws anew where the artifact rounds stochastically, and changes nothing where it does not.
        """
        if type(step) is not int or not 0 <= step <= LOW:
            raise UsageError(f"step is {step!r}: give a whole number from 0 to {LOW}")
        tensors = self._stage(self._bind(args, step))
        outputs = self._own(tensors, self._run(tensors))
        if len(self.outputs) == 1 and not (len(args) == 1 and isinstance(args[0], Mapping)):
            return outputs[self.outputs[0].name]
        return outputs

    def run_probes(self, inputs: Mapping[str, Array], *, step: int = 0) -> tuple[dict[str, Array], dict[str, Array]]:
        """The outputs, and the model's inner tensors that a probe build shows, both by ONNX name."""
        tensors = self._stage(self._bind((inputs,), step))
        results = self._run(tensors)
        probes = zip(self.manifest.probes, results[len(self.outputs) :], strict=True)
        return (
            self._own(tensors, results),
            {probe.tensor: _logical(runtime.borrow(tensor), probe.crop, probe.axes) for probe, tensor in probes},
        )

    def profile(self, inputs: Mapping[str, Array] | Sequence[Array], repeats: int = 10) -> tuple[CallTime, ...]:
        """The time of every kernel call, `repeats` runs one after the other, after one run that is not timed."""
        given = (inputs,) if isinstance(inputs, Mapping) else tuple(inputs)
        tensors = [runtime.to_tensor(_aligned_copy(array)) for array in self._bind(given)]
        machine = self._new_machine()
        times: list[tuple[str, float]] = []
        machine.instrument(_observer(frozenset(call.symbol for call in self.manifest.calls), times))
        machine(tensors)
        times.clear()
        for _ in range(repeats):
            machine(tensors)
        return _named(times, self.manifest.calls * repeats)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Copy the artifact to the directory `path`, replacing an artifact there as a whole."""
        storage.copy(self.directory, Path(path), self.manifest)

    def _bind(self, given: tuple[Any, ...], step: int = 0) -> Sequence[Array]:
        """The inputs in the model's order, checked, and the step for whoever asks for it."""
        arrays = bind(self.inputs, given)
        names = (spec.name for spec in self.inputs)
        check_guards(self.manifest.guards, dict(zip(names, arrays, strict=True)))
        return [*arrays, np.array([step], np.int64)] if self.manifest.stochastic else arrays

    def _stage(self, arrays: Sequence[Array]) -> list[Any]:
        """The arrays as tensors: their own memory where kernels can read it, else a copy in this thread's buffer."""
        buffers, alignment = self._mine().buffers, self.manifest.input_alignment
        return [
            runtime.to_tensor(array) if runtime.is_ready(array, alignment) else _copied(index, array, buffers)
            for index, array in enumerate(arrays)
        ]

    def _run(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        results: tuple[Any, ...] = self._mine().machine(tensors)
        return results

    def _mine(self) -> threading.local:
        """What belongs to this thread: a machine, and buffers for arrays that kernels cannot read; new after a fork."""
        local = self._local
        if getattr(local, "generation", None) != runtime.fork_generation():
            local.generation, local.machine, local.buffers = runtime.fork_generation(), self._new_machine(), {}
        return local

    def _own(self, tensors: Sequence[Any], results: Sequence[Any]) -> dict[str, Array]:
        """The outputs among the results, by name. One that is an input, a weight or another output is copied."""
        taken = {tensor.data_ptr() for tensor in tensors}
        outputs: dict[str, Array] = {}
        for spec, tensor in zip(self.outputs, results, strict=False):
            address = tensor.data_ptr()
            shared = address in taken or address in self._addresses
            outputs[spec.name] = runtime.to_array(tensor, spec, shared=shared)
            taken.add(address)
        return outputs

    def _new_machine(self) -> runtime.Machine:
        return runtime.Machine(self._library, self._weights, self.threads)


def _copied(index: int, array: Array, buffers: dict[int, tuple[Array, Any]]) -> Any:
    if index not in buffers:
        buffer = runtime.aligned_empty(array.shape, array.dtype)
        buffers[index] = (buffer, runtime.to_tensor(buffer))
    np.copyto(buffers[index][0], array)
    return buffers[index][1]


def _aligned_copy(array: Array) -> Array:
    copy = runtime.aligned_empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


def _logical(physical: Array, crop: Sequence[tuple[int, int]], axes: Sequence[int]) -> Array:
    """The ONNX tensor inside a physical array: without halos, axes in ONNX's order, in memory of its own."""
    inner = physical[tuple(slice(begin, begin + size) for begin, size in crop)]
    return np.array(inner.transpose(axes), order="C")


def _observer(symbols: frozenset[str], times: list[tuple[str, float]]) -> Callable[..., None]:
    """For `Machine.instrument`: appends the symbol and seconds of each call of one of the symbols."""
    began = 0.0

    def observe(_function: object, symbol: str, before: bool, _result: object, *_arguments: object) -> None:
        nonlocal began
        now = time.perf_counter()
        if not before and symbol in symbols:
            times.append((symbol, now - began))
        began = time.perf_counter()

    return observe


def _named(times: Sequence[tuple[str, float]], calls: Sequence[CallSpec]) -> tuple[CallTime, ...]:
    """Each time with the layer that the manifest gives to that call: every run makes the same calls in order."""
    if [call.symbol for call in calls] != [symbol for symbol, _ in times]:
        raise EnvironmentMismatch("manifest.json: calls is not what the library does; compile the model again")
    return tuple(
        CallTime(layer=call.layer, op=call.op, symbol=call.symbol, seconds=seconds)
        for call, (_, seconds) in zip(calls, times, strict=True)
    )
