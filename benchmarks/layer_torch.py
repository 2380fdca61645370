"""torch's side of the layer benchmark: every form it offers is tried, and the fastest speaks for it.

Forms: channels-last tensors; the same frozen by `torch.jit.optimize_for_inference`; oneDNN tensors with prepacked
weights (`torch.utils.mkldnn`), whose inputs come in oneDNN's own blocked layout because an identity convolution made
them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.mkldnn as onednn
from numpy.typing import NDArray

from benchmarks.figures import Seconds
from benchmarks.layer_suite import BenchLayer, parameters
from lowprec.convolution import Conv
from lowprec.layers import Gemm

Array = NDArray[np.generic]
Tensor = torch.Tensor
Call = Callable[[Tensor], Tensor]
TRIALS = 5

# Not typed by torch.
optimize: Any = torch.jit.optimize_for_inference
trace: Any = torch.jit.trace
pack: Any = onednn.to_mkldnn

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class TorchBank:
    """Copies of the layer in the form that ran fastest when tried."""

    most_rounds = 10_000

    def __init__(self, layer: BenchLayer, feeds: Mapping[str, Array], *, seed: int, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        modules = [_module(layer, copy, seed=seed) for copy in range(len(feeds))]
        given = [torch.from_numpy(array) for array in feeds.values()]
        forms = _forms(layer, modules, given)
        self.form = min(forms, key=lambda name: _trial(*forms[name]))
        self._calls, self._inputs = forms[self.form]
        self._times: list[Seconds] = []

    def begin_turn(self) -> None:
        pass

    def round(self) -> Sequence[Array]:
        outputs, total = [], 0.0
        for call, given in zip(self._calls, self._inputs, strict=True):
            seconds, output = _timed(call, given)
            total += seconds
            outputs.append(output)
        self._times.append(Seconds(total, total))
        return [(output.to_dense() if output.is_mkldnn else output).contiguous().numpy() for output in outputs]

    def times(self) -> list[Seconds]:
        return self._times


def _forms(
    layer: BenchLayer, modules: Sequence[Any], given: Sequence[Tensor]
) -> dict[str, tuple[Sequence[Call], Sequence[Tensor]]]:
    plain = [_channels_last(x) for x in given]
    last = [_module_channels_last(module) for module in modules]
    forms: dict[str, tuple[Sequence[Call], Sequence[Tensor]]] = {"channels-last": (last, plain)}
    frozen = [optimize(trace(m, x)) for m, x in zip(last, plain, strict=True)]
    forms["frozen"] = (frozen, plain)
    if isinstance(layer.geometry, Gemm) or not layer.geometry.transposed:
        packed = [pack(module) for module in modules]
        blocked = [x.to_mkldnn() for x in given]
        if isinstance(layer.geometry, Conv):
            identity = _identity(layer.geometry)
            blocked = [identity(x) for x in blocked]
        forms["oneDNN tensors"] = (packed, blocked)
    return forms


def _trial(calls: Sequence[Call], given: Sequence[Tensor]) -> float:
    """The least time over all copies, after one round that is not counted."""
    totals = [sum(_timed(call, x)[0] for call, x in zip(calls, given, strict=True)) for _ in range(1 + TRIALS)]
    return min(totals[1:])


def _timed(call: Call, given: Tensor) -> tuple[float, Tensor]:
    """The call alone, on an input that was just written; one of oneDNN's own tensors, which cannot be, is as it was."""
    x = given if given.is_mkldnn else given.clone(memory_format=torch.preserve_format)
    began = time.perf_counter()
    output = call(x)
    return time.perf_counter() - began, output


def _module(layer: BenchLayer, copy: int, *, seed: int) -> Any:
    values = parameters(layer, copy, seed=seed)
    module = _empty(layer.geometry).eval()
    module.weight = torch.nn.Parameter(torch.from_numpy(values.weight), requires_grad=False)
    module.bias = torch.nn.Parameter(torch.from_numpy(values.bias), requires_grad=False)
    return module


def _empty(geometry: Conv | Gemm) -> Any:
    if isinstance(geometry, Gemm):
        return torch.nn.Linear(1, 1)
    assert geometry.pads_begin == geometry.pads_end
    kinds: dict[bool, dict[int, Any]] = {
        False: {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d},
        True: {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d},
    }
    return kinds[geometry.transposed][len(geometry.size)](
        geometry.in_channels,
        geometry.out_channels,
        geometry.kernel,
        stride=geometry.stride,
        padding=geometry.pads_begin,
        dilation=geometry.dilation,
        groups=geometry.groups,
    )


def _identity(conv: Conv) -> Call:
    """A oneDNN convolution that changes nothing but the layout."""
    kinds: dict[int, Any] = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
    module = kinds[len(conv.size)](conv.in_channels, conv.in_channels, 1, bias=False)
    weight = torch.eye(conv.in_channels).reshape(conv.in_channels, conv.in_channels, *[1] * len(conv.size))
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    packed: Call = pack(module.eval())
    return packed


def _channels_last(x: Tensor) -> Tensor:
    layout = CHANNELS_LAST.get(x.dim())
    return x if layout is None else x.contiguous(memory_format=layout)


def _module_channels_last(module: Any) -> Any:
    layout = CHANNELS_LAST.get(module.weight.dim())
    return module if layout is None else module.to(memory_format=layout)
