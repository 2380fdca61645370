"""Quantized tensors: ONNX's QuantizeLinear, the law of `round_to`, and bytes of which none may be wrong."""

import struct
import tracemalloc
import zlib
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from lowprec.encoding import code_dtype, code_range, decode
from lowprec.formats import (
    BF16,
    FP16,
    FP32,
    TF32,
    Binary,
    DynamicFixed,
    Fixed,
    Float,
    Format,
    Int,
    Specials,
    limits,
    parse_format,
)
from lowprec.qtensor import QTensor
from lowprec.quantizing import fitted_scale, quantize
from lowprec.rounding import Rounding, round_to
from tests.refusals import outcome, refused
from tests.scalar_rounding import names

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

Singles = NDArray[np.float32]

SMALL = names(8)
WORDS: list[Format] = [
    *(Int(bits, signed=signed) for bits in (*range(1, 17), 32, 63, 64) for signed in (True, False)),
    *(Fixed(2, bits - 2) for bits in (*range(2, 17), 32, 63, 64)),
    *(FP16, BF16, TF32, FP32, Float(11, 52), Float(6, 9), Float(4, 3, Specials.NAN)),
    *(Binary(), DynamicFixed(10, -7, 0.5)),
]
HEAD = struct.Struct("<4sBBB64sII")


def spread(count: int, seed: int = 0, reach: int = 12) -> Singles:
    """Values of many sizes, both zeros among them."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(count) * 2.0 ** rng.integers(-reach, reach, count)
    values[:2] = 0.0, -0.0
    return values.astype(np.float32)


def assert_same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """Equal to the bit, the sign of zero included."""
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def assert_equal_tensors(found: QTensor, expected: QTensor) -> None:
    assert (found.format, found.axis, found.shape) == (expected.format, expected.axis, expected.shape)
    for name in ("codes", "scale", "zero_point"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


# ONNX


def plain_quantize(x: Singles, scale: Any, zero: Any, low: int, high: int) -> Any:
    """The definition of QuantizeLinear."""
    return np.clip(np.rint(x / scale).astype(np.int64) + zero, low, high)


def by_onnx(x: Singles, scale: Any, zero: NDArray[Any], axis: int) -> list[Any]:
    """QuantizeLinear and back, by onnx's reference evaluator."""
    kind = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8}[str(zero.dtype)]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=axis),
    ]
    inputs = [
        helper.make_tensor_value_info(name, element, None)
        for name, element in (("x", TensorProto.FLOAT), ("scale", TensorProto.FLOAT), ("zero", kind))
    ]
    outputs = [
        helper.make_tensor_value_info(name, element, None) for name, element in (("q", kind), ("y", TensorProto.FLOAT))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 19)]
    )
    return list(ReferenceEvaluator(model).run(None, {"x": x, "scale": scale, "zero": zero}))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_one_scale_is_quantize_linear(seed: int, signed: bool) -> None:
    fmt = Int(8, signed=signed)
    rng = np.random.default_rng(seed)
    x = spread(600, seed).reshape(20, 30)
    scale = np.float32(rng.uniform(0.001, 2.0)) if seed else np.float32(0.5)  # with 1/2 there are ties
    x[0] = (np.arange(30) - 15) * 0.25
    zero = int(rng.integers(*fmt.codes, endpoint=True))
    found = quantize(x, fmt, scale=scale, zero_point=zero)
    np.testing.assert_array_equal(found.codes, plain_quantize(x, scale, np.int32(zero), *fmt.codes))
    q, y = by_onnx(x, scale, np.array(zero, found.codes.dtype), 1)
    np.testing.assert_array_equal(found.codes, q)
    assert found.codes.dtype == q.dtype
    np.testing.assert_array_equal(found.dequantize(), y)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_a_scale_for_each_index_is_quantize_linear(axis: int, signed: bool) -> None:
    fmt = Int(8, signed=signed)
    x = spread(3 * 4 * 5).reshape(3, 4, 5)
    rng = np.random.default_rng(axis + 9)
    scale = rng.uniform(0.01, 4, x.shape[axis]).astype(np.float32)
    zero = rng.integers(*fmt.codes, x.shape[axis], np.int32, endpoint=True)
    found = quantize(x, fmt, scale=scale, zero_point=zero, axis=axis)
    assert found.axis == axis % 3
    along = [1, 1, 1]
    along[axis] = -1
    expected = plain_quantize(x, scale.reshape(along), zero.reshape(along), *fmt.codes)
    np.testing.assert_array_equal(found.codes, expected)
    q, y = by_onnx(x, scale, zero.astype(found.codes.dtype), axis % 3)
    np.testing.assert_array_equal(found.codes, q)
    np.testing.assert_array_equal(found.dequantize(), y)


