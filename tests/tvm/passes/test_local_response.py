"""LRN between convolutions: channels stay side by side, and numbers are those of the definition."""

from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray
from tvm import IRModule, relax, te

from lowprec.passes.channels_last import channels_last
from lowprec.passes.editing import OPERATOR, Emitter
from lowprec.passes.local_response import NAME, LocalResponse
from tests.tvm.passes.programs import operators, program, run_lowered

op, nn = relax.op, relax.op.nn
USUAL = LocalResponse(size=5, alpha=0.5, beta=0.75, bias=1.0)
RESPONSES = {
    "usual": (USUAL, 20),
    "three channels for a window of five": (USUAL, 3),
    "an even window": (LocalResponse(size=4, alpha=2.0, beta=0.75, bias=0.5), 17),
    "a window of one": (LocalResponse(size=1, alpha=1.0, beta=0.75, bias=1.0), 16),
    "a root": (LocalResponse(size=3, alpha=1.0, beta=0.5, bias=2.0), 33),
    "another power": (LocalResponse(size=3, alpha=1.0, beta=0.3, bias=1.0), 8),
}


def network(response: LocalResponse, channels: int, *, between: bool = True) -> IRModule:
    """LRN, `between` two convolutions that change nothing or alone."""
    shape = (2, channels, 5, 6)
    x = te.placeholder(shape, "float32", "x")
    function = te.create_prim_func([x, response.planar(x)], index_dtype_override="int64").with_attrs(
        {OPERATOR: NAME, **asdict(response)}
    )
    name = relax.BlockBuilder().add_func(function, "lrn")
    ones = relax.const(np.ones((channels, 1, 1, 1), np.float32))

    def body(e: Emitter, inputs: list[relax.Var]) -> relax.Expr:
        convolved = e.emit(nn.conv2d(inputs[0], ones, groups=channels)) if between else inputs[0]
        normal = e.emit(relax.call_tir(name, relax.Tuple([convolved]), convolved.ty))
        return e.emit(nn.conv2d(normal, ones, groups=channels)) if between else normal

    module = program([shape], body)
    return IRModule({**dict(module.functions_items()), name: function}, attrs=module.attrs)


def expected(response: LocalResponse, x: NDArray[np.float32]) -> NDArray[np.float64]:
    squares = x.astype(np.float64) ** 2
    up = response.size - 1 - response.down
    total = [squares[:, max(0, c - response.down) : c + up + 1].sum(axis=1) for c in range(x.shape[1])]
    divisor = (response.bias + response.alpha / response.size * np.stack(total, axis=1)) ** response.beta
    return np.asarray(x / divisor)


@pytest.mark.parametrize("name", RESPONSES)
def test_numbers_are_those_of_the_definition(name: str) -> None:
    response, channels = RESPONSES[name]
    x = np.random.default_rng(1).standard_normal((2, channels, 5, 6), np.float32)
    (got,) = run_lowered(network(response, channels), [x])
    np.testing.assert_allclose(got, expected(response, x), rtol=2e-6, atol=1e-7)


def test_nothing_is_turned_between_convolutions() -> None:
    after = operators(channels_last(network(USUAL, 20)))
    assert after == ["permute_dims", "conv2d", "call_tir", "conv2d", "permute_dims"]


def test_what_lies_in_planes_stays_so() -> None:
    assert operators(channels_last(network(USUAL, 20, between=False))) == ["call_tir"]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e25])
def test_a_number_without_a_finite_square_spoils_its_window_alone(value: float) -> None:
    """1e25 over an infinite sum is zero, and infinity is none, as the definition has it in float32."""
    x = np.ones((2, 20, 5, 6), np.float32)
    x[0, 9, 2, 3] = value
    (got,) = run_lowered(network(USUAL, 20), [x])
    seen = np.zeros(x.shape, bool)
    seen[0, 7:12, 2, 3] = True
    usual = expected(USUAL, np.ones_like(x))
    np.testing.assert_allclose(got[~seen], usual[~seen], rtol=2e-6)
    neighbours = got[0, [7, 8, 10, 11], 2, 3]
    assert np.isnan(neighbours).all() if np.isnan(value) else (neighbours == 0).all()
    assert got[0, 9, 2, 3] == 0 if np.isfinite(value) else np.isnan(got[0, 9, 2, 3])
