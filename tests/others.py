"""Formats that other libraries know too, by the dtype they call them, and equality to the bit."""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lowprec.formats import BF16, FP16, Float, Specials

OTHERS: list[tuple[Float, Any]] = [
    (FP16, np.float16),
    (BF16, ml_dtypes.bfloat16),
    (Float(5, 2), ml_dtypes.float8_e5m2),
    (Float(4, 3), ml_dtypes.float8_e4m3),
    (Float(3, 4), ml_dtypes.float8_e3m4),
    (Float(4, 3, Specials.NAN), ml_dtypes.float8_e4m3fn),
    (Float(4, 3, Specials.NEGATIVE_ZERO), ml_dtypes.float8_e4m3fnuz),
    (Float(5, 2, Specials.NEGATIVE_ZERO), ml_dtypes.float8_e5m2fnuz),
    (Float(2, 3, Specials.NONE), ml_dtypes.float6_e2m3fn),
    (Float(3, 2, Specials.NONE), ml_dtypes.float6_e3m2fn),
    (Float(2, 1, Specials.NONE), ml_dtypes.float4_e2m1fn),
]


def assert_same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """Equal to the bit, the sign of zero included, but for what NaN says."""
    np.testing.assert_array_equal(found, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found)[numbers], np.signbit(expected)[numbers])
