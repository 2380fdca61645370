"""The generic rule against TVM's own loop nests, which are slow and plain, and against NumPy where that is as plain.

Sizes lie around every vector width. Output memory is full of NaN. One thread and two give the same bits.
"""

from collections.abc import Callable

import numpy as np
import pytest
import tvm_ffi
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tvm import relax, te, tirx
from tvm.ir import Expr
from tvm.relax import op

from lowprec.schedules.generic import group_rows, schedule_generic
from lowprec.schedules.inlining import inline
from lowprec.schedules.stages import read_stages
from lowprec.targets import TARGETS, Target, parse_target
from tests.tvm.schedules.programs import Array, compiled, only_func, run, set_threads

PLAIN = next(target for target in TARGETS if target.name == "x86-64")
CHOICES = [PLAIN, *(target for target in TARGETS if target.name == "x86-64-v3"), parse_target("native")]
SIZES = st.sampled_from([1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 37, 64, 65, 136])
SMALL = st.sampled_from([1, 2, 3, 5, 8, 13])
EPSILON = float(np.finfo(np.float32).eps)

NUMBERS = ["float32", "int32", "int8", "uint8", "int16", "float64"]

few = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # each example compiles: shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)


def constant(value: float) -> Expr:
    return relax.const(np.float32(value))


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tolerance(length: int) -> float:
    """Two orders of adding `length` terms of size 1 differ by a rounding each; functions add a few, scaled up by 8."""
    return 8 * EPSILON * (8 + length)


def check(build: Callable[..., Expr], *inputs: Array, target: Target, length: int = 1) -> list[Array]:
    """Scheduled code agrees with TVM's loop nest, and with itself on two threads."""
    func = only_func(build, inputs)
    expected = run(compiled(func, PLAIN, scheduled=False), func, inputs)
    function = compiled(func, target)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(run(function, func, inputs))
    for want, one, two in zip(expected, *results, strict=True):
        np.testing.assert_array_equal(one, two)
        if want.dtype.kind == "f":
            np.testing.assert_allclose(one, want, rtol=tolerance(length), atol=tolerance(length))
        else:
            np.testing.assert_array_equal(one, want)
    return results[0]


def relu_of_sum(x: Expr, y: Expr) -> Expr:
    return op.nn.relu(op.add(x, y))


def mish(x: Expr) -> Expr:
    return op.multiply(x, op.tanh(op.nn.softplus(x)))


def response_normalization(x: Expr, channels: int) -> Expr:
    padded = op.nn.pad(op.multiply(x, x), [0, 0, 0, 0, 0, 0, 2, 2])
    total = op.strided_slice(padded, [3], [0], [channels])
    for start in range(1, 5):
        total = op.add(total, op.strided_slice(padded, [3], [start], [start + channels]))
    return op.multiply(x, op.power(op.add(op.multiply(total, constant(0.1)), constant(1.0)), constant(-0.75)))


@given(SMALL, SIZES, st.sampled_from(CHOICES))
@few
def test_elementwise(rows: int, channels: int, target: Target) -> None:
    shape = (1, rows, 7, channels)
    (got,) = check(relu_of_sum, normal(*shape), normal(*shape, seed=1), target=target)
    np.testing.assert_array_equal(got, np.maximum(normal(*shape) + normal(*shape, seed=1), 0))


@given(SMALL, SIZES, st.sampled_from(CHOICES))
@few
def test_broadcast_of_channels(rows: int, channels: int, target: Target) -> None:
    check(relu_of_sum, normal(2, rows, 9, channels), normal(channels), target=target)


@pytest.mark.parametrize("width", [2, 3, 16, 35])
@pytest.mark.parametrize("target", CHOICES, ids=lambda target: target.name)
def test_what_is_the_same_in_all_lanes(width: int, target: Target) -> None:
    """A rounded quotient, which has names for its parts. (What TVM made no vector of is number 589 of the random
    formats.)"""

    def repeated(x: Expr) -> Expr:
        steps = op.clip(op.round(op.divide(x, constant(0.1))), -128, 127)
        codes = op.astype(op.astype(steps, "int8"), "float32")
        return op.broadcast_to(op.multiply(codes, constant(0.1)), (40, width))

    check(repeated, normal(40, 1), target=target)


