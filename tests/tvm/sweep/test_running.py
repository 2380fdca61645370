"""Every mistake that a kernel could make is seen: what is asked of a right layer's result, with the result spoilt."""

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lowprec.convolution import Conv
from lowprec.schedules.windows import Window
from tests.tvm.sweep.layer import Layer
from tests.tvm.sweep.running import GUARD, Prepared, build, check, prepare

Array = NDArray[np.float32]
Spoil = Callable[[Array, Array, int], None]  # the kernel's input, its result, the number of the call
LAYER = Layer(
    target="native",
    operator=Conv(
        batch=1,
        in_channels=3,
        out_channels=17,
        groups=1,
        size=(2, 5),
        kernel=(1, 3),
        stride=(1, 1),
        dilation=(1, 1),
        pads_begin=(0, 1),
        pads_end=(0, 1),
    ),
    source=Window(shape=(1, 2, 7, 3), begin=(0, 0, 0, 0), extents=(1, 2, 7, 3)),
    right=None,
    result=Window(shape=(1, 4, 6, 17), begin=(0, 1, 0, 0), extents=(1, 2, 5, 17)),
    bias=True,
    steps=(),
    extras=(),
)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Any]:
    prepared = prepare(LAYER)
    library = build([prepared], tmp_path_factory.mktemp("layer"))
    return prepared, library["layer0"]


def one_element(x: Array, y: Array, call: int) -> None:
    y[0, 1, 2, 3] *= np.float32(1 + 2**-16)


def not_written(x: Array, y: Array, call: int) -> None:
    y[0, 2, 4, 16] = np.nan


def another_zero(x: Array, y: Array, call: int) -> None:
    y[0, 0, 0, 0] = -0.0


def one_thread_count(x: Array, y: Array, call: int) -> None:
    if call == 2:
        y[0, 1, 0, 0] = np.nextafter(y[0, 1, 0, 0], np.float32(9))


def input_written(x: Array, y: Array, call: int) -> None:
    x[0, 0, 0, 0] += 1


def before(x: Array, y: Array, call: int) -> None:
    around(y)[GUARD - 1] = 0


def after(x: Array, y: Array, call: int) -> None:
    around(y)[GUARD + y.size] = 0


def around(y: Array) -> Array:
    """The result's memory, its guards included."""
    floats = ctypes.c_float * (y.size + 2 * GUARD)
    memory: Array = np.ctypeslib.as_array(floats.from_address(y.ctypes.data - GUARD * y.itemsize))
    return memory


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (one_element, "1 of 170 elements are wrong, the first at"),
        (not_written, "1 of 170 elements are wrong, the first at"),
        (another_zero, "1 elements of the border are not zero, the first at"),
        (one_thread_count, "the bits differ between"),
        (input_written, "an argument was written to"),
        (before, "memory around the result was written to"),
        (after, "memory around the result was written to"),
    ],
)
def test_a_mistake_is_seen(layer: tuple[Prepared, Any], spoil: Spoil, sentence: str) -> None:
    prepared, kernel = layer
    calls = itertools.count()

    def spoilt(*tensors: Any) -> None:
        kernel(*tensors)
        x, y = (np.asarray(np.from_dlpack(tensor), np.float32) for tensor in (tensors[0], tensors[-1]))
        spoil(x, y, next(calls))

    assert sentence in check(prepared, spoilt)


def test_a_right_kernel_has_no_problem(layer: tuple[Prepared, Any]) -> None:
    assert not check(*layer)
