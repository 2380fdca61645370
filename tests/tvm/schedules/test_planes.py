"""Depthwise convolutions of images left as they lie give what the definition says, for every shape and target."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm import IRModule, relax

from lowprec.convolution import Conv
from lowprec.passes.channels_last import leaving_planes
from lowprec.passes.editing import Emitter
from lowprec.pipeline import rewrite
from lowprec.predicting import SCRATCH
from lowprec.predicting_planes import lies_along_rows, may_lie_as_planes
from lowprec.schedules.convolution import planes_kernel
from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.windows import whole
from lowprec.targets import Target, parse_target
from tests import layers
from tests.tvm.passes.programs import inputs_of, operators, program, run_units, weights

Floats = NDArray[np.float32]

CONV = layers.conv(in_channels=16, out_channels=16, groups=16, size=(20, 20))


def of(channels: int, **changes: Any) -> Conv:
    """One of so many channels."""
    return replace(CONV, in_channels=channels, out_channels=channels, groups=channels, **changes)


CASES = {
    "few taps": replace(CONV, size=(17, 70)),
    "bands of rows": replace(CONV, size=(150, 310), dilation=(2, 1), pads_begin=(1, 2), pads_end=(2, 1)),
    "vectors of a row in parts that overlap": replace(
        CONV, size=(20, 70), kernel=(9, 9), pads_begin=(4, 4), pads_end=(4, 4)
    ),
    "sums of as many rows as there are registers for": replace(
        CONV, size=(30, 32), kernel=(26, 3), pads_begin=(13, 1), pads_end=(12, 1)
    ),
    "one row more": replace(CONV, size=(30, 32), kernel=(27, 3), pads_begin=(13, 1), pads_end=(13, 1)),
    "images along rows": of(37, batch=3, size=(17, 29), kernel=(5, 5), pads_begin=(2, 2), pads_end=(2, 2)),
    "more taps than rows, along rows": replace(CONV, size=(3, 32), kernel=(9, 9), pads_begin=(4, 4), pads_end=(4, 4)),
    "no pads, along rows": of(18, size=(20, 31), pads_begin=(0, 0), pads_end=(0, 0)),
    "pads wider than a vector": replace(CONV, size=(20, 24), pads_begin=(7, 21), pads_end=(5, 20)),
    "many parts inside of a row": replace(CONV, size=(9, 400), kernel=(9, 9), pads_begin=(4, 4), pads_end=(4, 4)),
    "one vector of everything": replace(CONV, size=(16, 16)),
    "images, and channels that overlap": of(37, batch=3, size=(17, 19)),
    "strides": replace(CONV, size=(40, 40), kernel=(5, 3), stride=(3, 2)),
    "a dilation": replace(CONV, size=(30, 33), dilation=(2, 3), pads_begin=(2, 3), pads_end=(2, 3)),
    "pads that differ": replace(CONV, kernel=(2, 4), pads_begin=(0, 1), pads_end=(2, 3)),
    "no pads": of(18, pads_begin=(0, 0), pads_end=(0, 0)),
    "one tap": replace(CONV, kernel=(1, 1), pads_begin=(0, 0), pads_end=(0, 0)),
    "one row": replace(CONV, size=(1, 16), kernel=(1, 5), pads_begin=(0, 2), pads_end=(0, 2)),
    "more taps than rows": replace(CONV, size=(3, 20), kernel=(9, 9), pads_begin=(4, 4), pads_end=(4, 4)),
    "rows that leave the cache": replace(CONV, size=(24, 70), kernel=(13, 13), pads_begin=(6, 6), pads_end=(6, 6)),
    "several bands": replace(CONV, size=(150, 18)),
    "bands of strides": replace(CONV, size=(151, 40), stride=(2, 2)),
}


def convolution(conv: Conv) -> IRModule:
    """y = conv(x) of a layer that stays as it lies."""

    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        padding = [*conv.pads_begin, *conv.pads_end]
        w, attributes = weights(*conv.weight_shape), {"strides": conv.stride, "dilation": conv.dilation}
        return e.emit(relax.op.nn.conv2d(x[0], w, padding=padding, groups=conv.groups, **attributes), "y")

    module = program([(conv.batch, conv.in_channels, *conv.size)], body, layers={"y": "layer"})
    return leaving_planes(module, ["layer"])


def defined(conv: Conv, x: Floats, w: Floats) -> NDArray[np.float64]:
    """The sum over taps, in float64."""
    padding = [(0, 0), (0, 0), *zip(conv.pads_begin, conv.pads_end, strict=True)]
    padded = np.pad(x.astype(np.float64), padding)
    height, width = conv.output_size
    result = np.zeros((conv.batch, conv.groups, height, width))
    for r, s in np.ndindex(*conv.kernel):
        rows = slice(
            r * conv.dilation[0],
            r * conv.dilation[0] + (height - 1) * conv.stride[0] + 1,
            conv.stride[0],
        )
        columns = slice(
            s * conv.dilation[1],
            s * conv.dilation[1] + (width - 1) * conv.stride[1] + 1,
            conv.stride[1],
        )
        result += padded[:, :, rows, columns] * w[:, 0, r, s, None, None]
    return result


def check(conv: Conv, target: Target) -> None:
    assert may_lie_as_planes(replace(layers.layer("layer", "Conv", conv), alone=True), target)
    module = rewrite(convolution(conv))
    assert operators(module) == ["conv2d"], "nothing is transposed"
    (x,) = inputs_of(module)
    (got,) = run_units(module, [x], target)
    np.testing.assert_allclose(got, defined(conv, x, weights(*conv.weight_shape).value.numpy()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_every_shape(name: str) -> None:
    check(CASES[name], parse_target("native"))


def test_vectors_go_along_rows_where_they_fill_them() -> None:
    target = parse_target("sapphirerapids")
    along = {name for name, conv in CASES.items() if lies_along_rows(conv, target)}
    assert along >= {
        "vectors of a row in parts that overlap",
        "sums of as many rows as there are registers for",
        "images along rows",
        "more taps than rows, along rows",
        "no pads, along rows",
        "many parts inside of a row",
        "bands of rows",
    }
    turned = set(CASES) - along
    assert turned >= {
        "one row more",
        "strides",
        "bands of strides",
        "more taps than rows",
        "images, and channels that overlap",
    }


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64"])
@pytest.mark.parametrize("name", ["images, and channels that overlap", "strides", "several bands"])
def test_vectors_of_every_width(name: str, target: str) -> None:
    check(CASES[name], parse_target(target))


@settings(max_examples=8, deadline=None)
@given(
    st.builds(
        lambda batch, channels, size, kernel, stride, dilation, pads: of(
            channels,
            batch=batch,
            size=size,
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            pads_begin=pads[:2],
            pads_end=pads[2:],
        ),
        st.integers(1, 2),
        st.integers(8, 40),
        st.tuples(st.integers(14, 60), st.integers(40, 60)),
        st.tuples(st.integers(1, 5), st.integers(1, 7)),
        st.tuples(st.integers(1, 3), st.integers(1, 2)),
        st.tuples(st.integers(1, 3), st.integers(1, 2)),
        st.tuples(*[st.integers(0, 4)] * 4),
    )
)
def test_any_shape(conv: Conv) -> None:
    check(conv, parse_target("x86-64-v3"))


def followed(e: Emitter, x: list[relax.Var]) -> relax.Expr:
    """y = relu((conv(x) + bias) * x1), x1 of the result's shape."""
    made = e.emit(relax.op.nn.conv2d(x[0], weights(20, 1, 3, 3), padding=1, groups=20))
    biased = e.emit(relax.op.add(made, weights(1, 20, 1, 1, seed=1)), "y")
    return e.emit(relax.op.nn.relu(e.emit(relax.op.multiply(biased, x[1]))), "z")


