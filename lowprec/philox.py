"""Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011): random bits as a pure function of where they are used.

The bits of a tensor's element depend on the seed, the tensor's name, the step and the element's position in the logical
row-major tensor (docs/numerics.md, equations 9 and 10), and on nothing else: not on threads, tiles, layout or machine.
This is the NumPy oracle; `lowprec.train.philox` and `lowprec.schedules.philox` give the same bits.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from lowprec.errors import UsageError, is_integer, shown

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF

BLOCK = 4
"""Words that one counter gives."""

POSITIONS = 1 << 64
"""Elements that have bits of their own."""

MOST = 1 << 36
"""Words that one call gives: more than a machine has room for."""

Words = NDArray[np.uint32]


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """The four words of each counter; `counter` is (..., 4)."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    for k0, k1 in round_keys(key):
        product0, product1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1 = (product1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), product1 & np.uint64(LOW)
        c2, c3 = (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), product0 & np.uint64(LOW)
    return np.stack((c0, c1, c2, c3), axis=-1).astype(np.uint32)


def round_keys(key: tuple[int, int]) -> list[tuple[int, int]]:
    """The key of each round."""
    return [((key[0] + i * KEY_STEPS[0]) & LOW, (key[1] + i * KEY_STEPS[1]) & LOW) for i in range(ROUNDS)]


def key_of(seed: int, tensor_name: str) -> tuple[int, int]:
    """Equation 10: (seed mod 2^32, CRC-32 of the name in UTF-8)."""
    if not is_integer(seed):
        raise UsageError(f"seed is {shown(seed)}: give an integer")
    if not isinstance(tensor_name, str):
        raise UsageError(f"tensor_name is {shown(tensor_name)}: give the tensor's name, a string")
    return int(seed) & LOW, zlib.crc32(tensor_name.encode("utf-8", "surrogatepass"))


def random_bits(seed: int, tensor_name: str, count: int, *, step: int = 0, start: int = 0) -> Words:
    """The bits of elements `start` to `start + count` of a tensor; `step` draws anew (a training step, a call)."""
    key = key_of(seed, tensor_name)
    require_range(count=count, step=step, start=start)
    count, start = int(count), int(start)
    first, last = start // BLOCK, -(-(start + count) // BLOCK)
    blocks = np.arange(last - first, dtype=np.uint64) + np.uint64(first)
    counter = np.zeros((blocks.size, 4), np.uint32)
    counter[:, 0] = blocks & np.uint64(LOW)
    counter[:, 1] = blocks >> np.uint64(32)
    counter[:, 2] = step
    skipped = start - first * BLOCK
    return philox4x32(counter, key).reshape(-1)[skipped : skipped + count]


def require_range(*, count: int, step: int, start: int) -> None:
    """Refuse what no element or step can be."""
    for name, value, beyond in (("count", count, MOST + 1), ("step", step, LOW + 1), ("start", start, POSITIONS)):
        if not is_integer(value) or not 0 <= int(value) < beyond:
            raise UsageError(f"{name} is {shown(value)}: give an integer from 0 to {beyond - 1}")
    if int(start) + int(count) > POSITIONS:
        raise UsageError(
            f"elements {start} to {int(start) + int(count)} are asked for: the last may be {POSITIONS - 1}"
        )
