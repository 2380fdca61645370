"""Transposed convolutions, rewritten, against the oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from lowprec.convolution import Conv, convolve
from lowprec.errors import InvalidModel
from lowprec.passes.transposed import TRANSPOSED, plain_convolutions
from tests.oracle import sum_bound
from tests.tvm.passes.programs import operators, program, run


@st.composite
def transposed(draw: st.DrawFn) -> Conv:
    rank = draw(st.sampled_from((1, 2, 2, 3)))
    per_axis = [
        (draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2)))
        for _ in range(rank)
    ]
    size, kernel, stride, dilation = (tuple(column) for column in zip(*per_axis, strict=True))
    groups = draw(st.sampled_from((1, 1, 2)))
    return Conv(
        batch=draw(st.integers(1, 2)),
        in_channels=groups * draw(st.integers(1, 3)),
        out_channels=groups * draw(st.integers(1, 3)),
        groups=groups,
        size=size,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pads_begin=tuple(draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilation, strict=True)),
        pads_end=tuple(draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilation, strict=True)),
        transposed=True,
        output_padding=tuple(draw(st.integers(0, s - 1)) for s in stride),
    )


def possible(build: st.SearchStrategy[Conv]) -> st.SearchStrategy[Conv]:
    """Those of a strategy whose output is not empty."""

    @st.composite
    def tried(draw: st.DrawFn) -> Conv:
        for _ in range(5):
            try:
                return draw(build)
            except InvalidModel:
                continue
        return draw(build.filter(bool))

    return tried()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(possible(transposed()), st.integers(0, 99))
def test_transposed_convolutions(conv: Conv, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((conv.batch, conv.in_channels, *conv.size), np.float32)
    w = rng.standard_normal(conv.weight_shape, np.float32)
    function = getattr(relax.op.nn, f"conv{len(conv.size)}d_transpose")
    module = program(
        [x.shape],
        lambda e, p: e.emit(
            function(
                p[0],
                relax.const(w),
                strides=conv.stride,
                padding=[*conv.pads_begin, *conv.pads_end],
                output_padding=conv.output_padding,
                dilation=conv.dilation,
                groups=conv.groups,
            )
        ),
    )
    after = plain_convolutions(module)
    assert not any("transpose" in name for name in operators(after))
    (got,) = run(after, [x])
    bound = sum_bound(w[0].size * conv.in_channels, convolve(conv, np.abs(x), np.abs(w)))
    assert (np.abs(got - convolve(conv, x, w)) <= bound + 1e-30).all()


def test_computed_weights_decline() -> None:
    module = program([(1, 2, 3, 3), (2, 2, 2, 2)], lambda e, p: e.emit(relax.op.nn.conv2d_transpose(*p)))
    assert operators(plain_convolutions(module)) == ["conv2d_transpose"]


@pytest.mark.parametrize("name", TRANSPOSED)
def test_every_rank_is_known(name: str) -> None:
    assert TRANSPOSED[name] in name