def test_ties_of_the_quotient_go_to_even_before_the_zero_point() -> None:
    x = np.array([-1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert quantize(x, Int(8), zero_point=1).codes.tolist() == [-1, 1, 1, 3, 3]
    assert quantize(x, Int(8), Rounding.NEAREST_AWAY, zero_point=1).codes.tolist() == [-1, 0, 2, 3, 4]


def test_infinities_saturate() -> None:
    x = np.array([np.inf, -np.inf, 3e38, -3e38], np.float32)
    assert quantize(x, Int(8), scale=1e-30, zero_point=5).codes.tolist() == [127, -128, 127, -128]
    assert quantize(x, Int(64), scale=1e-30).codes.tolist() == [2**63 - 1, -(2**63)] * 2
    assert quantize(x, Int(64, signed=False)).codes.tolist() == [2**64 - 1, 0] * 2
    held = 2**63 - 2**39  # as `round_to` does, which gives values, and these in float32
    assert quantize(x, Fixed(1, 63)).codes.tolist() == [held, -(2**63)] * 2


# The law


@pytest.mark.parametrize("name", [*SMALL, "fp16", "bf16", "tf32", "fp32", "int16", "uint24", "int24", "q2.14", "q1.23"])
def test_without_a_scale_it_is_round_to(name: str) -> None:
    fmt = parse_format(name)
    low, high = limits(fmt)
    rng = np.random.default_rng(0)
    inside = rng.uniform(1.1 * low, 1.1 * high, 400) if high < 1e30 else rng.standard_normal(400)
    x = np.concatenate((spread(400, 1, 30), inside, [np.inf, -np.inf])).astype(np.float32)
    for rounding in Rounding:
        if isinstance(fmt, Binary) and rounding is Rounding.TOWARD_ZERO:
            continue
        bits = rng.integers(0, 1 << 32, x.size, np.uint32)
        used = int(rng.integers(1, 33))
        found = quantize(x, fmt, rounding, bits=bits, bits_used=used)
        assert found.codes.dtype == code_dtype(fmt)
        assert found.dequantize().dtype == np.float32
        assert_same(found.dequantize(), round_to(x, fmt, rounding, bits=bits, bits_used=used))
        wide = quantize(x.astype(np.float64), fmt, rounding, bits=bits, bits_used=used)
        np.testing.assert_array_equal(wide.codes, found.codes)


@pytest.mark.parametrize("fmt", [Int(8), Fixed(2, 5), Float(4, 3, Specials.NAN), Binary(), FP16], ids=str)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_with_a_scale_it_is_round_to_of_the_quotient(fmt: Format, axis: int | None) -> None:
    x = spread(200).reshape(8, 25)
    scale = np.array([0.3], np.float32) if axis is None else np.abs(spread(x.shape[axis] + 2, 3, 3)[2:])
    along = scale if axis is None else scale.reshape((-1, 1) if axis == 0 else (1, -1))
    bits = np.random.default_rng(0).integers(0, 1 << 32, x.shape, np.uint32)
    found = quantize(x, fmt, Rounding.STOCHASTIC, scale=scale, axis=axis, bits=bits)
    expected = round_to(x / along, fmt, Rounding.STOCHASTIC, bits=bits) * along
    np.testing.assert_array_equal(found.dequantize(), expected)


def test_nan() -> None:
    x = np.array([np.nan, 1.0], np.float32)
    found = quantize(x, Float(4, 3, Specials.NAN), scale=0.5)
    assert np.isnan(found.dequantize()).tolist() == [True, False]
    for fmt in (Int(8), Fixed(2, 3), Binary(), DynamicFixed(8), Float(2, 1, Specials.NONE)):
        assert "1 of 2 values are NaN (the first at (0,))" in refused(partial(quantize, x, fmt))
        assert "are NaN" in refused(partial(fitted_scale, x, fmt))


def test_the_product_is_rounded_once() -> None:
    """Differences that 24 digits do not hold must not be rounded before they are multiplied."""
    codes = np.array([2**24 + 1, 2**30 + 3], np.int32)
    scale = np.array([1 / 3], np.float32)
    tensor = QTensor(codes=codes, format=Int(32), scale=scale, zero_point=np.zeros(1, np.int32))
    exact = codes.astype(np.float64) * float(scale[0])
    np.testing.assert_array_equal(tensor.dequantize(), exact.astype(np.float32))


def test_what_float32_cannot_hold_is_dequantized_in_silence() -> None:
    found = quantize(np.array([1e300, -1e300, 1.0]), Float(11, 52)).dequantize()
    assert found.tolist() == [np.inf, -np.inf, 1.0]


# Scales


FITTED = [fmt for fmt in WORDS if limits(fmt)[1] > 0 and fmt not in (FP32, BF16, TF32, Float(11, 52))]


def saturating(x: Singles, scale: Singles, fmt: Format) -> NDArray[np.bool_]:
    """Which quotients, in float32 as `quantize` has them, are nearer to what lies beyond the ends than to the ends."""
    low, high = limits(fmt)
    quotient = (x / scale).astype(np.float64)
    bits = fmt.mantissa if isinstance(fmt, Float) else 0
    half = 0.5 * 2.0 ** (np.floor(np.log2(high)) - bits) if isinstance(fmt, Float) else 0.5 * 2.0 ** step_of(fmt)
    return (quotient >= high + half) | (quotient < low - half)


def step_of(fmt: Format) -> int:
    return fmt.exponent if isinstance(fmt, Fixed | DynamicFixed | Int) else 0


@pytest.mark.parametrize("fmt", FITTED, ids=str)
def test_with_a_fitted_scale_nothing_saturates(fmt: Format) -> None:
    for seed in range(40):
        x = spread(30, seed)
        x = np.abs(x) if limits(fmt)[0] == 0 else x
        scale = fitted_scale(x, fmt)
        assert scale.shape == (1,)
        assert not saturating(x, scale, fmt).any()
        assert saturating(x, scale / np.float32(4), fmt).any(), "it is no larger than it must be"


@pytest.mark.parametrize("rounding", [Rounding.UP, Rounding.DOWN])
@pytest.mark.parametrize("fmt", [Int(8), Fixed(2, 6), Float(4, 3, Specials.NAN), FP16, Int(4), Float(5, 2)], ids=str)
def test_with_a_fitted_scale_nothing_saturates_in_any_rounding(fmt: Format, rounding: Rounding) -> None:
    """No quotient is beyond the ends, not by a float32's last digit either: rounded outwards that would be a step."""
    for seed in range(40):
        x = spread(30, seed)
        scale = fitted_scale(x, fmt)
        quotient = x / scale
        low, high = limits(fmt)
        assert low <= quotient.min() <= quotient.max() <= high
        assert np.isfinite(quantize(x, fmt, rounding, scale=scale).dequantize()).all()


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_fitted_scales_of_an_axis_are_those_of_its_parts(axis: int) -> None:
    x = spread(60).reshape(5, 12)
    x[0] = x[:, 0] = 0
    found = fitted_scale(x, Int(8), axis=axis)
    parts = [fitted_scale(part, Int(8)) for part in np.moveaxis(x, axis, 0)]
    np.testing.assert_array_equal(found, np.concatenate(parts))
    assert found[0] == 1
    assert quantize(x, Int(8), scale=found, axis=axis).axis == axis % 2


def test_zeros_and_nothing_have_a_scale_of_one() -> None:
    for x in (np.zeros(3), np.zeros(0), np.zeros((2, 0)), [-0.0]):
        assert fitted_scale(x, Int(8)).tolist() == [1]
    assert fitted_scale(np.zeros((2, 0)), Int(8), axis=0).tolist() == [1, 1]


@pytest.mark.parametrize("count", [1, 2, 100, 135, 200, 1000, 2**20 + 1])
def test_fitted_scales_of_the_smallest_values(count: int) -> None:
    """Where float32 has few digits left the scale must be rounded up, and be no 0."""
    x = np.array([count * 2.0**-149], np.float32)
    scale = fitted_scale(x, Int(8))
    assert scale[0] <= max(2 * count / 127, 1) * 2.0**-149
    assert not saturating(x, scale, Int(8)).any()


@pytest.mark.parametrize("fmt", [Int(1), Fixed(1, 0), DynamicFixed(1, 3)], ids=str)
def test_a_fitted_scale_where_nothing_is_above_zero(fmt: Format) -> None:
    """-1 and 0: what is above zero fits with no scale."""
    assert "\n" not in refused(lambda: fitted_scale(np.array([1.0]), fmt))


def test_a_fitted_scale_for_what_unsigned_words_cannot_hold() -> None:
    assert "uint8" in refused(lambda: fitted_scale(np.array([-1.0, 0.5]), Int(8, signed=False)))


def test_a_fitted_scale_that_float32_cannot_hold() -> None:
    assert "scale" in refused(lambda: fitted_scale(np.array([1e300]), Int(8)))


def test_infinities_have_no_fitted_scale() -> None:
    assert "clip them first" in refused(lambda: fitted_scale([1.0, -np.inf], Int(8)))
    assert "clip them first" in refused(lambda: fitted_scale([[1.0], [np.inf]], FP16, axis=0))


X = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"scale": 0.0}, "zero, negative or not finite"),
        ({"scale": -1.0}, "zero, negative or not finite"),
        ({"scale": np.nan}, "zero, negative or not finite"),
        ({"scale": np.inf}, "zero, negative or not finite"),
        ({"scale": [1.0, 0.0], "axis": 0}, "zero, negative or not finite"),
        ({"scale": 1e-60}, "zero, negative or not finite"),
        ({"scale": 1e300}, "zero, negative or not finite"),
        ({"scale": "a"}, "scale"),
        ({"scale": 1j}, "scale"),
        ({"scale": [1.0, 2.0]}, "scale is of shape (2,) for values of shape (2, 3)"),
        ({"scale": [1.0, 2.0], "axis": 1}, "give 1 or 3 numbers"),
        ({"scale": [1.0, 2.0, 3.0], "axis": 0}, "give 1 or 2 numbers"),
        ({"scale": [[1.0, 2.0, 3.0]], "axis": 1}, "scale is of shape (1, 3)"),
        ({"scale": [], "axis": 0}, "scale is of shape (0,)"),
        ({"zero_point": 128}, "a zero point is no integer of int8: give integers from -128 to 127"),
        ({"zero_point": -129}, "from -128 to 127"),
        ({"zero_point": 1.0}, "no integer of int8"),
        ({"zero_point": True}, "no integer of int8"),
        ({"zero_point": "1"}, "no integer of int8"),
        ({"zero_point": [0, 1]}, "zero_point is of shape (2,)"),
        ({"zero_point": [0, 1], "axis": 1}, "give 1 or 3 numbers"),
        ({"zero_point": -1, "fmt": Int(8, signed=False)}, "from 0 to 255"),
        ({"zero_point": 2**31, "fmt": Int(64)}, "from -2147483648 to 2147483647"),
        ({"zero_point": 0, "fmt": FP16}, "fp16 has no zero point"),
        ({"zero_point": 0, "fmt": Fixed(2, 3)}, "q2.3 has no zero point"),
        ({"zero_point": 0, "fmt": Binary()}, "binary has no zero point"),
        ({"axis": 2, "scale": 1.0}, "axis is 2 for 2 dimensions: give an integer from -2 to 1"),
        ({"axis": -3}, "axis is -3 for 2 dimensions"),
        ({"axis": 0.0}, "axis is 0.0"),
        ({"axis": True}, "axis is True"),
        ({"rounding": "up"}, "rounding is 'up'"),
        ({"rounding": Rounding.STOCHASTIC}, "got no bits"),
        ({"fmt": "int8"}, "the format is 'int8'"),
        ({"fmt": None}, "the format is None"),
    ],
)
def test_refusals(arguments: dict[str, Any], part: str) -> None:
    base: dict[str, Any] = {"fmt": Int(8)}
    assert part in refused(lambda: quantize(X, **base | arguments))


