"""`lowprec.round_to` for tensors that learn: the same values forward, a straight-through gradient backward.

    y = round(x)        dL/dx = dL/dy where low <= x <= high, else 0                     (equations 13 and 14)

The gradient passes as if nothing were rounded, and stops where x saturates (Bengio, Leonard and Courville 2013; the
bounds as in BinaryNet, Hubara et al. 2016). On the CPU a float32 tensor is rounded by one compiled pass over memory;
everything else, and everything where there is no C compiler, by torch in float64, with the same bits. NaN stays NaN:
training should see it, and looking for it would stop a GPU.
"""

from typing import Any, assert_never

import numpy as np
import torch

from lowprec.errors import UsageError, shown
from lowprec.formats import Binary, DynamicFixed, Fixed, Float, Format, Grid, Int, limits, within_float32
from lowprec.philox import require_range
from lowprec.rounding import BEYOND, DRAWN, Rounding, require_rounding
from lowprec.train import fused
from lowprec.train.philox import Draw, random_bits


def round_to(
    x: torch.Tensor,
    fmt: Format,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    *,
    bits: torch.Tensor | Draw | None = None,
    bits_used: int = DRAWN,
) -> torch.Tensor:
    """The values of `x`, float32 or float64, in `fmt`, differentiable.

    Stochastic rounding takes `bits`: a `Draw`, or a word for each element (uint32, or int64 from 0 to 2^32 - 1).
    """
    _require(x, fmt, rounding, bits, bits_used)
    if rounding is not Rounding.STOCHASTIC:
        bits, bits_used = None, DRAWN  # ignored, as NumPy's `round_to` does
    return _StraightThrough.apply(x, fmt, rounding, bits, bits_used)  # type: ignore[no-any-return, no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, fmt: Format, rounding: Rounding, bits: torch.Tensor | Draw | None, bits_used: int
    ) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.limits = limits(fmt)
        return forward(x, fmt, rounding, bits, bits_used)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        low, high = ctx.limits
        inside = (x.double() >= low) & (x.double() <= high)  # a float32 bound may be beyond the format's
        return torch.where(inside, gradients[0], 0.0), None, None, None, None


def forward(
    x: torch.Tensor, fmt: Format, rounding: Rounding, bits: torch.Tensor | Draw | None, bits_used: int
) -> torch.Tensor:
    """`round_to` without its checks and its gradient."""
    rule = fused.rule_of(fmt, rounding, bits_used)
    if x.dtype == torch.float32 and x.device.type == "cpu" and rule is not None:
        result = fused.run(x, rule, bits)
        if result is not None:
            return result
    return unfused(x, fmt, rounding, bits, bits_used)