@pytest.mark.parametrize("size", [1, 17, 50000])
@pytest.mark.parametrize(
    "function", [op.exp, op.nn.gelu, op.nn.silu, op.sigmoid, op.tanh, mish], ids=lambda f: f.__name__
)
def test_activations(function: Callable[[Expr], Expr], size: int) -> None:
    check(function, normal(1, size), target=CHOICES[-1], length=4)


@given(SIZES, SMALL, SMALL, st.sampled_from(CHOICES))
@few
def test_channels_to_the_end_and_back(channels: int, height: int, width: int, target: Target) -> None:
    x = normal(2, channels, height, width)
    (last,) = check(lambda v: op.permute_dims(v, [0, 2, 3, 1]), x, target=target)
    np.testing.assert_array_equal(last, x.transpose(0, 2, 3, 1))
    (first,) = check(lambda v: op.permute_dims(v, [0, 3, 1, 2]), last, target=target)
    np.testing.assert_array_equal(first, x)


@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from(CHOICES), st.sampled_from(NUMBERS))
@few
def test_squares_turned(rows: int, columns: int, target: Target, dtype: str) -> None:
    """Alone, beside what is not turned, and two tensors at once."""
    x, y = (100 * normal(3, rows, columns, seed=1)).astype(dtype), (100 * normal(3, columns, rows)).astype(dtype)
    turned = x.transpose(0, 2, 1)
    (got,) = check(lambda v: op.permute_dims(v, [0, 2, 1]), x, target=target)
    np.testing.assert_array_equal(got, turned)
    (got,) = check(lambda v, w: op.maximum(op.permute_dims(v, [0, 2, 1]), w), x, y, target=target)
    np.testing.assert_array_equal(got, np.maximum(turned, y))
    (got,) = check(
        lambda v, w: op.maximum(*(op.permute_dims(z, [0, 2, 1]) for z in (v, w))), x, x[::-1].copy(), target=target
    )
    np.testing.assert_array_equal(got, np.maximum(turned, turned[::-1]))


@given(st.integers(16, 70), st.integers(16, 40), st.sampled_from(CHOICES))
@few
def test_squares_turned_into_a_border(width: int, channels: int, target: Target) -> None:
    x = normal(1, channels, 3, width)
    (got,) = check(lambda v: op.nn.pad(op.permute_dims(v, [0, 2, 3, 1]), [0, 0, 1, 1, 2, 1, 0, 0]), x, target=target)
    np.testing.assert_array_equal(got, np.pad(x.transpose(0, 2, 3, 1), ((0, 0), (1, 1), (2, 1), (0, 0))))


def test_a_large_tensor_is_turned() -> None:
    """So large that lines are fetched ahead, past its end at last."""
    x = normal(300, 1111)
    for target in CHOICES:
        (got,) = check(lambda v: op.permute_dims(v, [1, 0]), x, target=target)
        np.testing.assert_array_equal(got, x.T)


@given(st.lists(SIZES, min_size=2, max_size=4), st.sampled_from([1, 2, 3]), st.sampled_from(CHOICES))
@few
def test_concat(sizes: list[int], axis: int, target: Target) -> None:
    shapes = [[1, 6, 5, 18] for _ in sizes]
    for shape, size in zip(shapes, sizes, strict=True):
        shape[axis] = size
    inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    (got,) = check(lambda *xs: op.nn.relu(op.concat(list(xs), axis=axis)), *inputs, target=target)
    np.testing.assert_array_equal(got, np.maximum(np.concatenate(inputs, axis), 0))


