"""The PyTorch side: the same numbers in the forward pass, and gradients for training. Needs torch, never TVM."""

from lowprec.train.philox import Draw, random_bits
from lowprec.train.rounding import round_to

__all__ = ["Draw", "random_bits", "round_to"]
