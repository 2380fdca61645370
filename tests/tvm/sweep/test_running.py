"""Every mistake that a kernel could make is seen: what is asked of a right layer's result, with the result spoilt."""

import ctypes
import itertools
from collections.abc import Callable
from dataclasses import replace
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


PART = replace(LAYER, result=Window(shape=(1, 4, 6, 20), begin=(0, 1, 0, 2), extents=(1, 2, 5, 17), bordered=False))
TRANSFORMED = replace(LAYER, algorithm="winograd:4")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[Layer, tuple[Prepared, Any]]:
    prepared = [prepare(layer) for layer in (LAYER, PART, TRANSFORMED)]
    library = build(prepared, tmp_path_factory.mktemp("layers"))
    return {each.layer: (each, library[f"layer{index}"]) for index, each in enumerate(prepared)}


def one_element(x: Array, y: Array, call: int) -> None:
    y[0, 1, 2, 3] *= np.float32(1 + 2**-16)


def a_tile(x: Array, y: Array, call: int) -> None:
    """An error of a thousandth, in the four outputs of a tile and all channels."""
    y[0, 1, :4] *= np.float32(1 + 2**-10)


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


def beside(x: Array, y: Array, call: int) -> None:
    y[0, 1, 2, 0] = 0


def border_of_another(x: Array, y: Array, call: int) -> None:
    y[0, 0, 0, 5] = 0


@pytest.mark.parametrize(
    ("layer", "spoil", "sentence"),
    [
        (LAYER, one_element, "1 of 170 elements are wrong, the first at [0, 0, 2, 3]"),
        (LAYER, not_written, "1 of 170 elements are wrong, the first at [0, 1, 4, 16]: nan"),
        (LAYER, another_zero, "1 elements around the result are wrong, the first at [0, 0, 0, 0]"),
        (LAYER, one_thread_count, "the bits differ between"),
        (LAYER, input_written, "an argument was written to"),
        (LAYER, before, "memory around the result was written to"),
        (LAYER, after, "memory around the result was written to"),
        (PART, beside, "1 elements around the result are wrong, the first at [0, 1, 2, 0]"),
        (TRANSFORMED, a_tile, "of 170 elements are wrong, the first at [0, 0, "),
        (TRANSFORMED, not_written, "1 of 170 elements are wrong, the first at [0, 1, 4, 16]: nan"),
        (TRANSFORMED, one_thread_count, "the bits differ between"),
        (PART, border_of_another, "1 elements around the result are wrong, the first at [0, 0, 0, 5]"),
    ],
)
def test_a_mistake_is_seen(built: dict[Layer, tuple[Prepared, Any]], layer: Layer, spoil: Spoil, sentence: str) -> None:
    prepared, kernel = built[layer]
    calls = itertools.count()

    def spoilt(*tensors: Any) -> None:
        kernel(*tensors)
        x, y = (np.asarray(np.from_dlpack(tensor), np.float32) for tensor in (tensors[0], tensors[-1]))
        spoil(x, y, next(calls))

    assert sentence in check(prepared, spoilt)


@pytest.mark.parametrize("layer", [LAYER, PART, TRANSFORMED])
def test_a_right_kernel_has_no_problem(built: dict[Layer, tuple[Prepared, Any]], layer: Layer) -> None:
    assert not check(*built[layer])
