"""Normalization by the squares of neighbouring channels (LRN), wherever channels lie.

    y[c] = x[c] / (bias + alpha / size * sum over k = c - down .. c + up of x[k]^2) ^ beta

Between planes a window is a sum over them. With channels side by side, squares of a pixel are kept in a row with zeros
at both ends, which vectors then read at `size` places.
"""

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from lowprec.passes.editing import OPERATOR

NAME = "LRN"
INDEX = "int64"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResponse:
    """What ONNX says of an LRN."""

    size: int
    alpha: float
    beta: float
    bias: float

    @property
    def down(self) -> int:
        """How far a window reaches towards the first channel; an even one reaches further up (ONNX's definition)."""
        return (self.size - 1) // 2

    def planar(self, x: te.Tensor) -> te.Tensor:
        """Channels on the second axis."""
        offset, channels = te.reduce_axis((0, self.size), name="offset"), x.shape[1]

        def squares(n: Any, c: Any, *rest: Any) -> Any:
            k = c - self.down + offset
            value = tirx.if_then_else(
                tirx.all(k >= 0, k < channels), x(n, k, *rest) * x(n, k, *rest), tirx.const(0, x.dtype)
            )
            return te.sum(value, axis=offset)

        total = te.compute(x.shape, squares, name="lrn_squares")
        return te.compute(x.shape, lambda *i: x(*i) * self._factor(total(*i), x.dtype), name="lrn")

    def last(self, x: te.Tensor) -> te.Tensor:
        """Channels on the last axis."""
        *pixels, channels = x.shape
        down = tirx.const(self.down, INDEX)

        def square(*place: Any) -> Any:
            *pixel, c = place
            value = x(*pixel, c - down)
            return tirx.if_then_else(tirx.all(c >= down, c < channels + down), value * value, tirx.const(0, x.dtype))

        row = te.compute((*pixels, channels + tirx.const(self.size - 1, INDEX)), square, name="lrn_squares")

        def normalized(*place: Any) -> Any:
            *pixel, c = place
            total = row(*place)
            for k in range(1, self.size):
                total = total + row(*pixel, c + tirx.const(k, INDEX))
            return x(*place) * self._factor(total, x.dtype)

        return te.compute(x.shape, normalized, name="lrn")

    def _factor(self, total: Any, dtype: str) -> Any:
        """(bias + alpha / size * total) ** -beta"""
        base = tirx.const(self.bias, dtype) + tirx.const(self.alpha / self.size, dtype) * total
        return tirx.power(base, tirx.const(-self.beta, dtype))


def response_of(function: tirx.PrimFunc) -> LocalResponse | None:
    """What a function of ours normalizes by, if it does."""
    attributes = function.attrs or {}
    if str(attributes.get(OPERATOR, "")) != NAME:
        return None
    alpha, beta, bias = (float(attributes[name]) for name in ("alpha", "beta", "bias"))
    return LocalResponse(size=int(attributes["size"]), alpha=alpha, beta=beta, bias=bias)


def last_function(response: LocalResponse, shape: tuple[int, ...], dtype: str) -> tirx.PrimFunc:
    """The function for channels on the last axis."""
    x = te.placeholder([tirx.const(extent, INDEX) for extent in shape], dtype, "x")
    return te.create_prim_func([x, response.last(x)])