def unfused(
    x: torch.Tensor, fmt: Format, rounding: Rounding, bits: torch.Tensor | Draw | None, bits_used: int
) -> torch.Tensor:
    """The same by torch's own operators, in float64: the readable twin."""
    if isinstance(fmt, Float) and not within_float32(fmt):
        x = x.double()
    if isinstance(bits, Draw):
        bits = random_bits(bits, x.numel(), device=x.device)
    words = None if bits is None else bits.to(torch.int64).reshape(x.shape) >> (DRAWN - bits_used)
    values = torch.nan_to_num(x.double(), nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    match fmt:
        case Fixed() | DynamicFixed() | Int():
            result = _on_grid(values, fmt, limits(fmt, _numpy_type(x)), rounding, words, bits_used)
        case Float():
            result = _floating(values, fmt, rounding, words, bits_used)
        case Binary():
            result = _binary(values, rounding, words, bits_used)
        case _:
            assert_never(fmt)
    return torch.where(torch.isnan(x), x, result.to(x.dtype))


def _on_grid(
    x: torch.Tensor,
    fmt: Grid,
    bounds: tuple[float, float],
    rounding: Rounding,
    words: torch.Tensor | None,
    bits_used: int,
) -> torch.Tensor:
    steps = _whole(_scaled(x, torch.tensor(-fmt.exponent)), rounding, words, bits_used)
    return torch.ldexp(steps, torch.tensor(fmt.exponent)).clamp(*bounds) + 0.0


def _floating(
    x: torch.Tensor, fmt: Float, rounding: Rounding, words: torch.Tensor | None, bits_used: int
) -> torch.Tensor:
    values = torch.where(torch.isinf(x), 0.0, x)
    exponents = torch.frexp(values).exponent
    steps = (exponents - 1).clamp(min=fmt.lowest_exponent) - fmt.mantissa
    result = torch.ldexp(_whole(_scaled(values, -steps), rounding, words, bits_used), steps)
    infinity = torch.inf if fmt.has_infinity else fmt.highest
    match rounding:
        case Rounding.TOWARD_ZERO:
            stays = torch.ones_like(x, dtype=torch.bool)
        case Rounding.DOWN:
            stays = x > 0
        case Rounding.UP:
            stays = x < 0
        case Rounding.NEAREST_EVEN | Rounding.NEAREST_AWAY | Rounding.STOCHASTIC:
            stays = torch.zeros_like(x, dtype=torch.bool)
        case _:
            assert_never(rounding)
    over = torch.where(stays, torch.full_like(x, fmt.highest), torch.full_like(x, infinity))
    result = torch.where(result.abs() > fmt.highest, torch.copysign(over, x), result)
    result = torch.where(torch.isinf(x), torch.copysign(torch.full_like(x, infinity), x), result)
    return result if fmt.has_negative_zero else torch.where(result == 0, 0.0, result)


def _binary(x: torch.Tensor, rounding: Rounding, words: torch.Tensor | None, bits_used: int) -> torch.Tensor:
    match rounding:
        case Rounding.DOWN:
            high = x >= 1
        case Rounding.UP:
            high = x > -1
        case Rounding.STOCHASTIC:
            assert words is not None
            half = 1 << (bits_used - 1)
            inside = x.clamp(-1, 1)
            if bits_used == 1:  # half of 2^k is odd, so that ties would go the other way
                share = (inside > -0.5).long() + (inside >= 0.5).long()
            else:
                share = torch.round(inside * half).long() + half
            high = share + words >= 1 << bits_used
        case _:
            high = x >= 0
    return torch.where(high, 1.0, -1.0).to(x.dtype)


def _whole(steps: torch.Tensor, rounding: Rounding, words: torch.Tensor | None, bits_used: int) -> torch.Tensor:
    """Integers next to `steps`; the sign of zero is kept."""
    magnitude = steps.abs().clamp(max=BEYOND)
    below = torch.floor(magnitude)
    rest = magnitude - below
    negative = torch.signbit(steps)
    match rounding:
        case Rounding.NEAREST_EVEN:
            grows = (rest > 0.5) | ((rest == 0.5) & (torch.fmod(below, 2) == 1))
        case Rounding.NEAREST_AWAY:
            grows = rest >= 0.5
        case Rounding.TOWARD_ZERO:
            grows = torch.zeros_like(negative)
        case Rounding.DOWN:
            grows = negative & (rest > 0)
        case Rounding.UP:
            grows = ~negative & (rest > 0)
        case Rounding.STOCHASTIC:
            assert words is not None
            share = torch.round(torch.ldexp(rest, torch.tensor(bits_used))).long()
            highest = (1 << bits_used) - 1
            grows = torch.where(negative, words, highest - words) < share
        case _:
            assert_never(rounding)
    return torch.copysign(below + grows, steps)


def _scaled(x: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    """x * 2^exponents without underflow: what would underflow stays tiny and keeps its sign."""
    fractions, own = torch.frexp(torch.nan_to_num(x, posinf=2.0**1000, neginf=-(2.0**1000)))
    return torch.ldexp(fractions, (own + exponents.to(x.device)).clamp(-1000, 1000))


def _numpy_type(x: torch.Tensor) -> type[np.floating]:
    return np.float32 if x.dtype == torch.float32 else np.float64


def _require(x: object, fmt: object, rounding: object, bits: object, bits_used: object) -> None:
    if isinstance(x, torch.Tensor) and x.layout != torch.strided:
        raise UsageError(f"the values are of layout {x.layout}: give a dense tensor")
    if not isinstance(x, torch.Tensor) or x.dtype not in (torch.float32, torch.float64):
        kind = f"a tensor of {x.dtype}" if isinstance(x, torch.Tensor) else shown(x)
        raise UsageError(f"the values are {kind}: give a torch tensor of float32 or float64")
    require_rounding(fmt, rounding)
    if rounding is Rounding.STOCHASTIC:
        _require_bits(x, bits, bits_used)


def _require_bits(x: torch.Tensor, bits: object, bits_used: object) -> None:
    if type(bits_used) is not int or not 1 <= bits_used <= DRAWN:
        raise UsageError(f"bits_used is {shown(bits_used)}: give an integer from 1 to {DRAWN}")
    if isinstance(bits, Draw):
        require_range(count=x.numel(), step=bits.step, start=bits.start)
        return
    if not isinstance(bits, torch.Tensor) or bits.dtype not in (torch.uint32, torch.int64):
        raise UsageError(
            f"stochastic rounding got {shown(bits)} for bits: give a lowprec.train.Draw, or a tensor of uint32 or int64"
        )
    if bits.device != x.device:
        raise UsageError(f"bits are on {bits.device}, the values on {x.device}: move them")
    if bits.dtype == torch.int64 and bits.device.type == "cpu" and bits.numel():
        low, high = (int(bound) for bound in torch.aminmax(bits))
        if low < 0 or high >= 1 << 32:
            raise UsageError(f"bits go from {low} to {high}: give words from 0 to {(1 << 32) - 1}")
    if bits.shape != x.shape and (bits.ndim != 1 or bits.numel() != x.numel()):
        raise UsageError(f"bits are of shape {tuple(bits.shape)}, the values of {tuple(x.shape)}: give one for each")
