"""`lowprec.philox` in torch: the same words on any device.

torch multiplies no unsigned numbers, so a word is an int64 below 2^32. The product of two of them may pass 2^63, where
int64 wraps around: its bits are right all the same.
"""

from dataclasses import dataclass

import torch

from lowprec.philox import BLOCK, LOW, MULTIPLIERS, key_of, require_range, round_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Where a tensor's bits come from: equation 9. `start` is its first element's position in the logical tensor."""

    seed: int
    tensor_name: str
    step: int = 0
    start: int = 0

    def __post_init__(self) -> None:
        key_of(self.seed, self.tensor_name)
        require_range(count=0, step=self.step, start=self.start)
        for name in ("seed", "step", "start"):  # NumPy's integers may overflow where Python's do not
            object.__setattr__(self, name, int(getattr(self, name)))

    @property
    def key(self) -> tuple[int, int]:
        return key_of(self.seed, self.tensor_name)


def random_bits(draw: Draw, count: int, *, device: torch.device | str = "cpu") -> torch.Tensor:
    """`count` words, as int64 from 0 to 2^32 - 1."""
    require_range(count=count, step=draw.step, start=draw.start)
    count = int(count)
    skipped = draw.start % BLOCK
    blocks = -(-(skipped + count) // BLOCK)
    number = torch.arange(blocks, dtype=torch.int64, device=device) + draw.start // BLOCK
    c0, c1 = number & LOW, (number >> 32) & LOW
    c2, c3 = torch.full_like(c0, draw.step), torch.zeros_like(c0)
    for k0, k1 in round_keys(draw.key):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((product1 >> 32) & LOW) ^ c1 ^ k0, product1 & LOW
        c2, c3 = ((product0 >> 32) & LOW) ^ c3 ^ k1, product0 & LOW
    return torch.stack((c0, c1, c2, c3), dim=-1).reshape(-1)[skipped : skipped + count]
