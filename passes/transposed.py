"""A transposed convolution as one plain convolution whose channels are then spread over the pixels.

    before:  y = conv2d_transpose(x, w, strides=(s, s))
    after:   y = crop(interleave(conv2d(x, w')))       w' has a set of output channels for each of the s * s phases

With q and the phase r of an output position o, o + pads = q * s + r, a tap t reaches it from x[q - m], m = (t *
dilation - r) / s, wherever that is whole. So each phase is a stride-1 convolution over m, and all phases together are
one. Declines when: weights are not constant.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import IRModule, relax

from lowprec.passes.editing import (
    MAIN,
    Emitter,
    array_of,
    attributes_of,
    bindings,
    dtype_of,
    is_constant,
    op_name,
    replace_main,
    replace_tensors,
    result_of,
    shape_of,
)

TRANSPOSED = {f"relax.nn.conv{n}d_transpose": f"conv{n}d" for n in (1, 2, 3)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One spatial axis: tap t of phase r reads x[q - m] with m = `reach[r][t]` where that is whole; q in
    `low`..`high`."""

    size: int
    stride: int
    reach: tuple[tuple[int | None, ...], ...]
    low: int
    high: int
    begin: int
    output: int

    @property
    def farthest(self) -> int:
        return max(m for row in self.reach for m in row if m is not None)

    @property
    def nearest(self) -> int:
        return min(m for row in self.reach for m in row if m is not None)

    @property
    def kernel(self) -> int:
        """Taps of the plain convolution."""
        return self.farthest - self.nearest + 1

    @property
    def pads(self) -> tuple[int, int]:
        """Padding of the plain convolution; negative values crop."""
        return self.farthest - self.low, self.high - self.nearest - (self.size - 1)


def plan_axis(*, size: int, output: int, kernel: int, stride: int, dilation: int, pad: int) -> Axis:
    """The axis of a transposed convolution, phase by phase."""
    reach = tuple(
        tuple((t * dilation - r) // stride if (t * dilation - r) % stride == 0 else None for t in range(kernel))
        for r in range(stride)
    )
    low, high = pad // stride, (output - 1 + pad) // stride
    return Axis(size=size, stride=stride, reach=reach, low=low, high=high, begin=pad - low * stride, output=output)


def spread_weights(weights: NDArray[np.generic], axes: tuple[Axis, ...], groups: int) -> NDArray[np.generic]:
    """[C, K/groups, taps...] -> [groups * phases * K/groups, C/groups, taps'...], zero where a phase has no tap."""
    channels, per_group, *kernel = weights.shape
    phases = [axis.stride for axis in axes]
    spread = np.zeros((groups, *phases, per_group, channels // groups, *(axis.kernel for axis in axes)), weights.dtype)
    split = weights.reshape(groups, channels // groups, per_group, *kernel)
    for phase in product(*map(range, phases)):
        for tap in product(*map(range, kernel)):
            reach = [axis.reach[r][t] for axis, r, t in zip(axes, phase, tap, strict=True)]
            if None in reach:
                continue
            at = tuple(axis.farthest - (m or 0) for axis, m in zip(axes, reach, strict=True))
            everything = slice(None)
            place: tuple[Any, ...] = (everything, *phase, everything, everything, *at)
            source: tuple[Any, ...] = (everything, everything, everything, *tap)
            spread[place] = split[source].transpose(0, 2, 1)
    return spread.reshape(-1, channels // groups, *(axis.kernel for axis in axes))


def plain_convolutions(module: IRModule) -> IRModule:
    """The pass, over main."""
    main = module[MAIN]
    emitter = Emitter()
    new: dict[relax.Expr, relax.Expr] = {}
    for var, value in bindings(main):
        changed = replace_tensors(value, new)
        if op_name(value) in TRANSPOSED and is_constant(value.args[1]):
            changed = _plain(emitter, changed, shape_of(var))
        new[var] = emitter.emit(changed, var.name)
    result = replace_tensors(result_of(main), new)
    return replace_main(module, emitter.function(list(main.params), result, attributes_of(main)))


def _plain(emitter: Emitter, call: relax.Call, output: tuple[int, ...]) -> relax.Expr:
    attrs = call.attrs
    weights = array_of(call.args[1])
    batch, _, *size = shape_of(call.args[0])
    rank, groups = len(size), int(attrs.groups)
    axes = tuple(
        plan_axis(size=n, output=o, kernel=k, stride=int(s), dilation=int(d), pad=int(p))
        for n, o, k, s, d, p in zip(
            size, output[2:], weights.shape[2:], attrs.strides, attrs.dilation, attrs.padding[:rank], strict=True
        )
    )
    source = _cropped(emitter, call.args[0], axes)
    pads = [max(0, pad) for side in (0, 1) for pad in (axis.pads[side] for axis in axes)]
    convolution = getattr(relax.op.nn, TRANSPOSED[op_name(call)])
    kernel = relax.const(spread_weights(weights, axes, groups), dtype_of(call.args[1]))
    convolved = emitter.emit(convolution(source, kernel, padding=pads, groups=groups))
    return _interleaved(emitter, convolved, batch, axes, groups, weights.shape[1])


def _cropped(emitter: Emitter, source: relax.Expr, axes: tuple[Axis, ...]) -> relax.Expr:
    begin = [max(0, -axis.pads[0]) for axis in axes]
    end = [axis.size - max(0, -axis.pads[1]) for axis in axes]
    if not any(begin) and all(stop == axis.size for stop, axis in zip(end, axes, strict=True)):
        return source
    return emitter.emit(relax.op.strided_slice(source, list(range(2, 2 + len(axes))), begin, end))


def _interleaved(
    emitter: Emitter, convolved: relax.Expr, batch: int, axes: tuple[Axis, ...], groups: int, per_group: int
) -> relax.Expr:
    """[N, (group, phases, k), q...] -> [N, (group, k), o...]"""
    rank = len(axes)
    value = convolved
    if any(axis.stride > 1 for axis in axes):
        rows = [axis.high - axis.low + 1 for axis in axes]
        phases = [axis.stride for axis in axes]
        split = emitter.emit(relax.op.reshape(value, (batch, groups, *phases, per_group, *rows)))
        pairs = [place for i in range(rank) for place in (3 + rank + i, 2 + i)]
        moved = emitter.emit(relax.op.permute_dims(split, (0, 1, 2 + rank, *pairs)))
        whole = [count * stride for count, stride in zip(rows, phases, strict=True)]
        value = emitter.emit(relax.op.reshape(moved, (batch, groups * per_group, *whole)))
    begin = [axis.begin for axis in axes]
    end = [axis.begin + axis.output for axis in axes]
    if list(shape_of(value)[2:]) == [axis.output for axis in axes]:
        return value
    return relax.op.strided_slice(value, list(range(2, 2 + rank)), begin, end)
