"""Philox4x32-10 once more, in Python's integers: what the vectorized ones are compared with."""

WORD = 2**32


def slow_philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Ten rounds on Python's integers, as in the paper."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right // WORD) ^ b ^ k0, right % WORD, (left // WORD) ^ d ^ k1, left % WORD
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return a, b, c, d
