"""Hypothesis strategies for formats, values, words and quantizers."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowprec.formats import Binary, DynamicFixed, Fixed, Float, Format, Int, Specials, limits
from lowprec.rounding import DRAWN, Rounding, round_to
from lowprec.testing.probes import outside, probes
from lowprec.testing.subject import Quantizer


def fixed(max_bits: int = 16) -> st.SearchStrategy[Fixed]:
    """Two's complement with a point, of up to `max_bits`."""
    bits = st.integers(1, max_bits)
    return bits.flatmap(lambda n: st.integers(1, n).map(lambda whole: Fixed(whole, n - whole)))


def integers(max_bits: int = 16) -> st.SearchStrategy[Int]:
    """Signed and unsigned integers."""
    return st.builds(lambda bits, signed: Int(bits, signed=signed), st.integers(1, max_bits), st.booleans())


def dynamic(max_bits: int = 16) -> st.SearchStrategy[DynamicFixed]:
    """Words with a step of any power of two from 2^-20 to 2^20."""
    return st.builds(DynamicFixed, st.integers(1, max_bits), st.integers(-20, 20))


def floats(max_bits: int = 16) -> st.SearchStrategy[Float]:
    """Floats of at least 4 bits, with 2 to 8 exponent bits."""
    widths = [(e, m) for e in range(2, 9) for m in range(1, 24) if 1 + e + m <= max(4, max_bits)]
    pairs = st.sampled_from(widths)
    return st.builds(lambda pair, specials: Float(pair[0], pair[1], specials), pairs, st.sampled_from(Specials))


def formats(max_bits: int = 16) -> st.SearchStrategy[Format]:
    """Any format of up to `max_bits`."""
    return st.one_of(fixed(max_bits), integers(max_bits), dynamic(max_bits), floats(max_bits), st.just(Binary()))


def roundings(fmt: Format) -> st.SearchStrategy[Rounding]:
    """The roundings that `fmt` has."""
    return st.sampled_from([r for r in Rounding if not (isinstance(fmt, Binary) and r is Rounding.TOWARD_ZERO)])


def values(fmt: Format, *, max_size: int = 64, nan: bool | None = None) -> st.SearchStrategy[NDArray[np.float32]]:
    """float32 arrays of what matters for `fmt`: its numbers, ties, neighbours of both, subnormals, what is beyond its
    ends, infinities, both zeros, any float32; and NaN, where the format has one or `nan` says so."""
    found = probes(fmt, np.random.default_rng(0))
    far = outside(fmt)
    special = [0.0, -0.0, np.inf, -np.inf, 2.0**-149, -(2.0**-149), *limits(fmt, np.float32)]
    wanted = isinstance(fmt, Float) and fmt.has_nan if nan is None else nan
    elements = st.one_of(
        st.integers(0, found.size - 1).map(lambda i: float(found[i])),
        st.sampled_from(far.tolist() or [0.0]),
        st.sampled_from([*special, np.nan] if wanted else special),
        st.floats(width=32, allow_nan=wanted),
    )
    return st.lists(elements, min_size=1, max_size=max_size).map(lambda items: np.array(items, np.float32))


def words(count: int) -> st.SearchStrategy[NDArray[np.uint32]]:
    """A uint32 for each of `count` values, the ends among them."""
    word = st.one_of(st.sampled_from([0, 1, 1 << 31, (1 << 32) - 1]), st.integers(0, (1 << 32) - 1))
    return st.lists(word, min_size=count, max_size=count).map(lambda items: np.array(items, np.uint32))


def quantizers(fmt: Format, rounding: Rounding) -> st.SearchStrategy[Quantizer]:
    """Right quantizers: lowprec's own, with the highest bits of the word, with the lowest, and with the word's bits
    turned over or moved around. A stochastic one uses 16 bits or more."""
    used = st.integers(16, DRAWN)
    turns: list[Callable[[NDArray[np.uint32]], NDArray[np.uint32]]] = [
        lambda bits: bits,
        lambda bits: ~bits,
        lambda bits: (bits << np.uint32(16)) | (bits >> np.uint32(16)),
        lambda bits: bits * np.uint32(0x9E3779B1),
    ]

    def made(turn: Callable[[NDArray[np.uint32]], NDArray[np.uint32]], bits_used: int) -> Quantizer:
        return lambda x, bits: round_to(x, fmt, rounding, bits=turn(bits), bits_used=bits_used)

    return st.builds(made, st.sampled_from(turns), used)
