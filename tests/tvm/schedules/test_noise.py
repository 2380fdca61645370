"""Random words in any layout, against `lowprec.random_bits` in ONNX's."""

from dataclasses import dataclass

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.philox import Words, key_of, random_bits
from lowprec.schedules.noise import Noise, build_noise
from lowprec.targets import parse_target

CASES = [
    ((1, 4, 4, 16), (0, 2, 3, 1)),
    ((2, 8, 6, 40), (0, 2, 3, 1)),
    ((2, 7, 7, 20), (0, 2, 3, 1)),
    ((1, 4, 4, 3), (0, 2, 3, 1)),
    ((3, 1000), (0, 1)),
    ((1, 1), (0, 1)),
    ((5,), (0,)),
    ((), ()),
    ((2, 3, 2, 2, 17), (0, 2, 3, 4, 1)),
    ((4, 6, 8), (2, 0, 1)),
    ((5, 3, 256), (1, 0, 2)),
    ((5, 3, 132), (1, 0, 2)),
    ((5, 3, 130), (1, 0, 2)),
    ((1, 112, 112, 64), (0, 2, 3, 1)),
]
"""Physical shapes, and the ONNX axis that each of their axes is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Where words are used: equations 9 and 10 of docs/numerics.md."""

    seed: int
    name: str
    step: int


def words(spec: Noise, use: Use, *, threads: int = 1) -> Words:
    target = parse_target("native")
    module = tvm.IRModule({"main": build_noise(spec)})
    built = tvm.compile(module, target=tvm.target.Target(target.tvm_target(threads)))["main"]
    result = tvm.runtime.tensor(np.full(spec.shape, 77, np.uint32))
    key = np.array(key_of(use.seed, use.name), np.uint32)
    built(tvm.runtime.tensor(key), tvm.runtime.tensor(np.array([use.step], np.int64)), result)
    return np.asarray(result.numpy())


def expected(spec: Noise, use: Use) -> Words:
    logical = [0] * len(spec.shape)
    for extent, axis in zip(spec.shape, spec.order, strict=True):
        logical[axis] = extent
    drawn = random_bits(use.seed, use.name, int(np.prod(logical)), step=use.step).reshape(logical)
    return drawn.transpose(spec.order)


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize(("shape", "order"), CASES, ids=str)
def test_every_layout_has_the_words_of_onnx_order(shape: tuple[int, ...], order: tuple[int, ...], lanes: int) -> None:
    spec = Noise(shape=shape, order=order, lanes=lanes)
    use = Use(seed=2**40 + 7, name="conv/ü", step=2**32 - 2)
    assert np.array_equal(words(spec, use), expected(spec, use))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_layout(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 5))
    shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=rank, max_size=rank)))
    order = tuple(data.draw(st.permutations(range(rank))))
    spec = Noise(shape=shape, order=order, lanes=data.draw(st.sampled_from([1, 4, 16])))
    seed, step = data.draw(st.integers(0, 2**64 - 1)), data.draw(st.integers(0, 2**32 - 1))
    use = Use(seed=seed, name="x", step=step)
    assert np.array_equal(words(spec, use, threads=2), expected(spec, use))