@given(SMALL, SIZES, st.sampled_from(CHOICES))
@few
def test_pad_slice_and_split(rows: int, channels: int, target: Target) -> None:
    x = normal(1, rows, 6, channels)
    (padded,) = check(lambda v: op.nn.pad(v, [0, 0, 1, 2, 0, 1, 2, 1]), x, target=target)
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (1, 2), (0, 1), (2, 1))))
    (sliced,) = check(lambda v: op.strided_slice(v, [1, 2], [0, 1], [rows, 6], [2, 2]), x, target=target)
    np.testing.assert_array_equal(sliced, x[:, ::2, 1::2])


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("target", CHOICES, ids=lambda t: t.name)
def test_channel_shuffle(groups: int, target: Target) -> None:
    x = normal(1, 5, 3, 4 * 34)
    split, joined = (1, 5, 3, groups, x.shape[-1] // groups), x.shape

    def shuffle(v: Expr) -> Expr:
        return op.reshape(op.permute_dims(op.reshape(v, split), [0, 1, 2, 4, 3]), joined)

    (got,) = check(shuffle, x, target=target)
    np.testing.assert_array_equal(got, x.reshape(split).swapaxes(3, 4).reshape(joined))


@given(SIZES, st.integers(5, 12), st.sampled_from([1, 2]), st.booleans(), st.sampled_from(["NHWC", "NCHW"]), st.data())
@few
def test_pooling(channels: int, size: int, stride: int, ceil: bool, layout: str, data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(CHOICES))
    x = normal(1, size, size + 2, channels) if layout == "NHWC" else normal(1, channels, size, size + 2)
    window = {
        "pool_size": (3, 3),
        "strides": (stride,) * 2,
        "padding": (1, 1, 1, 1),
        "ceil_mode": ceil,
        "layout": layout,
    }
    check(lambda v: op.nn.max_pool2d(v, **window), x, target=target)
    check(lambda v: op.nn.relu(op.nn.avg_pool2d(v, **window)), x, target=target, length=9)
    check(lambda v: op.nn.avg_pool2d(v, count_include_pad=True, **window), x, target=target, length=9)


@given(SMALL, SIZES, st.sampled_from(CHOICES))
@few
def test_reductions_of_every_axis(rows: int, channels: int, target: Target) -> None:
    x = normal(3, rows, 7, channels)
    for axes in ([1, 2], [3], [0], [2, 3]):
        (got,) = check(lambda v, axes=axes: op.mean(v, axis=axes), x, target=target, length=x.size)
        np.testing.assert_allclose(got, x.mean(tuple(axes)), atol=tolerance(x.size))
    check(lambda v: op.max(v, axis=[3], keepdims=True), x, target=target)
    check(op.sum, x, target=target, length=x.size)


@given(SMALL, SIZES, st.sampled_from([1, -1]), st.sampled_from(CHOICES))
@few
def test_softmax(rows: int, channels: int, axis: int, target: Target) -> None:
    x = 5 * normal(2, 13, rows, channels)
    (got,) = check(lambda v: op.nn.softmax(v, axis=axis), x, target=target, length=x.shape[axis])
    exp = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    np.testing.assert_allclose(got, exp / exp.sum(axis, keepdims=True), rtol=tolerance(x.shape[axis]))


@given(SMALL, SIZES, st.sampled_from(CHOICES))
@few
def test_layer_norm_and_gelu(rows: int, channels: int, target: Target) -> None:
    inputs = normal(2, rows, 9, channels), normal(channels, seed=1), normal(channels, seed=2)
    check(lambda x, g, b: op.nn.layer_norm(x, g, b, axes=[-1]), *inputs, target=target, length=40 * channels)


@given(SIZES, st.sampled_from(CHOICES))
@few
def test_local_response_normalization(channels: int, target: Target) -> None:
    check(lambda x: response_normalization(x, channels), normal(1, 6, 5, channels), target=target, length=5)


@pytest.mark.parametrize("method", ["linear", "nearest_neighbor", "cubic"])
@pytest.mark.parametrize(("layout", "shape"), [("NHWC", (1, 5, 6, 19)), ("NCHW", (1, 19, 5, 6))])
def test_resize(method: str, layout: str, shape: tuple[int, ...]) -> None:
    def resize(x: Expr) -> Expr:
        return op.image.resize2d(x, (10, 13), layout=layout, method=method)

    check(resize, normal(*shape), target=CHOICES[-1], length=16)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float64", "float16", "bool"])
def test_other_types(dtype: str) -> None:
    x = (4 * normal(3, 5, 37)).astype(dtype)
    check(lambda v: op.astype(v, "float32"), x, target=CHOICES[-1])
    if dtype != "bool":
        check(lambda v: op.max(op.add(v, v), axis=-1), x, target=CHOICES[-1])
        check(lambda v: op.where(op.greater(v, op.flip(v, 2)), v, op.multiply(v, v)), x, target=CHOICES[-1])


def test_gather_and_argmax() -> None:
    x, rows = normal(50, 37), np.array([0, 49, 7, 7, 3])
    (got,) = check(lambda v, i: op.take(v, i, axis=0), x, rows, target=CHOICES[-1])
    np.testing.assert_array_equal(got, x[rows])
    (largest,) = check(lambda v: op.argmax(v, axis=1), x, target=CHOICES[-1])
    np.testing.assert_array_equal(largest, x.argmax(1))


def test_what_cannot_be_read_still_works_and_runs_in_parallel() -> None:
    x = normal(1, 50, 50, 64)
    func = only_func(lambda v: op.nn.adaptive_avg_pool2d(v, (7, 7), layout="NHWC"), [x])
    assert read_stages(func) is None, "windows of unequal sizes"
    assert "T.parallel" in schedule_generic(func, CHOICES[-1]).script()
    check(lambda v: op.nn.adaptive_avg_pool2d(v, (7, 7), layout="NHWC"), x, target=CHOICES[-1], length=64)


def test_nothing_at_all() -> None:
    check(op.nn.relu, normal(0, 4), target=CHOICES[-1])
    empty = te.placeholder((3, 0), "float32", "empty")
    k = te.reduce_axis((0, 0), "k")
    total = te.compute((3,), lambda i: te.sum(empty[i, k], axis=k), "total")
    func = te.create_prim_func([empty, total])
    (got,) = run(compiled(func, CHOICES[-1]), func, [normal(3, 0)])
    np.testing.assert_array_equal(got, np.zeros(3, np.float32))


def test_scatter_keeps_its_statements() -> None:
    x, update = normal(30, 17), normal(3, 17, seed=1)
    index = np.random.default_rng(0).permutation(30)[:3, None].repeat(17, 1)
    check(lambda v, i, u: op.scatter_elements(v, i, u, 0), x, index, update, target=CHOICES[-1])


def loops_of(func: tirx.PrimFunc) -> list[tirx.For]:
    found: list[tirx.For] = []
    tvm_ffi.structural_walk(func.body, (tirx.For, found.append), order="pre")
    return found


def test_softmax_is_one_parallel_loop_over_rows() -> None:
    func = only_func(lambda v: op.nn.softmax(v, axis=-1), [normal(200, 197)])
    loops = loops_of(schedule_generic(func, CHOICES[-1]))
    assert [int(x.extent) for x in loops if x.kind == tirx.ForKind.PARALLEL] == [200]
    stages = read_stages(func)
    assert stages is not None
    assert [rows.depth for rows in group_rows(stages)] == [1]


def test_concat_is_as_many_copies_as_inputs() -> None:
    inputs = [normal(1, 28, 28, channels) for channels in (64, 128, 32)]
    text = schedule_generic(only_func(lambda *xs: op.concat(list(xs), axis=3), inputs), CHOICES[-1]).script()
    assert "if_then_else" not in text
    assert "T.parallel" in text


def test_small_work_stays_on_one_thread() -> None:
    func = only_func(op.nn.relu, [normal(1, 1000)])
    assert all(loop.kind != tirx.ForKind.PARALLEL for loop in loops_of(schedule_generic(func, CHOICES[-1])))


def test_exp_is_not_computed_twice() -> None:
    func = only_func(lambda v: op.nn.softmax(v, axis=-1), [normal(200, 197)])
    stages = read_stages(func)
    assert stages is not None
    assert len(inline(stages, set(func.params))) == 4, "maximum, exponentials, sum, quotient"