def test_an_axis_of_no_length_takes_scales_of_no_length_or_refuses_them() -> None:
    found = outcome(lambda: quantize(np.zeros((0, 3), np.float32), Int(8), scale=[], axis=0))
    assert "scale" in found if isinstance(found, str) else found.dequantize().shape == (0, 3)


def test_the_tensor_keeps_nothing_of_what_it_was_given() -> None:
    scale, zero = np.array([0.5], np.float32), np.array([3], np.int32)
    found = quantize(X, Int(8), scale=scale, zero_point=zero)
    scale[0], zero[0] = 9, 9
    assert (found.scale.tolist(), found.zero_point.tolist()) == ([0.5], [3])
    with pytest.raises(AttributeError):
        found.axis = 1  # type: ignore[misc]


# Bytes


def drawn(fmt: Format, shape: tuple[int, ...], axis: int | None = None, seed: int = 0) -> QTensor:
    """Any codes of a format, with scales, and zero points where it may have them."""
    rng = np.random.default_rng(seed)
    low, high = code_range(fmt)
    codes = rng.integers(low, high, shape, code_dtype(fmt), endpoint=True)
    count = 1 if axis is None else shape[axis]
    zeros = np.zeros(count, np.int32)
    if isinstance(fmt, Int):
        bounds = max(low, -(2**31)), min(high, 2**31 - 1)
        zeros = rng.integers(*bounds, count, np.int32, endpoint=True)
    return QTensor(
        codes=codes, format=fmt, scale=rng.uniform(0.1, 2, count).astype(np.float32), zero_point=zeros, axis=axis
    )


