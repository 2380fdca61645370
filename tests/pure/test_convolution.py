"""The oracle of every convolution kernel, held against its definition written out one multiplication at a time."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.convolution import Conv, convolve
from lowprec.errors import InvalidModel

Floats = NDArray[np.float64]


@st.composite
def convs(draw: st.DrawFn, transposed: bool) -> Conv:
    """Small geometries of every kind: each axis has its own size, kernel, stride, dilation and padding."""
    rank = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    extents: dict[str, list[int]] = {}
    for name in ("size", "kernel", "stride", "dilation", "pads_begin", "pads_end"):
        extents[name] = []
    for _ in range(rank):
        kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        begin, end = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        reach = (kernel - 1) * dilation + 1
        least = begin + end + 1 if transposed else max(1, reach - begin - end)
        axis = (draw(st.integers(least, least + 3)), kernel, draw(st.integers(1, 3)), dilation, begin, end)
        for values, value in zip(extents.values(), axis, strict=True):
            values.append(value)
    padding = tuple(draw(st.integers(0, 1)) for _ in range(rank)) if transposed else ()
    return Conv(
        batch=draw(st.integers(1, 2)),
        in_channels=groups * draw(st.integers(1, 2)),
        out_channels=groups * draw(st.integers(1, 2)),
        groups=groups,
        transposed=transposed,
        output_padding=padding,
        **{name: tuple(values) for name, values in extents.items()},
    )


def by_definition(conv: Conv, x: Floats, w: Floats) -> Floats:
    """Equation (1) or (2), one product at a time, with no code of the oracle's."""
    y = np.zeros((conv.batch, conv.out_channels, *conv.output_size))
    c_in, c_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    moving, fixed = (conv.size, conv.output_size) if conv.transposed else (conv.output_size, conv.size)
    channels = itertools.product(range(conv.batch), range(conv.groups), range(c_in), range(c_out))
    for n, g, c, k in channels:
        for at in np.ndindex(*moving):
            for tap in np.ndindex(*conv.kernel):
                axes = zip(at, tap, conv.stride, conv.dilation, conv.pads_begin, strict=True)
                other = tuple(i * s + t * d - p for i, t, s, d, p in axes)
                if not all(0 <= i < n_i for i, n_i in zip(other, fixed, strict=True)):
                    continue
                if conv.transposed:
                    y[(n, g * c_out + k, *other)] += x[(n, g * c_in + c, *at)] * w[(g * c_in + c, k, *tap)]
                else:
                    y[(n, g * c_out + k, *at)] += x[(n, g * c_in + c, *other)] * w[(g * c_out + k, c, *tap)]
    return y


def check(conv: Conv) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 8, (conv.batch, conv.in_channels, *conv.size)).astype(np.float64)
    w = rng.integers(-8, 8, conv.weight_shape).astype(np.float64)
    b = rng.integers(-8, 8, conv.out_channels).astype(np.float64)
    expected = by_definition(conv, x, w)
    np.testing.assert_array_equal(convolve(conv, x, w), expected)
    bias = b.reshape(-1, *(1,) * len(conv.size))
    np.testing.assert_array_equal(convolve(conv, x, w, b), expected + bias)


@settings(max_examples=40, deadline=None)
@given(convs(transposed=False))
def test_convolution_is_its_definition(conv: Conv) -> None:
    check(conv)


@settings(max_examples=40, deadline=None)
@given(convs(transposed=True))
def test_transposed_convolution_is_its_definition(conv: Conv) -> None:
    check(conv)


def geometry(**changes: Any) -> Conv:
    base: dict[str, Any] = {
        "batch": 1,
        "in_channels": 64,
        "out_channels": 128,
        "groups": 1,
        "size": (56, 56),
        "kernel": (3, 3),
        "stride": (2, 2),
        "dilation": (1, 1),
        "pads_begin": (1, 1),
        "pads_end": (1, 1),
    }
    return Conv(**base | changes)


def test_counts() -> None:
    conv = geometry()
    assert conv.output_size == (28, 28)
    assert conv.weight_shape == (128, 64, 3, 3)
    assert conv.macs == 28 * 28 * 128 * 64 * 9
    upsampling = geometry(transposed=True, output_padding=(1, 1))
    assert upsampling.output_size == (112, 112)
    assert upsampling.weight_shape == (64, 128, 3, 3)
    assert upsampling.macs == 56 * 56 * 128 * 64 * 9


def test_kinds() -> None:
    assert geometry(groups=64, out_channels=64).depthwise
    assert not geometry(groups=32).depthwise
    plain = {"kernel": (1, 1), "stride": (1, 1), "pads_begin": (0, 0), "pads_end": (0, 0)}
    assert geometry(**plain).pointwise
    assert not geometry(**plain | {"stride": (2, 2)}).pointwise


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": ()}, "has 0 spatial axes; allowed are 1 to 3"),
        ({"stride": (0, 1)}, r"stride is \(0, 1\); it needs 2 values of at least 1"),
        ({"kernel": (3,)}, r"kernel is \(3,\); it needs 2 values"),
        ({"pads_end": (-1, 0)}, r"pads_end is \(-1, 0\); it needs 2 values of at least 0"),
        ({"groups": 3}, "3 groups do not divide the channels 64 -> 128"),
        ({"batch": 0}, "must each be at least 1"),
        ({"size": (1, 1), "kernel": (5, 5)}, "the output would be empty"),
        ({"output_padding": (1, 1)}, "for transposed convolutions alone"),
    ],
)
def test_refusals(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidModel, match=sentence):
        geometry(**changes)


def test_operands_must_fit() -> None:
    conv = geometry()
    with pytest.raises(ValueError, match="needs w"):
        convolve(conv, np.zeros((1, 64, 56, 56)), np.zeros((128, 3, 3, 64)))
