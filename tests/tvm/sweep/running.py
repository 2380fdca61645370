"""Layers built together into one library, and each run where every mistake shows.

The result is filled with one NaN and lies between guards of the same; so does every argument, and around an argument's
window. What a kernel leaves is compared bit by bit: between thread counts, in the guards and in the border.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from lowprec import runtime
from lowprec.building import linker, write_object
from lowprec.convolution import Conv
from lowprec.passes.editing import array_of
from lowprec.passes.reading_units import Source, as_float32
from lowprec.passes.templates import Facts, KernelCall, Wish, lower_by_template
from lowprec.schedules.copying import Copy
from lowprec.schedules.windows import Window
from lowprec.targets import parse_target
from tests.tvm.kernels import cut, place
from tests.tvm.sweep.expected import expected as intervals
from tests.tvm.sweep.layer import Array, Copied, Data, Layer, data_of, unit

Bits = NDArray[np.uint32]
THREADS = (1, 2, 3)
GUARD = 1 << 14  # elements on each side, a multiple of the alignment
POISON = np.array(0x7FC0DEAD, np.uint32).view(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A layer, its kernel, and what the kernel is called with."""

    layer: Layer
    data: Data
    call: KernelCall
    arguments: tuple[Array, ...]


def problems(layers: Sequence[Layer], folder: Path) -> dict[Layer, str]:
    """What is wrong with each layer that is not right; the folder is the workspace."""
    prepared = [prepare(layer) for layer in layers]
    library = build(prepared, folder)
    found = {}
    for index, each in enumerate(prepared):
        problem = check(each, library[f"layer{index}"])
        if problem:
            found[each.layer] = problem
    return found


def prepare(layer: Layer) -> Prepared:
    """The kernel as the compiler chooses it; a layer that no template takes raises Declined."""
    data = data_of(layer)
    target = parse_target(layer.target)
    if isinstance(layer.operator, Copied):
        copy = Copy(source=layer.source, result=layer.result, lanes=target.lanes)
        call = KernelCall(identity=copy, family="copy", arguments=(), kernel=copy)
        return Prepared(layer=layer, data=data, call=call, arguments=tuple(_physical(layer, data)))
    function = unit(layer, data)
    inside = _inside(layer)
    call = lower_by_template(
        function,
        target,
        wish=Wish(algorithm=layer.algorithm, sizes=layer.sizes, threads=max(THREADS)),
        place=layer.result if layer.is_part else None,
        facts=Facts(insides={} if inside is None else {function.params[0]: inside}),
    )
    passed = dict(zip(function.params, _physical(layer, data), strict=True))
    arguments = tuple(_passed(argument, passed) for argument in call.arguments)
    return Prepared(layer=layer, data=data, call=call, arguments=arguments)


def _inside(layer: Layer) -> Window | None:
    """The part of a convolution's source that is not padding."""
    if not isinstance(layer.operator, Conv):
        return None
    starts = zip(layer.source.begin, (0, *layer.operator.pads_begin, 0), strict=True)
    return Window(
        shape=layer.source.shape,
        begin=tuple(begin + pad for begin, pad in starts),
        extents=(layer.operator.batch, *layer.operator.size, layer.operator.in_channels),
    )


def _passed(argument: Source | NDArray[np.generic], passed: Mapping[relax.Var, Array]) -> Array:
    """What a kernel is called with: one of the unit's parameters, packed weights, or a constant."""
    if isinstance(argument, np.ndarray):
        return as_float32(argument)
    return passed[argument] if isinstance(argument, relax.Var) else as_float32(array_of(argument))


def _physical(layer: Layer, data: Data) -> list[Array]:
    """The unit's parameters as they lie in memory, with NaN around their windows."""
    extras = (
        place(extra.window, values, outside=np.nan)
        for extra, values in zip(layer.extras, data.extras, strict=True)
        if not extra.constant
    )
    right = [] if layer.right is None else [place(layer.right, data.w, outside=np.nan)]
    return [place(layer.source, _logical(layer, data), outside=np.nan), *right, *extras]


