"""What a call may pass: exactly what the model takes; one sentence for everything else."""

import re
from typing import Any

import numpy as np
import pytest

from lowprec.arguments import bind
from lowprec.errors import UsageError
from lowprec.tensors import TensorSpec

SPECS = (
    TensorSpec(name="image", dtype="float32", shape=(1, 3, 4, 4)),
    TensorSpec(name="scale", dtype="int64", shape=()),
)
IMAGE = np.zeros((1, 3, 4, 4), np.float32)
SCALE = np.array(2, np.int64)


@pytest.mark.parametrize("args", [(IMAGE, SCALE), ({"scale": SCALE, "image": IMAGE},), (IMAGE, np.int64(2))])
def test_accepted(args: tuple[Any, ...]) -> None:
    image, scale = bind(SPECS, args)
    assert image is IMAGE
    assert scale == 2


REFUSALS = [
    ((IMAGE,), "1 arrays were given: the model takes 2, image, scale"),
    ((IMAGE, SCALE, SCALE), "3 arrays were given"),
    ((), "0 arrays were given"),
    (({"image": IMAGE},), "input 'scale' is missing"),
    (({"image": IMAGE, "scale": SCALE, "bias": SCALE},), "the model has no input 'bias'"),
    (({"imgae": IMAGE, "scale": SCALE},), "the model has no input 'imgae' (did you mean 'image'?)"),
    ((IMAGE[0], SCALE), "input 'image' has shape [3, 4, 4]: the model takes [1, 3, 4, 4]"),
    ((IMAGE[:, :, :3], SCALE), "input 'image' has shape [1, 3, 3, 4]"),
    (
        (IMAGE.astype(np.float64), SCALE),
        "is float64[1, 3, 4, 4]: the model takes float32[1, 3, 4, 4], and nothing is cast",
    ),
    ((IMAGE.astype(">f4"), SCALE), "is >f4[1, 3, 4, 4]"),
    ((IMAGE, SCALE.astype(np.int32)), "input 'scale' is int32[]"),
    ((IMAGE.tolist(), SCALE), "input 'image' is a list: pass a NumPy array float32[1, 3, 4, 4]"),
    ((IMAGE, 2), "input 'scale' is a int: pass a NumPy array int64[]"),
    ((IMAGE.astype(object), SCALE), "is object[1, 3, 4, 4]"),
    (({},), "input 'image' is missing"),
]


@pytest.mark.parametrize(("args", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
def test_refused(args: tuple[Any, ...], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        bind(SPECS, args)
    assert "\n" not in str(caught.value)
