"""The product over patches against the oracle: one to three axes, stride, dilation, groups, few channels, borders.

Each element is a sum of products in some order, and is held to what a float32 sum may be off by.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.choosing import IM2COL
from lowprec.schedules import im2col as schedule
from lowprec.schedules.im2col import Im2col
from lowprec.schedules.tasks import start_of
from tests.amounts import thinned
from tests.oracle import convolution_bound
from tests.tvm.kernels import Array, cut
from tests.tvm.schedules.cases import CHANNELS, TARGETS, Case, conv_of, judged, kernel_of, numbers_of, run


def im2col_of(case: Case, *, good_for: int = 1) -> Im2col:
    kernel = kernel_of(case, good_for=good_for)
    assert isinstance(kernel, Im2col)
    return kernel


def problem(case: Case, got: Array) -> str:
    """What is wrong with a physical result, or nothing."""
    numbers, found = numbers_of(case), judged(case, got)
    extra = np.moveaxis(found.extra, -1, 1).astype(np.float32)
    bound = convolution_bound(case.conv, numbers.x, numbers.w, extra)
    if not (np.moveaxis(found.error, -1, 1) <= bound).all():
        return "an element is wrong"
    return "the border is not written with zeros" if found.border.any() else ""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rank = draw(st.sampled_from((2, 2, 1, 3)))
    kernel = tuple(draw(st.sampled_from((3, 1, 2, 5, 7) if rank < 3 else (3, 1, 2))) for _ in range(rank))
    output = tuple(draw(st.sampled_from((1, 2, 3, 5, 7, 11, 13) if rank < 3 else (1, 2, 3, 5))) for _ in range(rank))
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    widths = CHANNELS if groups == 1 else CHANNELS[:5]
    conv = conv_of(
        kernel,
        output,
        (groups, draw(st.sampled_from(widths)), draw(st.sampled_from(widths))),
        batch=draw(st.sampled_from((1, 1, 2))),
        stride=tuple(draw(st.sampled_from((1, 1, 2, 3))) for _ in range(rank)),
        dilation=tuple(draw(st.sampled_from((1, 1, 2, 3))) for _ in range(rank)),
    )
    return Case(
        conv=conv,
        algorithm=IM2COL,
        target=draw(st.sampled_from(TARGETS)),
        border=draw(st.integers(0, 2)),
        residual=draw(st.booleans()),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(cases())
def test_kernels_equal_the_oracle(case: Case) -> None:
    assert isinstance(kernel_of(case), Im2col)
    assert problem(case, run(case)) == ""


# Everything at once: a stride, a dilation, groups, several panels, a border, an epilogue.
MIXED = Case(
    conv=conv_of((3, 2), (6, 13), (2, 17, 67), batch=2, stride=(2, 1), dilation=(1, 3)),
    algorithm=IM2COL,
    border=1,
    residual=True,
    bias=True,
)
# A first layer: few channels, so that a patch's row is one run.
STEM = replace(MIXED, conv=conv_of((7, 7), (12, 13), (1, 3, 64), stride=(2, 2)))
# Few pixels and many output channels, so that threads share the channels.
DEEP = replace(MIXED, conv=conv_of((3, 3), (3, 4), (1, 16, 1024)))
# More patches than one block takes.
LONG = replace(MIXED, conv=conv_of((3, 3), (40, 41), (1, 16, 18)))
ALL = {"mixed": MIXED, "stem": STEM, "deep": DEEP, "long": LONG}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_layers_of_each_kind_equal_the_oracle(case: Case, target: str) -> None:
    case = replace(case, target=target)
    assert problem(case, run(case, good_for=3)) == ""


def test_they_are_of_those_kinds() -> None:
    assert im2col_of(STEM).runs == (7, 21)
    assert im2col_of(MIXED).runs == (6, 17)
    assert im2col_of(LONG).blocks.run < 40 * 41
    assert len({im2col_of(DEEP, good_for=threads).blocks.parts for threads in (1, 2, 4)}) > 1


@pytest.mark.parametrize("case", thinned(ALL.values()), ids=ALL)
def test_threads_do_not_change_bits(case: Case) -> None:
    one, two, three = (run(case, threads=threads, good_for=2) for threads in (1, 2, 3))
    assert one.tobytes() == two.tobytes() == three.tobytes()


@pytest.mark.parametrize("case", [DEEP, LONG], ids=["deep", "long"])
def test_the_cut_does_not_change_bits(case: Case) -> None:
    kernel = im2col_of(case)
    blocks = kernel.blocks
    parts = [parts for parts in range(1, blocks.turns + 1) if blocks.turns % parts == 0]
    cuts = [replace(blocks, parts=count) for count in parts]
    cuts += [replace(blocks, run=count) for count in (blocks.tile.rows, blocks.run - 1) if blocks.tile.rows <= count]
    assert len(set(cuts)) > 1
    assert len({run(case, kernel=replace(kernel, blocks=each), threads=2).tobytes() for each in cuts}) == 1


@pytest.mark.parametrize("axis", [0, 1, -2, -1], ids=["group", "turn", "patch", "outer"])
def test_weights_in_another_order_are_seen(axis: int) -> None:
    case = MIXED if axis == 0 else replace(MIXED, conv=conv_of((3, 3), (3, 4), (1, 16, 1027)))

    def turned(packed: Array) -> Array:
        assert packed.shape[axis] > 1, packed.shape
        return np.ascontiguousarray(np.roll(packed, 1, axis))

    assert problem(case, run(case, pack=turned)) == "an element is wrong"


@pytest.mark.parametrize("case", [MIXED, STEM], ids=["mixed", "stem"])
def test_an_input_is_seen_by_its_windows_alone(case: Case) -> None:
    """A NaN spoils just those results that have it under a tap."""
    conv, numbers = case.conv, numbers_of(case)
    at = (conv.size[0] // 2, conv.size[1] // 2)
    numbers.x[0, 0, at[0], at[1]] = np.nan
    expected = np.zeros(case.extents, bool)
    seen = []
    for place, o, s, d, k in zip(at, conv.output_size, conv.stride, conv.dilation, conv.kernel, strict=True):
        seen.append([p for p in range(o) if place in range(p * s, p * s + (k - 1) * d + 1, d)])
    assert all(seen)
    expected[np.ix_([0], *seen, range(conv.out_channels // conv.groups))] = True
    plain = replace(case, residual=False)
    assert np.array_equal(np.isnan(cut(plain.result, run(plain, numbers=numbers))), expected)


def test_taps_copied_from_elsewhere_are_seen() -> None:
    """As if there were no dilation."""
    kernel = im2col_of(MIXED)
    geometry = replace(kernel.geometry, dilation=(1, 1, 1))
    assert problem(MIXED, run(MIXED, kernel=replace(kernel, geometry=geometry))) == "an element is wrong"


def test_pixels_beyond_a_block_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block, shifted by one."""
    monkeypatch.setattr(schedule, "start_of", lambda i, step, extent: start_of(i, step, max(step, extent - 1)))
    assert problem(LONG, run(LONG)) == "an element is wrong"


def test_an_element_that_is_not_written_is_seen() -> None:
    got = run(MIXED)
    for spoil in (np.nan, 1.0):
        wrong = got.copy()
        cut(MIXED.result, wrong)[1, 5, 12, 66] = spoil
        assert problem(MIXED, wrong) == "an element is wrong"
    wrong = got.copy()
    wrong[0, 0, 0, 0] = 1
    assert problem(MIXED, wrong) == "the border is not written with zeros"
