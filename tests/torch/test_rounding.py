"""`lowprec.train.round_to`: the oracle's bits by the compiled pass and by torch's operators, and its gradients."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import lowprec
from lowprec.errors import UsageError
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
    within_float32,
)
from lowprec.rounding import Rounding
from lowprec.train import Draw, fused, round_to
from lowprec.train.rounding import unfused

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

Reals = NDArray[Any]
Draws = NDArray[np.uint32]

FNUZ = Float(4, 3, Specials.NEGATIVE_ZERO)

FUSED: list[Format] = [
    Fixed(2, 14),
    Fixed(8, 8),
    Fixed(1, 0),
    Fixed(1, 23),
    Fixed(2, 20),
    Fixed(24, 0),
    Int(8),
    Int(8, signed=False),
    Int(24),
    Int(24, signed=False),
    Int(1),
    Int(1, signed=False),
    DynamicFixed(10, -20),
    DynamicFixed(10, 5),
    DynamicFixed(24, 100),
    DynamicFixed(24, -100),
    Binary(),
    FP16,
    BF16,
    TF32,
    Float(4, 3),
    Float(5, 2),
    Float(4, 3, Specials.NAN),
    FNUZ,
    Float(2, 1, Specials.NONE),
    Float(3, 2, Specials.NONE),
    Float(7, 12),
    Float(7, 22, Specials.NEGATIVE_ZERO),
    Float(2, 22),
    Float(8, 1),
    Float(8, 22),
]
BEYOND: list[Format] = [
    Fixed(1, 24),
    Fixed(1, 31),
    Fixed(2, 40),
    Int(25),
    Int(32),
    Int(64),
    Int(64, signed=False),
    DynamicFixed(20, 200),
    DynamicFixed(20, -200),
    DynamicFixed(24, 101),
    DynamicFixed(24, -101),
    FP32,
    Float(7, 23),
    Float(8, 7, Specials.NAN),
    Float(8, 3, Specials.NEGATIVE_ZERO),
    Float(8, 3, Specials.NONE),
    Float(5, 30),
    Float(9, 4),
    Float(11, 52),
]
EVERY = FUSED + BEYOND
BITS_USED = (1, 2, 8, 16, 24, 32)
RULES = [
    *((rounding, 32) for rounding in Rounding if rounding is not Rounding.STOCHASTIC),
    *((Rounding.STOCHASTIC, bits_used) for bits_used in BITS_USED),
]
DRAW = Draw(seed=9, tensor_name="t", step=2, start=5)

every_format = pytest.mark.parametrize("fmt", EVERY, ids=str)


def step_of(fmt: Format) -> float:
    return 1.0 if isinstance(fmt, Float | Binary) else 2.0**fmt.exponent


def around(values: Reals) -> Reals:
    """Values and their neighbours, in their own type."""
    result: Reals = np.concatenate([values, np.nextafter(values, np.inf, dtype=values.dtype), -values])
    return result


def halves(fmt: Format, rng: np.random.Generator, count: int) -> Reals:
    """Multiples of half a step, at every scale that the format has."""
    if isinstance(fmt, Binary):
        return np.arange(-8, 9) / 4.0
    if isinstance(fmt, Float):
        exponents = rng.integers(fmt.lowest_exponent - 3, int(np.log2(fmt.highest)) + 2, count)
        digits = rng.integers(0, 1 << (fmt.mantissa + 2), count).astype(np.float64)
        result: Reals = np.ldexp(digits, np.maximum(exponents, fmt.lowest_exponent) - fmt.mantissa - 1)
        return result
    low, high = fmt.codes
    codes = rng.integers(0, min(1 << 24, high - low + 4), count)
    places = np.concatenate([low - 1.0 + codes / 2, high + 1.0 - codes / 2, codes / 2, [0.5, -0.5]])
    return places * 2.0**fmt.exponent


def probes(fmt: Format, dtype: type[np.floating]) -> Reals:
    """Where a rounding may go wrong: bounds, ties, subnormals, zeros, infinities, NaN, and everything between."""
    rng = np.random.default_rng(1)
    low, high = limits(fmt)
    n = 700
    wide = 2.0 ** rng.uniform(-145, 127, n) * rng.choice([-1, 1], n)
    with np.errstate(over="ignore", under="ignore"):
        parts = [rng.normal(size=n) * high * 0.6, rng.normal(size=n) * step_of(fmt) * 3, wide]
        if isinstance(fmt, Float):
            near = rng.integers(fmt.lowest_exponent - fmt.mantissa - 3, fmt.lowest_exponent + 3, n)
            parts.append(np.ldexp(rng.normal(size=n), near))
        some = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1e-40, 5e-324, 3e38, 1e308, 0.5, 1, 1.5, 2.5]
        ends = [high, low, high * 1.001, low * 1.001, high + step_of(fmt) / 2, low - step_of(fmt) / 2]
        x = np.concatenate([*parts, around(np.array([*some, *ends]).astype(dtype)), around(halves(fmt, rng, 300))])
        return np.concatenate([x.astype(dtype), around(halves(fmt, rng, 300).astype(dtype))])


def oracle(x: Reals, fmt: Format, rounding: Rounding, bits: Draws, bits_used: int) -> Reals:
    """The NumPy oracle, with NaN kept, which it refuses where the format has none."""
    nan = np.isnan(x)
    result = lowprec.round_to(np.where(nan, x.dtype.type(0), x), fmt, rounding, bits=bits, bits_used=bits_used)
    result[nan] = np.nan
    return result


def drawn(count: int) -> Draws:
    return lowprec.random_bits(DRAW.seed, DRAW.tensor_name, count, step=DRAW.step, start=DRAW.start)


def assert_bits(found: torch.Tensor, expected: Reals) -> None:
    """Equal to the bit, but for what NaN says."""
    y = found.detach().numpy()
    assert y.dtype == expected.dtype
    assert y.shape == expected.shape
    y, expected = np.ascontiguousarray(y).reshape(-1), expected.reshape(-1)
    view = f"u{y.itemsize}"
    same = (y.view(view) == expected.view(view)) | (np.isnan(y) & np.isnan(expected))
    wrong = np.flatnonzero(~same)
    assert not wrong.size, f"{wrong.size} differ, the first at {wrong[0]}: {y[wrong[0]]!r}, not {expected[wrong[0]]!r}"


def by_torch(
    x: torch.Tensor, fmt: Format, rounding: Rounding, *, bits: torch.Tensor | Draw, bits_used: int = 32
) -> torch.Tensor:
    """The readable twin, called as `round_to` is."""
    return unfused(x, fmt, rounding, bits, bits_used)


def backward(y: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
    y.backward(gradient)  # type: ignore[no-untyped-call]


def rules(fmt: Format) -> Iterator[tuple[Rounding, int]]:
    for rounding, bits_used in RULES:
        if not (isinstance(fmt, Binary) and rounding is Rounding.TOWARD_ZERO):
            yield rounding, bits_used


def test_which_formats_are_fused() -> None:
    """So that the tests below are of the pass that they speak of."""
    if fused._function() is None:
        pytest.skip("there is no C compiler")
    for fmt in FUSED:
        assert fused.rule_of(fmt, Rounding.DOWN, 32) is not None, fmt
    for fmt in BEYOND:
        assert fused.rule_of(fmt, Rounding.DOWN, 32) is None, fmt


@every_format
def test_equals_numpy(fmt: Format) -> None:
    for dtype in (np.float32, np.float64):
        x = probes(fmt, dtype)
        tensor, draws = torch.tensor(x), drawn(x.size)
        for rounding, bits_used in rules(fmt):
            expected = oracle(x, fmt, rounding, draws, bits_used)
            assert_bits(round_to(tensor, fmt, rounding, bits=DRAW, bits_used=bits_used), expected)
            if dtype is np.float32:
                assert_bits(unfused(tensor, fmt, rounding, DRAW, bits_used), expected)
        assert_bits(tensor, x)


@every_format
def test_bits_of_every_kind(fmt: Format) -> None:
    x = probes(fmt, np.float32)
    x = x[: x.size // 6 * 6]
    draws = drawn(x.size)
    tensor = torch.tensor(x)
    for bits_used in (8, 32):
        expected = oracle(x, fmt, Rounding.STOCHASTIC, draws, bits_used)
        for bits in (torch.tensor(draws), torch.tensor(draws.astype(np.int64))):
            found = round_to(tensor, fmt, Rounding.STOCHASTIC, bits=bits, bits_used=bits_used)
            assert_bits(found, expected)
            for shape in ((3, -1), (2, 3, -1)):
                flat, shaped = (
                    round_to(tensor.reshape(shape), fmt, Rounding.STOCHASTIC, bits=given, bits_used=bits_used)
                    for given in (bits, bits.reshape(shape))
                )
                assert_bits(flat, expected.reshape(shape))
                assert_bits(shaped, expected.reshape(shape))


@pytest.mark.parametrize("bits_used", BITS_USED)
@pytest.mark.parametrize("fmt", [Int(8), Fixed(2, 14), FP16, BF16, FNUZ, Binary()], ids=str)
def test_draws_next_to_the_share(fmt: Format, bits_used: int) -> None:
    """Equation 6 at its edge: the draw with which a value just goes up, the ones before and after, and both ends."""
    rng = np.random.default_rng(bits_used)
    parts = 1 << bits_used
    exact, ties = rng.integers(0, parts, 300) / parts, (rng.integers(0, parts, 300) + 0.5) / parts
    rest = np.concatenate([rng.random(300), exact, ties])
    if isinstance(fmt, Binary):
        x = 2 * rest - 1
    elif isinstance(fmt, Float):
        x = (1 + (rng.integers(0, 1 << fmt.mantissa, rest.size) + rest) / (1 << fmt.mantissa)) * 2
    else:
        x = (rng.integers(0, 20, rest.size) + rest) * 2.0**fmt.exponent
    x = np.concatenate([x, -x]).astype(np.float32)
    rest = np.concatenate([rest, 1 - rest])
    for around_it in (-2, -1, 0, 1, 2, -parts, parts):
        tops = np.clip(parts - np.rint(rest * parts) + around_it, 0, parts - 1).astype(np.uint64)
        below = rng.integers(0, 1 << (32 - bits_used), x.size, np.uint64)
        draws = ((tops << np.uint64(32 - bits_used)) | below).astype(np.uint32)
        expected = oracle(x, fmt, Rounding.STOCHASTIC, draws, bits_used)
        for values in (x, x.astype(np.float64)):
            found = round_to(
                torch.tensor(values), fmt, Rounding.STOCHASTIC, bits=torch.tensor(draws), bits_used=bits_used
            )
            assert_bits(found, expected.astype(values.dtype))


@every_format
def test_nan_stays(fmt: Format) -> None:
    patterns = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32)
    for x in (patterns.view(np.float32), np.array([np.nan, 0.25, -np.nan])):
        for rounding, bits_used in rules(fmt):
            for rule in (round_to, by_torch):
                found = rule(torch.tensor(x), fmt, rounding, bits=DRAW, bits_used=bits_used)
                assert torch.isnan(found).tolist() == np.isnan(x).tolist()


@pytest.mark.parametrize("start", [0, 1, 2, 3, 2**34 - 30])
@pytest.mark.parametrize("fmt", [Fixed(2, 6), Float(4, 3), Binary()], ids=str)
def test_every_length_around_the_blocks(fmt: Format, start: int) -> None:
    """The pass goes by 64 elements, which begin with a block of the draw."""
    x = np.random.default_rng(2).normal(size=200).astype(np.float32)
    draws = lowprec.random_bits(4, "w", 200, start=start)
    bits = torch.tensor(draws)
    expected = lowprec.round_to(x, fmt, Rounding.STOCHASTIC, bits=draws)
    nearest = lowprec.round_to(x, fmt)
    for count in [*range(10), 59, 60, *range(61, 70), *range(123, 134), 191, 192, 193, 197, 200]:
        part = torch.tensor(x[:count])
        draw = Draw(seed=4, tensor_name="w", start=start)
        assert_bits(round_to(part, fmt, Rounding.STOCHASTIC, bits=draw), expected[:count])
        assert_bits(round_to(part, fmt, Rounding.STOCHASTIC, bits=bits[:count]), expected[:count])
        assert_bits(round_to(part, fmt), nearest[:count])


@pytest.mark.parametrize("rule", [round_to, by_torch], ids=["round_to", "unfused"])
@pytest.mark.parametrize("start", [0, 3, 4 * 2**32 - 301])
def test_parts_are_parts_of_the_whole(rule: Callable[..., torch.Tensor], start: int) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    whole = rule(x, Fixed(2, 6), Rounding.STOCHASTIC, bits=Draw(seed=1, tensor_name="w", start=start))
    for cuts in ([0, 500, 1000], [0, 1, 2, 3, 4, 67, 131, 300, 301, 302, 999, 1000], [0, 0, 333, 666, 1000, 1000]):
        parts = [
            rule(x[a:b], Fixed(2, 6), Rounding.STOCHASTIC, bits=Draw(seed=1, tensor_name="w", start=start + a))
            for a, b in pairwise(cuts)
        ]
        assert torch.equal(torch.cat(parts), whole)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda x: x.transpose(0, 1),
    "every second": lambda x: x[:, ::2],
    "from within": lambda x: x[1:, 3:-2],
    "permuted": lambda x: x.reshape(4, 5, 6, 15).permute(3, 1, 0, 2),
    "channels last": lambda x: x.reshape(4, 5, 6, 15).to(memory_format=torch.channels_last),
    "expanded": lambda x: x[:, :1].expand(-1, 7),
    "flipped": lambda x: x.flip(0).t(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_position_is_that_in_the_logical_tensor(layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout](torch.randn(20, 90, dtype=dtype, generator=torch.Generator().manual_seed(2)))
    draws = drawn(x.numel())
    expected = lowprec.round_to(x.contiguous().numpy(), Fixed(2, 6), Rounding.STOCHASTIC, bits=draws)
    bits = torch.tensor(draws).reshape(x.shape)
    apart = torch.empty(*reversed(x.shape), dtype=torch.uint32).permute(*reversed(range(x.ndim))).copy_(bits)
    for given in (DRAW, bits, apart, apart.to(torch.int64), bits.reshape(-1)):
        assert_bits(round_to(x, Fixed(2, 6), Rounding.STOCHASTIC, bits=given), expected)
        assert_bits(unfused(x, Fixed(2, 6), Rounding.STOCHASTIC, given, 32), expected)
    wide = torch.tensor(np.repeat(draws, 2))
    assert_bits(round_to(x, Fixed(2, 6), Rounding.STOCHASTIC, bits=wide[::2]), expected)


@every_format
def test_scalars_and_nothing(fmt: Format) -> None:
    for shape in ((), (0,), (3, 0), (1,), (1, 1, 1)):
        for dtype in (torch.float32, torch.float64):
            x = torch.full(shape, 0.3, dtype=dtype)
            draws = drawn(x.numel()).reshape(shape)
            expected = lowprec.round_to(x.numpy(), fmt, Rounding.STOCHASTIC, bits=draws)
            for bits in (DRAW, torch.tensor(draws), torch.tensor(draws.reshape(-1)), torch.tensor(draws).long()):
                found = round_to(x, fmt, Rounding.STOCHASTIC, bits=bits)
                assert found.shape == x.shape
                assert_bits(found, np.asarray(expected))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads, and sets them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_any_number_of_threads(number: int, threads: Callable[[int], None]) -> None:
    x = np.random.default_rng(5).normal(size=500_003).astype(np.float32)
    draws = drawn(x.size)
    expected = lowprec.round_to(x, Fixed(2, 14), Rounding.STOCHASTIC, bits=draws)
    threads(number)
    assert_bits(round_to(torch.tensor(x), Fixed(2, 14), Rounding.STOCHASTIC, bits=DRAW), expected)
    assert_bits(round_to(torch.tensor(x), Fixed(2, 14), Rounding.STOCHASTIC, bits=torch.tensor(draws)), expected)


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_small_parts(number: int, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few elements, which end within the pass's own 64."""
    monkeypatch.setattr(fused, "PART", 4)
    x = np.random.default_rng(6).normal(size=1009).astype(np.float32)
    threads(number)
    for count in (1, 4, 5, 27, 28, 29, 448, 1009):
        draws = drawn(count)
        for fmt in (Fixed(2, 6), FP16, Binary()):
            expected = lowprec.round_to(x[:count], fmt, Rounding.STOCHASTIC, bits=draws)
            for bits in (DRAW, torch.tensor(draws)):
                assert_bits(round_to(torch.tensor(x[:count]), fmt, Rounding.STOCHASTIC, bits=bits), expected)
            assert_bits(round_to(torch.tensor(x[:count]), fmt), lowprec.round_to(x[:count], fmt))


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_default_type_of_torch_does_not_matter(default: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        for fmt in (Fixed(2, 14), DynamicFixed(20, -200), FP16, BF16, Float(11, 52), Binary()):
            x = probes(fmt, np.float32)
            expected = oracle(x, fmt, Rounding.STOCHASTIC, drawn(x.size), 32)
            assert_bits(round_to(torch.tensor(x), fmt, Rounding.STOCHASTIC, bits=DRAW), expected)
            assert_bits(unfused(torch.tensor(x), fmt, Rounding.STOCHASTIC, DRAW, 32), expected)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rounding", [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC])
def test_other_roundings_ignore_bits(rounding: Rounding, dtype: torch.dtype) -> None:
    """As the oracle's do."""
    x = torch.linspace(-3, 3, 7, dtype=dtype)
    expected = lowprec.round_to(x.numpy(), Int(8), rounding)
    ignored: list[Any] = [DRAW, torch.zeros(3, dtype=torch.int64), torch.zeros(7), "bits", np.zeros(7, np.uint32)]
    for bits in ignored:
        assert_bits(round_to(x, Int(8), rounding, bits=bits), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bits_used", [0, -1, 33, 5000, None])
def test_other_roundings_ignore_bits_used(bits_used: Any, dtype: torch.dtype) -> None:
    """As the oracle's do."""
    x = torch.linspace(-3, 3, 7, dtype=dtype)
    assert_bits(round_to(x, Int(8), bits_used=bits_used), lowprec.round_to(x.numpy(), Int(8)))


# Gradients.


def inside(x: torch.Tensor, fmt: Format) -> Reals:
    """Where a value lies within its format's bounds: exact, in float64."""
    low, high = limits(fmt)
    values = x.detach().numpy().astype(np.float64)
    result: Reals = (values >= low) & (values <= high)
    return result


def places(fmt: Format, dtype: type[np.floating]) -> torch.Tensor:
    """Within, at, next to and beyond the bounds."""
    low, high = limits(fmt)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        ends = np.array([low, high, 0.0, -0.0, np.inf, -np.inf, np.nan, 0.3 * low, 0.3 * high, 2.0 * high, 3.0 * low])
        x = ends.astype(dtype)
        x = np.concatenate([x, np.nextafter(x, dtype(np.inf)), np.nextafter(x, dtype(-np.inf)), -x])
    return torch.tensor(x)


@every_format
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_passes_within_the_bounds_alone(fmt: Format, dtype: type[np.floating]) -> None:
    x = places(fmt, dtype)
    with_gradient = x.clone().requires_grad_()
    upstream = torch.linspace(-2, 3, x.numel(), dtype=torch.float64)
    for rounding, bits_used in rules(fmt):
        with_gradient.grad = None
        y = round_to(with_gradient, fmt, rounding, bits=DRAW, bits_used=bits_used)
        assert y.requires_grad
        backward(y, upstream.to(y.dtype))
        assert with_gradient.grad is not None
        assert with_gradient.grad.dtype == x.dtype
        expected = np.where(inside(x, fmt), upstream.numpy().astype(dtype), 0)
        np.testing.assert_array_equal(with_gradient.grad.numpy(), expected)


def test_the_bounds_of_a_long_word_are_not_those_of_float32() -> None:
    """2^31 - 1 is no float32; the number that it would round to saturates."""
    for fmt, beyond in ((Int(32), 2.0**31), (Fixed(1, 31), 1.0), (Int(64), 2.0**63), (Float(5, 30), 2.0**16)):
        x = torch.tensor([beyond, np.nextafter(np.float32(beyond), np.float32(0))], requires_grad=True)
        backward(round_to(x, fmt).sum())
        assert x.grad is not None
        assert x.grad.tolist() == [0.0, 1.0], fmt


def test_nothing_passes_outside_whatever_comes() -> None:
    """The gradient is 0 there, and not 0 times what comes."""
    x = torch.tensor([-9.0, 0.5, 9.0, 9.0], requires_grad=True)
    y = round_to(x, Fixed(2, 6))
    backward(y, torch.tensor([torch.inf, torch.inf, torch.nan, -torch.inf]))
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, torch.inf, 0.0, 0.0]


class Rounded(torch.nn.Module):
    """A linear layer whose weight and result are rounded."""

    def __init__(self, fmt: Format, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        scale = min(limits(fmt)[1], 1e3) * 1.5
        self.weight = torch.nn.Parameter(torch.randn(5, 7, generator=generator, dtype=dtype) * scale)
        self.fmt = fmt

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        draw = Draw(seed=1, tensor_name="weight")
        weight = round_to(self.weight, self.fmt, Rounding.STOCHASTIC, bits=draw)
        return torch.nn.functional.linear(x.to(weight.dtype), weight)


@every_format
def test_a_module_learns(fmt: Format) -> None:
    module = Rounded(fmt, torch.float32)
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float32).requires_grad_()
    output = module(x)
    towards = torch.randn(4, 5, generator=torch.Generator().manual_seed(5))
    backward(output, towards.to(output.dtype))
    weight = round_to(module.weight.detach(), fmt, Rounding.STOCHASTIC, bits=Draw(seed=1, tensor_name="weight"))
    passed = (towards.to(weight.dtype).t() @ x.detach().to(weight.dtype)).to(torch.float32).numpy()
    assert x.grad is not None
    assert module.weight.grad is not None
    assert module.weight.grad.dtype == torch.float32
    np.testing.assert_array_equal(module.weight.grad.numpy(), np.where(inside(module.weight, fmt), passed, 0))
    np.testing.assert_array_equal(x.grad.numpy(), (towards.to(weight.dtype) @ weight).to(torch.float32).numpy())


def test_gradient_of_a_view_and_of_two_uses() -> None:
    x = torch.linspace(-3, 3, 24).reshape(4, 6).requires_grad_()
    y = round_to(x.t(), Fixed(2, 6)) * 3 + round_to(x.t(), Int(2))
    backward(y.sum())
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), 3.0 * inside(x, Fixed(2, 6)) + inside(x, Int(2)))