def size_of(fmt: Format, shape: tuple[int, ...], axis: int | None = None) -> int:
    """What a tensor takes, from the words of the specification."""
    scales = 1 if axis is None else shape[axis]
    return 79 + 8 * len(shape) + 8 * scales + -(-int(np.prod(shape, dtype=np.int64)) * fmt.bits // 8)


@pytest.mark.parametrize("fmt", [*WORDS, *map(parse_format, SMALL)], ids=str)
def test_bytes_there_and_back(fmt: Format) -> None:
    for shape, axis in (((5, 7), None), ((5, 7), 0), ((5, 7), 1), ((), None), ((3, 0), 0), ((1,), 0), ((2, 3, 1), 2)):
        tensor = drawn(fmt, shape, axis)
        data = tensor.to_bytes()
        assert type(data) is bytes
        assert len(data) == size_of(fmt, shape, axis)
        assert tensor.packed_bytes == -(-tensor.codes.size * fmt.bits // 8)
        found = QTensor.from_bytes(data)
        assert_equal_tensors(found, tensor)
        assert found.to_bytes() == data


@given(st.lists(st.integers(0, 5), max_size=4), st.sampled_from(WORDS), st.data())
def test_bytes_of_any_shape(shape: list[int], fmt: Format, data: st.DataObject) -> None:
    axes = [None, *(i for i, length in enumerate(shape) if length)]
    axis = data.draw(st.sampled_from(axes))
    tensor = drawn(fmt, tuple(shape), axis)
    assert len(tensor.to_bytes()) == size_of(fmt, tuple(shape), axis)
    assert_equal_tensors(QTensor.from_bytes(tensor.to_bytes()), tensor)


@pytest.mark.parametrize("fmt", [Int(3), Fixed(2, 3), FP16, Binary()], ids=str)
def test_quantized_values_survive_a_file(fmt: Format) -> None:
    x = spread(70_000).reshape(700, 100)
    tensor = quantize(x, fmt, scale=fitted_scale(x, fmt, axis=0), axis=0)
    found = QTensor.from_bytes(tensor.to_bytes())
    np.testing.assert_array_equal(found.dequantize(), tensor.dequantize())


def test_bytes_do_not_depend_on_the_layout_in_memory() -> None:
    tensor = drawn(Int(5), (4, 6))
    turned = QTensor(
        codes=np.asfortranarray(tensor.codes), format=Int(5), scale=tensor.scale, zero_point=tensor.zero_point
    )
    assert turned.to_bytes() == tensor.to_bytes()


VICTIMS = [
    drawn(Int(5), (3, 3), 1),
    drawn(Int(1), (1,)),
    drawn(Int(8), ()),
    drawn(FP16, (2, 0)),
    drawn(Float(4, 3, Specials.NAN), (2, 3), 0),
    drawn(Binary(), (11,)),
    drawn(DynamicFixed(7, -3, 0.25), (3,)),
]


@pytest.mark.parametrize("tensor", VICTIMS, ids=lambda tensor: str(tensor.format))
def test_any_changed_byte_is_refused(tensor: QTensor) -> None:
    data = tensor.to_bytes()
    for place in range(len(data)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            damaged = bytearray(data)
            damaged[place] ^= mask
            refused(partial(QTensor.from_bytes, bytes(damaged)))


@pytest.mark.parametrize("tensor", VICTIMS, ids=lambda tensor: str(tensor.format))
def test_any_other_length_is_refused(tensor: QTensor) -> None:
    data = tensor.to_bytes()
    for length in range(len(data)):
        refused(partial(QTensor.from_bytes, data[:length]))
        refused(partial(QTensor.from_bytes, data[length + 1 :]))
    for more in (b"\0", b"\xff", data):
        refused(partial(QTensor.from_bytes, data + more))


def test_what_is_no_packed_tensor_is_said_to_be_none() -> None:
    assert "0 bytes are no packed tensor" in refused(lambda: QTensor.from_bytes(b""))
    assert "no packed tensor" in refused(lambda: QTensor.from_bytes(b"PK\3\4" + bytes(200)))
    assert "checksum is wrong" in refused(lambda: QTensor.from_bytes(drawn(Int(8), (3,)).to_bytes()[:-1]))


def forged(
    *,
    name: bytes = b"int8",
    shape: tuple[int, ...] = (2,),
    scales: tuple[float, ...] = (1.0,),
    zeros: tuple[int, ...] | None = None,
    data: bytes = b"ab",
    rank: int | None = None,
    axis: int = 255,
    count: int | None = None,
    version: int = 1,
) -> bytes:
    """A tensor whose checksum is right, whatever else is wrong."""
    zeros = (0,) * len(scales) if zeros is None else zeros
    tail = struct.pack(f"<{len(shape)}Q{len(scales)}f{len(zeros)}i", *shape, *scales, *zeros) + data
    rank = len(shape) if rank is None else rank
    fields = (b"LPQT", version, rank, axis, name, len(scales) if count is None else count)
    return HEAD.pack(*fields, zlib.crc32(HEAD.pack(*fields, 0) + tail)) + tail


def test_the_forger_knows_the_layout() -> None:
    tensor = quantize([97.0, 98.0], Int(8))
    assert tensor.to_bytes() == forged()
    assert QTensor.from_bytes(forged()).codes.tolist() == [97, 98]


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (2**40 + 1,)},
        {"shape": (2**40,)},
        {"shape": (2**63,)},
        {"shape": (2**64 - 1,) * 3},
        {"shape": (2**20, 2**20)},
        {"shape": (2**32, 2**32)},
        {"shape": (2**63, 2**63, 0), "data": b""},
        {"shape": (2**62, 2**62, 0), "data": b""},
        {"shape": (0, 2**64 - 1), "data": b""},
        {"shape": (1,) * 65, "data": b"a"},
        {"shape": (1,) * 255, "data": b"a"},
        {"rank": 255},
        {"rank": 3},
        {"rank": 0},
        {"rank": 64, "data": bytes(2000)},
        {"count": 0},
        {"count": 2},
        {"count": 2**32 - 1},
        {"count": 2, "data": bytes(10)},
        {"axis": 0, "scales": (1.0, 1.0, 1.0)},
        {"axis": 1},
        {"axis": 254},
        {"version": 0},
        {"version": 2},
        {"name": b""},
        {"name": b"int8\0x"},
        {"name": b"int0"},
        {"name": b"\xff\n\r"},
        {"name": b"q0.8"},
        {"name": b"int" + b"9" * 61},
        {"name": b"dynamic8:0:" + b"9" * 53},
        {"name": b"int16"},
        {"name": b"int4"},
        {"name": b"int7"},
        {"data": b"abc"},
        {"data": b""},
        {"scales": (float("nan"),)},
        {"scales": (float("inf"),)},
        {"scales": (0.0,)},
        {"scales": (-1.0,)},
        {"axis": 0, "scales": (1.0, -1.0)},
        {"zeros": (128,)},
        {"zeros": (-129,)},
        {"zeros": (2**31 - 1,)},
        {"name": b"uint8", "zeros": (-1,)},
        {"name": b"q2.6", "zeros": (1,)},
        {"name": b"dynamic8:0:0.0", "zeros": (1,)},
        {"name": b"e4m3fn", "zeros": (1,)},
        {"name": b"binary", "zeros": (1,), "data": b"\1"},
        {"name": b"binary", "data": b"\4"},
    ],
    ids=str,
)
def test_hostile_headers_are_refused_without_allocating(changes: dict[str, Any]) -> None:
    data = forged(**changes)
    tracemalloc.start()
    try:
        refused(lambda: QTensor.from_bytes(data))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(tail: bytes) -> None:
    refused(lambda: QTensor.from_bytes(tail))
    refused(lambda: QTensor.from_bytes(b"LPQT\1" + tail))