def _logical(layer: Layer, data: Data) -> Array:
    """What the operator reads: channels last, padding included."""
    if not isinstance(layer.operator, Conv):
        return data.x
    pads = zip(layer.operator.pads_begin, layer.operator.pads_end, strict=True)
    padded: Array = np.pad(np.moveaxis(data.x, 1, -1), [(0, 0), *pads, (0, 0)])
    return padded


def build(prepared: Sequence[Prepared], folder: Path) -> Any:
    """One library of all kernels, each known as its layer's number; one object for each target."""
    kernels: dict[str, dict[str, Any]] = {}
    for index, each in enumerate(prepared):
        symbol = f"layer{index}"
        kernels.setdefault(each.layer.target, {})[symbol] = each.call.build().with_attr("global_symbol", symbol)
    objects = []
    for name, of_target in kernels.items():
        objects.append(folder / f"{name}.o")
        write_object(of_target, tvm.target.Target(parse_target(name).tvm_target(max(THREADS))), objects[-1])
    library = folder / "layers.so"
    linker(parse_target("native"))(str(library), list(map(str, objects)))
    return runtime.open_library(library)


def check(prepared: Prepared, kernel: Callable[..., None]) -> str:
    """The first thing that is wrong, or nothing."""
    window = prepared.layer.result
    arguments = [_guarded(argument) for argument in prepared.arguments]
    images = [image.copy() for image, _ in arguments]
    results = [_run(kernel, [tensor for _, tensor in arguments], window.shape, threads) for threads in THREADS]
    if not all(np.array_equal(image, now) for image, (now, _) in zip(images, arguments, strict=True)):
        return "an argument was written to"
    image, result = results[0]
    if not all(np.array_equal(image, other) for other, _ in results[1:]):
        return f"the bits differ between {THREADS} threads"
    if (np.concatenate([image[:GUARD], image[GUARD + result.size :]]) != POISON.view(np.uint32)).any():
        return "memory around the result was written to"
    return _around(window, result) or _values(prepared, cut(window, result))


def _around(window: Window, result: Array) -> str:
    """The border is zero where it is this kernel's, and everything else as it was."""
    expected = np.full(window.shape, POISON, np.float32)
    if window.bordered:
        every_channel = replace(window, begin=(*window.begin[:-1], 0), extents=(*window.extents[:-1], window.shape[-1]))
        expected = place(every_channel, cut(every_channel, expected))
    cut(window, expected)[...] = cut(window, result)
    wrong = np.argwhere(expected.view(np.uint32) != result.view(np.uint32))
    return f"{len(wrong)} elements around the result are wrong, the first at {wrong[0].tolist()}" if len(wrong) else ""


def _values(prepared: Prepared, values: Array) -> str:
    interval = intervals(prepared.layer, prepared.data)
    wrong = np.argwhere(~interval.holds(values))
    if not len(wrong):
        return ""
    at = tuple(wrong[0])
    bounds = f"{interval.low[at]:.9g} to {interval.high[at]:.9g}"
    place = wrong[0].tolist()
    return f"{len(wrong)} of {values.size} elements are wrong, the first at {place}: {values[at]}, not {bounds}"


def _guarded(values: Array) -> tuple[Bits, Array]:
    """The bits of a copy between two guards, and the copy."""
    image = runtime.aligned_empty((values.size + 2 * GUARD,), np.dtype(np.float32))
    image.fill(POISON)
    inner = image[GUARD : GUARD + values.size].reshape(values.shape)
    inner[...] = values
    return image.view(np.uint32), inner  # type: ignore[return-value]


def _run(
    kernel: Callable[..., None], arguments: list[Array], shape: tuple[int, ...], threads: int
) -> tuple[Bits, Array]:
    """The memory that the result is in after a call with that many threads, and the result."""
    image, result = _guarded(np.full(shape, POISON, np.float32))
    tensors = [runtime.to_tensor(array) for array in (*arguments, result)]
    _caller(threads).submit(kernel, *tensors).result()
    return image, result


@functools.cache
def _caller(threads: int) -> ThreadPoolExecutor:
    """A thread with a pool of that size: TVM's never grows."""
    return ThreadPoolExecutor(1, f"sweep{threads}", initializer=_start, initargs=(threads,))


def _start(threads: int) -> None:
    assert runtime.set_threads(threads), f"TVM's pool does not have {threads} threads"