def test_gradient_of_the_gradient() -> None:
    x = torch.tensor([-3.0, 0.5, 1.5], requires_grad=True)
    (first,) = torch.autograd.grad((round_to(x, Fixed(2, 6)) ** 2).sum(), x, create_graph=True)
    assert first.tolist() == [0.0, 1.0, 3.0]
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [0.0, 2.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_gradients(dtype: torch.dtype) -> None:
    x = torch.linspace(-3, 3, 9, dtype=dtype, requires_grad=True)
    expected = lowprec.round_to(x.detach().numpy(), Fixed(2, 6))
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            found = round_to(x, Fixed(2, 6))
        assert not found.requires_grad
        assert_bits(found, expected)
    assert not round_to(x.detach(), Fixed(2, 6)).requires_grad
    assert x.grad is None


def test_bits_get_no_gradient() -> None:
    x = torch.linspace(-3, 3, 9, requires_grad=True)
    for bits in (torch.zeros(9, dtype=torch.int64), torch.zeros(9, dtype=torch.uint32)):
        backward(round_to(x, Fixed(2, 6), Rounding.STOCHASTIC, bits=bits).sum())
        assert bits.grad is None
        assert not bits.requires_grad
        assert not bits.to(torch.int64).any()


@every_format
def test_the_result_is_a_tensor_of_its_own(fmt: Format) -> None:
    for dtype in (torch.float32, torch.float64):
        for x in (torch.ones(6, dtype=dtype), torch.ones(2, 3, dtype=dtype).t(), torch.ones(6, dtype=dtype)[::2]):
            before = x.clone()
            y = round_to(x, fmt)
            assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
            y.fill_(7.0)
            assert torch.equal(x, before)
        x = torch.ones(6, dtype=dtype, requires_grad=True)
        y = round_to(x, fmt)
        with torch.no_grad():
            y += 1
        assert x.tolist() == [1.0] * 6


@every_format
def test_the_type_of_the_result(fmt: Format) -> None:
    wide = isinstance(fmt, Float) and not within_float32(fmt)
    assert round_to(torch.ones(2), fmt).dtype == (torch.float64 if wide else torch.float32)
    assert round_to(torch.ones(2, dtype=torch.float64), fmt).dtype == torch.float64


# Refusals.


def refused(*given: Any, **named: Any) -> str:
    """The message of a `UsageError`, which is one line."""
    with pytest.raises(UsageError) as caught:
        round_to(*given, **named)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 200
    return message


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("x", "found"),
    [
        ([1.0], "[1.0]"),
        (np.ones(3, np.float32), "array"),
        (None, "None"),
        (torch.ones(3, dtype=torch.int32), "torch.int32"),
        (torch.ones(3, dtype=torch.float16), "torch.float16"),
        (torch.ones(3, dtype=torch.bfloat16), "torch.bfloat16"),
        (torch.ones(3, dtype=torch.bool), "torch.bool"),
        (torch.ones(3, dtype=torch.complex64), "torch.complex64"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_values_refused(x: Any, found: str) -> None:
    message = refused(x, Int(8))
    assert found in message
    assert "give a torch tensor of float32 or float64" in message


@pytest.mark.parametrize("fmt", ["int8", None, Int, 8, torch.float16], ids=str)
def test_formats_refused(fmt: Any) -> None:
    assert "the format is" in refused(X, fmt)


@pytest.mark.parametrize("rounding", ["stochastic", None, 0, Rounding], ids=str)
def test_roundings_refused(rounding: Any) -> None:
    assert "give a lowprec.Rounding" in refused(X, Int(8), rounding)


@pytest.mark.parametrize(
    "bits",
    [
        None,
        7,
        np.zeros((2, 3), np.uint32),
        torch.zeros(2, 3),
        torch.zeros(2, 3, dtype=torch.int32),
        torch.zeros(2, 3, dtype=torch.uint8),
        torch.zeros(2, 3, dtype=torch.uint64),
        torch.zeros(2, 3, dtype=torch.bool),
        torch.zeros(200, 300),
    ],
    ids=lambda bits: str(getattr(bits, "dtype", bits)),
)
def test_kinds_of_bits_refused(bits: Any) -> None:
    message = refused(X, Int(8), Rounding.STOCHASTIC, bits=bits)
    assert "for bits: give a lowprec.train.Draw, or a tensor of uint32 or int64" in message


@pytest.mark.parametrize("shape", [(), (1,), (5,), (7,), (3, 2), (1, 6), (6, 1), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint32, torch.int64], ids=str)
def test_shapes_of_bits_refused(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    message = refused(X, Int(8), Rounding.STOCHASTIC, bits=torch.zeros(shape, dtype=dtype))
    assert f"bits are of shape {shape}, the values of (2, 3)" in message


@pytest.mark.parametrize("bits_used", [0, 33, -1, 8.0, True, None, "8"], ids=repr)
def test_bits_used_refused(bits_used: Any) -> None:
    for x in (X, X.double()):
        message = refused(x, Int(8), Rounding.STOCHASTIC, bits=DRAW, bits_used=bits_used)
        assert message == f"bits_used is {bits_used!r}: give an integer from 1 to 32"


def test_binary_toward_zero_refused() -> None:
    for x in (X, X.double()):
        assert "binary has nothing between" in refused(x, Binary(), Rounding.TOWARD_ZERO)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_draw_that_ends_before_the_values_is_refused(dtype: torch.dtype) -> None:
    draw = Draw(seed=0, tensor_name="w", start=2**64 - 2)
    assert "the last may be" in refused(X.to(dtype), Int(8), Rounding.STOCHASTIC, bits=draw)


@pytest.mark.parametrize(
    ("bits", "part"),
    [
        (torch.tensor([-1, 0, 1]), "bits go from -1 to 1"),
        (torch.tensor([0, 2**32, 1]), "give words from 0 to 4294967295"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), "bits are on meta, the values on cpu"),
    ],
)
def test_words_that_are_none_are_refused(bits: torch.Tensor, part: str) -> None:
    with pytest.raises(UsageError, match=part) as caught:
        round_to(torch.zeros(3), Fixed(2, 6), Rounding.STOCHASTIC, bits=bits)
    assert "\n" not in str(caught.value)
