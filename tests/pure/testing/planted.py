"""Quantizers with a bug each, and right ones of many kinds, for the checks to tell apart.

Written out, most of them, with none of lowprec's rounding in them: in steps, with floor and a comparison, as one finds
them in other people's code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from lowprec.formats import BF16, FP16, Binary, DynamicFixed, Fixed, Float, Format, Int, Specials
from lowprec.philox import random_bits
from lowprec.quantizing import quantize
from lowprec.rounding import Rounding, round_to
from lowprec.testing import Quantizer

Doubles = NDArray[np.float64]
Values = NDArray[np.float32]
Words = NDArray[np.uint32]

E4M3 = Float(4, 3, Specials.NAN)
Q214, Q88, Q22 = Fixed(2, 14), Fixed(8, 8), Fixed(2, 2)
STOCHASTIC, EVEN = Rounding.STOCHASTIC, Rounding.NEAREST_EVEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A quantizer, what it says it does, and its kind (of bug, or of making)."""

    kind: str
    name: str
    quantizer: Quantizer
    format: Format
    rounding: Rounding
    law: str = ""

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}"


def uniform(bits: Words, used: int = 32) -> Doubles:
    """Numbers in [0, 1) from the highest bits."""
    return np.asarray((bits >> np.uint32(32 - used)) * 2.0**-used)


def steps(x: Values, fmt: Fixed | Int | DynamicFixed) -> Doubles:
    return np.asarray(x.astype(np.float64) * 2.0**-fmt.exponent)


def values(whole: Doubles, fmt: Fixed | Int | DynamicFixed) -> Doubles:
    return np.asarray(np.clip(whole, *fmt.codes) * 2.0**fmt.exponent)


def by_floor(x: Values, u: Doubles, fmt: Fixed | Int | DynamicFixed = Q214) -> Doubles:
    """Up where a uniform number is below the share."""
    t = np.clip(steps(x, fmt), fmt.codes[0], fmt.codes[1])
    below = np.floor(t)
    return values(below + (u < t - below), fmt)


def by_noise(x: Values, u: Doubles, fmt: Fixed | Int | DynamicFixed = Q214) -> Doubles:
    """The floor of a sum: what Gupta's circuit does."""
    return values(np.floor(np.clip(steps(x, fmt), fmt.codes[0], fmt.codes[1]) + u), fmt)


def by_magnitude(x: Values, u: Doubles, fmt: Fixed | Int | DynamicFixed = Q214) -> Doubles:
    """The same for the magnitude, then the sign."""
    t = np.clip(steps(x, fmt), fmt.codes[0], fmt.codes[1])
    return values(np.copysign(np.floor(np.abs(t) + u), t), fmt)


