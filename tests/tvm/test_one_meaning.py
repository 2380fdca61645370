"""The oracle, torch and a compiled kernel round one tensor with one seed to the same bits, whole or in pieces."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import tvm
from numpy.typing import NDArray

from lowprec.formats import BF16, FP16, Binary, Fixed, Format, Int
from lowprec.philox import key_of, random_bits
from lowprec.rounding import Rounding, round_to
from lowprec.schedules.quantizing import Quantizing, build_quantizing
from lowprec.targets import parse_target
from lowprec.train import Draw
from lowprec.train import round_to as torch_round_to
from tests.amounts import thinned

SEED, NAME, STEP = -5, "features.0.weight", 41


def by_kernel(x: NDArray[np.float32], fmt: Format, start: int) -> NDArray[np.float32]:
    target = parse_target("native")
    spec = Quantizing(count=x.size, format=fmt, rounding=Rounding.STOCHASTIC, target=target)
    machine = tvm.target.Target(target.tvm_target(1))
    function = tvm.compile(tvm.IRModule({"main": build_quantizing(spec)}), target=machine)
    source, result = tvm.runtime.tensor(x), tvm.runtime.tensor(np.full_like(x, np.nan))
    function(source, *key_of(SEED, NAME), STEP, start, result)
    return np.array(result.numpy())


def by_torch(x: NDArray[np.float32], fmt: Format, start: int) -> NDArray[np.float32]:
    draw = Draw(seed=SEED, tensor_name=NAME, step=STEP, start=start)
    return np.array(torch_round_to(torch.from_numpy(x), fmt, Rounding.STOCHASTIC, bits=draw).numpy())


@pytest.mark.parametrize("fmt", thinned([Fixed(2, 14), Int(8), FP16, BF16, Binary()]), ids=str)
def test_one_tensor_has_one_rounding(fmt: Format) -> None:
    x = (np.random.default_rng(0).standard_normal(4099) * 2).astype(np.float32)
    oracle = round_to(x, fmt, Rounding.STOCHASTIC, bits=random_bits(SEED, NAME, x.size, step=STEP))
    for rounded in (by_kernel, by_torch):
        for cuts in ((0, 4099), (0, 1, 1002, 4099)):
            pieces = [rounded(x[a:b].copy(), fmt, a) for a, b in pairwise(cuts)]
            np.testing.assert_array_equal(np.concatenate(pieces).view(np.uint32), oracle.view(np.uint32))
