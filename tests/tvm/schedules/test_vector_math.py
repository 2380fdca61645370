"""The arithmetic against float64: a grid over all bit patterns, the special values, every lane count in use."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.special
import tvm
from numpy.typing import NDArray
from tvm import s_tir, te, tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from lowprec.schedules import vector_math

Array = NDArray[np.float32]
STEP = 1 << 14
SPECIAL = np.array(
    [np.inf, -np.inf, np.nan, 0, -0.0, 1, -1, 0.625, 88.72283, 88.73, 89, -87.4, -103.9, -104, -105, 3e38, -3e38]
    + [sign * tiny for sign in (1, -1) for tiny in (1e-38, 1e-39, 1e-45)],
    np.float32,
)
TARGETS = [("x86-64", 1), ("x86-64", 4), ("haswell", 8), ("skylake-avx512", 16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    name: str
    build: Callable[[Expr], Expr]
    exact: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ulps: float  # one for the last rounding, one for the polynomial, one or two for each operation after it


def _power(exponent: float) -> Function:
    # at most four products, square roots and quotients of half an ulp each, the early ones raised to later powers
    return Function(
        name=f"pow {exponent}",
        build=lambda x: T.pow(x, T.float32(exponent)),
        exact=lambda x: np.power(
            np.where(np.isneginf(x), np.inf, x) if exponent % 1 else x, exponent
        ),  # NumPy's 0.5 is sqrt
        ulps=4,
    )


FUNCTIONS = [
    Function(name="exp", build=T.exp, exact=np.exp, ulps=2),
    Function(name="log", build=T.log, exact=np.log, ulps=2),
    Function(name="erf", build=T.erf, exact=scipy.special.erf, ulps=2),
    Function(name="sigmoid", build=T.sigmoid, exact=scipy.special.expit, ulps=3),
    Function(name="tanh", build=T.tanh, exact=np.tanh, ulps=4),
    *[_power(exponent) for exponent in (0.5, 0.75, 1.25, 2.0, 3.0, -0.5, -0.75)],
]


def apply(
    build: Callable[[Expr], Expr], x: NDArray[Any], mcpu: str, lanes: int, dtype: str | None = None
) -> NDArray[Any]:
    source = te.placeholder((x.size,), str(x.dtype), "source")
    schedule = s_tir.Schedule(te.create_prim_func([source, te.compute((x.size,), lambda i: build(source[i]), "map")]))
    (loop,) = schedule.get_loops("map")
    schedule.vectorize(schedule.split(loop, [None, lanes])[1])
    kernel = schedule.mod["main"]
    module = tvm.IRModule({"main": vector_math.with_vector_math(kernel)})
    built = tvm.compile(module, target=tvm.target.Target({"kind": "llvm", "mcpu": mcpu}))
    result = tvm.runtime.tensor(np.full(x.shape, np.nan, x.dtype) if dtype is None else np.zeros(x.shape, dtype))
    built["main"](tvm.runtime.tensor(x), result)
    return np.asarray(result.numpy())


def samples() -> Array:
    grid = (np.arange((1 << 32) // STEP, dtype=np.uint64) * STEP + 37).astype(np.uint32).view(np.float32)
    usual = np.random.default_rng(0).normal(0, 5, 1 << 16).astype(np.float32)
    x = np.concatenate([grid, usual, SPECIAL])
    return np.concatenate([x, np.zeros(-x.size % 16, np.float32)])


def runnable(mcpu: str) -> bool:
    return mcpu != "skylake-avx512" or "avx512f" in open("/proc/cpuinfo").read()


@pytest.mark.parametrize(("mcpu", "lanes"), TARGETS)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_error_is_a_few_ulps(function: Function, mcpu: str, lanes: int) -> None:
    if not runnable(mcpu):
        pytest.skip("this CPU has no AVX-512")
    x = samples()
    got = apply(function.build, x, mcpu, lanes)
    with np.errstate(all="ignore"):
        exact = function.exact(x.astype(np.float64))
        rounded = exact.astype(np.float32)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(rounded))
        zero = exact == 0
        np.testing.assert_array_equal(got[zero], rounded[zero])
        if function.name != "pow 0.5":  # NumPy calls sqrt, which keeps the sign of -0
            np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(rounded[zero]))
        normal = np.isfinite(rounded) & (np.abs(exact) >= 2.0**-126)
        error = np.abs(got[normal].astype(np.float64) - exact[normal]) / np.spacing(np.abs(rounded[normal]))
        assert error.max() <= function.ulps, x[normal][error.argmax()]
        small = np.isfinite(rounded) & ~normal
        assert np.all(np.abs(got[small].astype(np.float64) - exact[small]) <= 2.0**-126)


@pytest.mark.parametrize("value", [-np.inf, np.inf, -0.0, 0.0])
@pytest.mark.parametrize("exponent", [0.5, 0.75, 0.25])
def test_roots_of_the_special_values_are_those_of_pow(value: float, exponent: float) -> None:
    x = np.full(16, value, np.float32)
    got = apply(lambda v: T.pow(v, T.float32(exponent)), x, "x86-64", 4)
    np.testing.assert_array_equal(got, np.float32(math.pow(value, exponent)))
    assert not np.signbit(got).any()


def test_float64_and_odd_powers_are_left_to_the_c_library() -> None:
    x = np.linspace(0.1, 3, 64)
    np.testing.assert_allclose(apply(T.exp, x, "x86-64", 1), np.exp(x), rtol=1e-15)
    y = x.astype(np.float32)
    got = apply(lambda v: T.pow(v, T.float32(0.3)), y, "x86-64", 1)
    np.testing.assert_allclose(got, y**0.3, rtol=3e-7)


def test_builders_refuse_other_types() -> None:
    with pytest.raises(TypeError, match="vector math on float64: only float32 is supported"):
        vector_math.exp(tirx.Var("x", "float64"))


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_results_can_be_cast_to_integers(function: Function, lanes: int) -> None:
    """TVM asks how large an integer can be, of what is inside the Cast too; named integers there made it fail."""
    x = np.linspace(0.25, 4, 64, dtype=np.float32)
    got = apply(lambda v: T.Cast("int32", T.float32(7.3) * function.build(v)), x, "x86-64", lanes, "int32")
    expected = 7.3 * function.exact(x.astype(np.float64))
    assert np.abs(got - np.trunc(expected))[np.abs(expected - np.round(expected)) > 1e-4].max() == 0