def bf16_by_adding(x: Values, bits: Words, used: int = 16) -> Values:
    """Bits added behind those that stay, and cut off: the trick of hardware, exact with 16 bits."""
    noise = (bits >> np.uint32(32 - used)) << np.uint32(16 - used)
    pattern = x.view(np.uint32)
    special = (pattern & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    moved = np.where(special, pattern, pattern + noise) & np.uint32(0xFFFF0000)
    return np.asarray(moved.astype(np.uint32).view(np.float32))


def wrapping(x: Values, bits: Words, fmt: Fixed = Q214) -> Doubles:
    t = np.clip(steps(x, fmt), -(2.0**62), 2.0**62)
    whole = np.floor(t + uniform(bits)).astype(np.int64)
    width = 1 << fmt.bits
    return np.asarray(((whole - fmt.codes[0]) % width + fmt.codes[0]) * 2.0**fmt.exponent)


def half_up(x: Values, _: Words, fmt: Fixed = Q214) -> Doubles:
    return values(np.floor(steps(x, fmt) + 0.5), fmt)


def turned_around(x: Values, bits: Words) -> Doubles:
    """Down where it should go up, and the other way round."""
    t = np.clip(steps(x, Q214), *Q214.codes)
    return values(np.ceil(t) - (uniform(bits) < t - np.floor(t)), Q214)


def in_e4m3(x: Values, _: Words) -> Values:
    return round_to(round_to(x, FP16), E4M3).astype(np.float32)


def flushed(x: Values, bits: Words, fmt: Float = FP16) -> Values:
    result = round_to(x, fmt, STOCHASTIC, bits=bits)
    return np.where(np.abs(result) < 2.0**fmt.lowest_exponent, np.float32(0), result).astype(np.float32)


def own(fmt: Format, rounding: Rounding, used: int, x: Values, bits: Words) -> Values:
    return np.asarray(round_to(x, fmt, rounding, bits=bits, bits_used=used), np.float32)


def _bug(law: str, kind: str, name: str, fmt: Format, rounding: Rounding, quantizer: Quantizer) -> Case:
    return Case(kind=kind, name=name, quantizer=quantizer, format=fmt, rounding=rounding, law=law)


_drawn = partial(_bug, "bias")
_told = partial(_bug, "independence")

BUGS: tuple[Case, ...] = (
    _drawn("down", "always", Q214, STOCHASTIC, lambda x, b: by_floor(x, np.ones(x.size))),
    _drawn("down", "mostly", Q214, STOCHASTIC, lambda x, b: by_floor(x, np.sqrt(uniform(b)))),
    _drawn("down", "fp16 toward zero", FP16, STOCHASTIC, lambda x, b: round_to(x, FP16, Rounding.TOWARD_ZERO)),
    _drawn("up", "half as often", Q88, STOCHASTIC, lambda x, b: by_floor(x, np.minimum(2 * uniform(b), 1), Q88)),
    _drawn("up", "turned around", Q214, STOCHASTIC, turned_around),
    _drawn("few bits", "8 of 24", Q214, STOCHASTIC, lambda x, b: by_floor(x, uniform(b << np.uint32(24), 8))),
    _drawn("few bits", "8 to nearest", Q214, STOCHASTIC, partial(own, Q214, STOCHASTIC, 8)),
    _drawn("few bits", "12 in bf16", BF16, STOCHASTIC, lambda x, b: bf16_by_adding(x, b, 8)),
    _drawn("few bits", "12", Q214, STOCHASTIC, lambda x, b: by_noise(x, uniform(b, 12))),
    _drawn("sign", "down below zero", Q214, STOCHASTIC,
           lambda x, b: by_floor(x, uniform(b) * np.where(x < 0, 1.1, 1.0))),
    _drawn("sign", "mirrored share", Q214, STOCHASTIC,
           lambda x, b: np.where(x < 0, by_floor(x, 1 - uniform(b) ** 1.05), by_floor(x, uniform(b)))),
    _drawn("dependent bits", "or", Q214, STOCHASTIC, lambda x, b: by_floor(x, uniform(b | np.roll(b, 1)))),
    _drawn("nearest", "instead of a draw", Q214, STOCHASTIC, lambda x, b: by_floor(x, np.full(x.size, 0.5))),
    _drawn("noise", "of a bell", Q214, STOCHASTIC,
           lambda x, b: by_noise(x, (uniform(b) + uniform(b * np.uint32(2654435761))) / 2)),
    _drawn("subnormals", "share of a normal step", FP16, STOCHASTIC,
           lambda x, b: round_to(x, FP16, STOCHASTIC, bits=b >> (np.abs(x) < 2.0**-14).astype(np.uint32))),
    _told("reused", "by four", Q214, STOCHASTIC, lambda x, b: by_floor(x, uniform(np.repeat(b[::4], 4)[: x.size]))),
    _told("reused", "far apart", Q214, STOCHASTIC, lambda x, b: by_floor(x, uniform(np.resize(b[:10007], x.size)))),
    _told("reused", "one for all", Q88, STOCHASTIC, lambda x, b: by_floor(x, uniform(np.resize(b[:1], x.size)), Q88)),
    _told("reused", "turned over", FP16, STOCHASTIC,
          lambda x, b: own(FP16, STOCHASTIC, 32, x, np.where(np.arange(x.size) % 2, ~np.roll(b, 1), b))),
    _told("reused", "half a tensor apart", Q214, STOCHASTIC,
          lambda x, b: by_floor(x, uniform(np.resize(b[: -(-x.size // 2)], x.size)))),
    _told("reused", "mirrored", Q214, STOCHASTIC,
          lambda x, b: by_floor(x, uniform(np.where(np.arange(x.size) * 2 < x.size, b, b[::-1])))),
    _told("reused", "by the first thousand", Q214, STOCHASTIC,
          lambda x, b: by_floor(x, uniform(np.where(np.arange(x.size) < 1100, b[0], b)))),
    _told("seed", "of four bits", Q214, STOCHASTIC,
          lambda x, b: by_floor(x, np.random.default_rng(int(b[0] % 16)).random(x.size))),
    _drawn("one size", "nearest from 1 to 2", BF16, STOCHASTIC,
           lambda x, b: np.where((x >= 1) & (x < 2), round_to(x, BF16), own(BF16, STOCHASTIC, 32, x, b))),
    _drawn("one size", "squared from 1 to 2", Float(5, 2), STOCHASTIC,
           lambda x, b: own(Float(5, 2), STOCHASTIC, 32, x,
                            np.where((x >= 1) & (x < 2), np.minimum(b, np.roll(b, 1)), b))),
    _drawn("one step", "down at the upper end", Q214, STOCHASTIC,
           lambda x, b: np.where(x > 2 - 2.0**-13, by_floor(x, np.ones(x.size)), by_floor(x, uniform(b)))),
    _drawn("some shares", "up from 0.3 to 0.35", Q214, STOCHASTIC,
           lambda x, b: by_floor(x, uniform(b) * np.where(abs(np.mod(x * 2.0**14, 1) - 0.325) < 0.025, 0, 1))),
    _bug("saturation", "saturation", "infinite toward zero", FP16, Rounding.TOWARD_ZERO,
         lambda x, b: np.where(np.abs(x) > 65504, np.copysign(np.inf, x), round_to(x, FP16, Rounding.TOWARD_ZERO))),
    _bug("failure", "failure", "complex", Q22, EVEN, lambda x, b: round_to(x, Q22) + 1j),
    _told("seed", "ignored", Q214, STOCHASTIC, lambda x, b: by_floor(x, uniform(random_bits(0, "x", x.size)))),
    _bug("reproducibility", "seed", "own generator", Q214, STOCHASTIC,
         lambda x, b: by_floor(x, np.random.default_rng().random(x.size))),
    _bug("reproducibility", "draws", "nearest with a draw", Q22, EVEN, lambda x, b: by_floor(x, uniform(b), Q22)),
    _bug("saturation", "saturation", "wraps", Q214, STOCHASTIC, wrapping),
    _bug("saturation", "saturation", "one step early", Int(8), EVEN, lambda x, b: np.clip(np.rint(x), -127, 127)),
    _bug("saturation", "saturation", "infinity is lost", Int(8), EVEN,
         lambda x, b: np.clip(np.rint(np.where(np.isinf(x), 0, x)), -128, 127)),
    _bug("ties", "ties", "half up", Q22, EVEN, partial(half_up, fmt=Q22)),
    _bug("ties", "ties", "away", FP16, EVEN, lambda x, b: round_to(x, FP16, Rounding.NEAREST_AWAY)),
    _bug("ties", "ties", "to odd", Int(6), EVEN,
         lambda x, b: np.where(np.mod(x, 1) == 0.5, 2 * np.floor(x / 2) + 1, np.rint(x)).clip(-32, 31)),
    _bug("rounding", "double rounding", "by way of fp16", E4M3, EVEN, in_e4m3),
    _bug("rounding", "direction", "down is toward zero", Q88, Rounding.DOWN,
         lambda x, b: round_to(x, Q88, Rounding.TOWARD_ZERO)),
    _bug("subnormals", "subnormals", "become zero", FP16, STOCHASTIC, flushed),
    _bug("support", "grid", "one bit too many", Q88, STOCHASTIC, lambda x, b: by_floor(x, uniform(b), Fixed(8, 9))),
    _bug("idempotence", "grid", "half a step beside", Q88, EVEN,
         lambda x, b: np.clip(np.rint(x * 256 + 0.5) / 256 - 1 / 512, -128, 128 - 2.0**-8)),
    _bug("idempotence", "exact values", "move", Q214, STOCHASTIC, lambda x, b: by_noise(x, uniform(b) + 2.0**-32)),
    _bug("NaN", "NaN", "becomes zero", FP16, EVEN, lambda x, b: np.nan_to_num(round_to(x, FP16), nan=0.0, posinf=np.inf,
                                                                              neginf=-np.inf)),
    _bug("failure", "failure", "raises", Q22, EVEN, lambda x, b: [int(v) for v in x] and 1 / 0),
    _bug("failure", "failure", "one result", Q22, EVEN, lambda x, b: 0.0),
)  # fmt: skip


def by_gfloat(info: object, fmt: Float, x: Values, bits: Words) -> Values:
    """gfloat rounds magnitudes, and takes the draw as integers of 64 bits."""
    draws = (bits >> np.uint32(16)).astype(np.int64)
    mode = gfloat.RoundMode.Stochastic
    result = gfloat.round_ndarray(
        info, x.astype(np.float64), mode, sat=not fmt.has_infinity, srbits=draws, srnumbits=16
    )
    return np.asarray(result, np.float32)


def _right(kind: str, name: str, fmt: Format, rounding: Rounding, quantizer: Quantizer) -> Case:
    return Case(kind=kind, name=name, quantizer=quantizer, format=fmt, rounding=rounding)


def scalar(x: Values, _: Words) -> list[float]:
    """Python's own round, value by value."""
    return [min(max(round(max(min(float(v), 1e6), -1e6)), -8), 7) for v in x]


def drawing(make: Callable[..., Doubles], fmt: Format, x: Values, bits: Words) -> Doubles:
    return make(x, uniform(bits), fmt)


GRIDS: tuple[Fixed | Int | DynamicFixed, ...] = (Q214, Q88, Int(8), DynamicFixed(10, -7))
MAKINGS: tuple[tuple[str, Callable[..., Doubles]], ...] = (
    ("floor", by_floor),
    ("noise", by_noise),
    ("magnitude", by_magnitude),
)

RIGHT: tuple[Case, ...] = (
    *(
        _right(kind, str(fmt), fmt, STOCHASTIC, partial(drawing, make, fmt))
        for kind, make in MAKINGS
        for fmt in GRIDS
    ),
    *(
        _right("lowprec", f"{fmt} {used} bits", fmt, STOCHASTIC, partial(own, fmt, STOCHASTIC, used))
        for fmt in (Q214, FP16, BF16, E4M3, Binary(), Int(4, signed=False), Float(2, 1, Specials.NONE))
        for used in (32, 20)
    ),
    *(
        _right(f"lowprec {rounding.value}", str(fmt), fmt, rounding, partial(own, fmt, rounding, 32))
        for fmt in (Q88, E4M3)
        for rounding in Rounding
        if rounding is not STOCHASTIC
    ),
    _right("24 bits", "floor", Q214, STOCHASTIC, lambda x, b: by_floor(x, uniform(b, 24))),
    _right("low bits", "floor", Q214, STOCHASTIC, lambda x, b: by_floor(x, uniform(b << np.uint32(8), 24))),
    _right("other order", "floor", Q214, STOCHASTIC, lambda x, b: by_floor(x, uniform(b[::-1]))),
    _right("seeded", "by the first word", Q214, STOCHASTIC,
           lambda x, b: by_floor(x, np.random.default_rng(int(b[0])).random(x.size))),
    _right("adding", "bf16", BF16, STOCHASTIC, bf16_by_adding),
    _right("gfloat", "e4m3", E4M3, STOCHASTIC, partial(by_gfloat, gfloat.formats.format_info_ocp_e4m3, E4M3)),
    _right("gfloat", "e5m2", Float(5, 2), STOCHASTIC,
           partial(by_gfloat, gfloat.formats.format_info_ocp_e5m2, Float(5, 2))),
    _right("torch", "bf16 as it is", BF16, EVEN, lambda x, b: torch.from_numpy(x).bfloat16()),
    _right("ml_dtypes", "bf16", BF16, EVEN, lambda x, b: x.astype(ml_dtypes.bfloat16)),
    _right("ml_dtypes", "e4m3fn", E4M3, EVEN, lambda x, b: x.astype(ml_dtypes.float8_e4m3fn)),
    _right("ml_dtypes", "e5m2", Float(5, 2), EVEN, lambda x, b: x.astype(ml_dtypes.float8_e5m2)),
    _right("numpy", "fp16", FP16, EVEN, lambda x, b: x.astype(np.float16)),
    _right("numpy", "rint", Int(8), EVEN, lambda x, b: np.clip(np.rint(x), -128, 127)),
    _right("python", "round", Int(4), EVEN, scalar),
    _right("codes", "there and back", Q88, STOCHASTIC, lambda x, b: quantize(x, Q88, STOCHASTIC, bits=b).dequantize()),
)  # fmt: skip