def test_what_follows_is_fused() -> None:
    shape = (2, 20, 17, 21)
    names = {"y": "layer", "z": "after"}
    module = rewrite(leaving_planes(program([shape, shape], followed, layers=names), ["layer"]))
    assert operators(module) == ["conv2d+add+multiply+relu"]
    x, other = inputs_of(module)
    (got,) = run_units(module, [x, other], parse_target("native"))
    conv = of(20, batch=2, size=shape[2:])
    sums = defined(conv, x, weights(20, 1, 3, 3).value.numpy()) + weights(1, 20, 1, 1, seed=1).value.numpy()
    np.testing.assert_allclose(got, np.maximum(sums * other, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "size", [(200, 4000), (4000, 16), (16, 5000), (1000, 1000), (56, 56)], ids=lambda size: "x".join(map(str, size))
)
@pytest.mark.parametrize("kernel", [3, 31])
def test_scratch_is_bounded(size: tuple[int, int], kernel: int) -> None:
    pads = (kernel // 2, kernel // 2)
    conv = of(64, size=size, kernel=(kernel, kernel), pads_begin=pads, pads_end=pads)
    target = parse_target("native")
    if may_lie_as_planes(replace(layers.layer("layer", "Conv", conv), alone=True), target):
        images = whole((1, 64, *size))
        assert planes_kernel(conv, images, images, Epilogue(), target).scratch <= SCRATCH
    else:
        assert kernel == 31
        assert size[1] >= 1000