@settings(max_examples=400)
@given(st.sampled_from(VICTIMS), st.data())
def test_any_header_with_a_right_checksum_is_read_or_refused(tensor: QTensor, data: st.DataObject) -> None:
    """And what is read can be written and used."""
    changed = bytearray(tensor.to_bytes())
    places = st.integers(4, len(changed) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
        changed[place] = value
    changed[75:79] = bytes(4)
    changed[75:79] = struct.pack("<I", zlib.crc32(changed))
    found = outcome(lambda: QTensor.from_bytes(bytes(changed)))
    if not isinstance(found, str):
        with np.errstate(all="ignore"):  # a changed scale may be as large as float32
            assert found.dequantize().shape == found.shape
        assert_equal_tensors(QTensor.from_bytes(found.to_bytes()), found)


@pytest.mark.parametrize("fmt", [fmt for fmt in WORDS if fmt.bits <= 16], ids=str)
def test_codes_are_decoded_as_equation_12_says(fmt: Format) -> None:
    """(code - zero point) * scale * step, where float32 holds the difference."""
    tensor = drawn(fmt, (6, 5), 1)
    if isinstance(fmt, Float):
        tensor = quantize(spread(30).reshape(6, 5), fmt, scale=tensor.scale, axis=1)
    values = tensor.codes.astype(np.float64) - tensor.zero_point if isinstance(fmt, Int) else decode(tensor.codes, fmt)
    np.testing.assert_array_equal(tensor.dequantize(), values.astype(np.float32) * tensor.scale)
