"""Activations: one Relax operator where it has one, else arithmetic that vectorizes (no branches, no `pow`)."""

import math
from typing import Any

import numpy as np
from tvm import relax

from lowprec.frontend.converters.site import Converter, Expr, Site, constant


def like(site: Site, value: float) -> Expr:
    """A rank-0 constant of the first input's type."""
    return constant(value, site.dtype())


def parts(site: Site) -> tuple[Expr, Expr]:
    """max(x, 0) and min(x, 0): what piecewise activations are sums of."""
    data, zero = site.input(0), like(site, 0)
    return site.emit(relax.op.maximum(data, zero)), site.emit(relax.op.minimum(data, zero))


def scaled_exponential(site: Site, alpha: float, inner: float = 1, gamma: float = 1) -> Expr:
    """gamma * (max(x, 0) + alpha * (exp(min(x, 0) * inner) - 1)): Elu, Selu and Celu."""
    above, below = parts(site)
    if inner != 1:
        below = site.emit(relax.op.multiply(below, like(site, inner)))
    below = site.emit(relax.op.subtract(site.emit(relax.op.exp(below)), like(site, 1)))
    below = site.emit(relax.op.multiply(below, like(site, alpha * gamma)))
    if gamma != 1:
        above = site.emit(relax.op.multiply(above, like(site, gamma)))
    return relax.op.add(above, below)


def convert_elu(site: Site) -> Expr:
    return scaled_exponential(site, site.number("alpha", 1))


def convert_selu(site: Site) -> Expr:
    alpha = site.number("alpha", 1.67326319217681884765625)
    return scaled_exponential(site, alpha, gamma=site.number("gamma", 1.05070102214813232421875))


def convert_celu(site: Site) -> Expr:
    alpha = site.number("alpha", 1)
    return scaled_exponential(site, alpha, inner=1 / alpha)


def convert_prelu(site: Site) -> Expr:
    above, below = parts(site)
    return relax.op.add(above, site.emit(relax.op.multiply(below, site.input(1))))


def convert_leaky_relu(site: Site) -> Expr:
    return relax.op.nn.leakyrelu(site.input(0), site.number("alpha", 0.01))


def convert_gelu(site: Site) -> Expr:
    tanh = site.text("approximate", "none") == "tanh"
    return (relax.op.nn.gelu_tanh if tanh else relax.op.nn.gelu)(site.input(0))


def softplus(site: Site) -> Expr:
    """max(x, 0) + log(1 + e) with e = exp(-|x|): no overflow, no threshold.

    u = 1 + e rounds e away; log(u) * e / (u - 1) brings its digits back (Kahan's log1p).
    """
    above, _ = parts(site)
    one = like(site, 1)
    e = site.emit(relax.op.exp(site.emit(relax.op.negative(site.emit(relax.op.abs(site.input(0)))))))
    u = site.emit(relax.op.add(e, one))
    lost = site.emit(relax.op.equal(u, one))
    rest = site.emit(relax.op.where(lost, one, site.emit(relax.op.subtract(u, one))))
    log = site.emit(relax.op.multiply(site.emit(relax.op.log(u)), site.emit(relax.op.divide(e, rest))))
    return relax.op.add(above, site.emit(relax.op.where(lost, e, log)))


def convert_mish(site: Site) -> Expr:
    """x * tanh(log(1 + w)) = x * n / (n + 2) with w = exp(x), n = w * (w + 2); from x = 20 on the factor is 1."""
    w = site.emit(relax.op.exp(site.emit(relax.op.minimum(site.input(0), like(site, 20)))))
    n = site.emit(relax.op.multiply(w, site.emit(relax.op.add(w, like(site, 2)))))
    factor = site.emit(relax.op.divide(n, site.emit(relax.op.add(n, like(site, 2)))))
    return relax.op.multiply(site.input(0), factor)


def convert_swish(site: Site) -> Expr:
    alpha = site.number("alpha", 1)
    if alpha == 1:
        return relax.op.nn.silu(site.input(0))
    inner = site.emit(relax.op.multiply(site.input(0), like(site, alpha)))
    return relax.op.multiply(site.input(0), site.emit(relax.op.sigmoid(inner)))


def hard_sigmoid(site: Site, alpha: float, beta: float) -> Expr:
    line = site.emit(relax.op.multiply(site.input(0), like(site, alpha)))
    return relax.op.clip(site.emit(relax.op.add(line, like(site, beta))), 0, 1)


def convert_hard_sigmoid(site: Site) -> Expr:
    return hard_sigmoid(site, site.number("alpha", 0.2), site.number("beta", 0.5))


def convert_hard_swish(site: Site) -> Expr:
    return relax.op.multiply(site.input(0), site.emit(hard_sigmoid(site, 1 / 6, 0.5)))


def convert_softsign(site: Site) -> Expr:
    magnitude = site.emit(relax.op.abs(site.input(0)))
    return relax.op.divide(site.input(0), site.emit(relax.op.add(magnitude, like(site, 1))))


def convert_thresholded_relu(site: Site) -> Expr:
    above = site.emit(relax.op.greater(site.input(0), like(site, site.number("alpha", 1))))
    return relax.op.where(above, site.input(0), like(site, 0))


def convert_shrink(site: Site) -> Expr:
    """x + bias below -lambd, x - bias above lambd, 0 between; decided in float, as lambd is."""
    limit, bias = site.number("lambd", 0.5), site.number("bias", 0)
    data, wide = site.input(0), site.input(0)
    if not site.dtype().startswith("float"):
        wide = site.emit(relax.op.astype(data, "float32"))
    kind = site.dtype() if site.dtype().startswith("float") else "float32"
    low = site.emit(relax.op.less(wide, constant(-limit, kind)))
    high = site.emit(relax.op.greater(wide, constant(limit, kind)))
    down = site.emit(relax.op.subtract(wide, constant(bias, kind)))
    up = site.emit(relax.op.add(wide, constant(bias, kind)))
    upper = site.emit(relax.op.where(high, down, constant(0, kind)))
    result = relax.op.where(low, up, upper)
    return result if kind == site.dtype() else relax.op.astype(site.emit(result), site.dtype())


def bound(site: Site, index: int, name: str) -> Any:
    """A limit of Clip: None, a number where it is known, else the run-time scalar."""
    if site.attribute(name) is not None:
        return site.number(name, 0)
    if not site.has(index):
        return None
    known = site.known(index)
    return known.reshape(-1)[0].item() if known is not None else site.input(index)


def convert_clip(site: Site) -> Expr:
    """min(max(x, low), high): where low > high everything becomes high, which `relax.clip` would turn round."""
    low, high = bound(site, 1, "min"), bound(site, 2, "max")
    data = site.input(0)
    numbers = all(isinstance(value, float) for value in (low, high))
    if numbers and low <= high and math.isfinite(low) and math.isfinite(high):
        return relax.op.clip(data, low, high)
    if low is None and high is None:
        return data
    if low is not None:
        data = site.emit(relax.op.maximum(data, low if isinstance(low, relax.Expr) else like(site, low)))
    if high is None:
        return data
    return relax.op.minimum(data, high if isinstance(high, relax.Expr) else like(site, high))


def flattened(site: Site, axis: int) -> tuple[int, ...]:
    """The two axes that opset 12 and before coerce the input to."""
    shape = site.shape()
    return math.prod(shape[:axis]), math.prod(shape[axis:])


def along(site: Site, data: Expr, axis: int, kind: str) -> Expr:
    if kind != "hard":
        return (relax.op.nn.softmax if kind == "soft" else relax.op.nn.log_softmax)(data, axis)
    shape = [int(n) for n in data.ty.shape]
    places = constant(np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))]), "int64")
    best = site.emit(relax.op.argmax(data, axis, keepdims=True))
    return relax.op.astype(site.emit(relax.op.equal(places, best)), site.dtype())


def softmax_of(kind: str) -> Converter:
    """Softmax, LogSoftmax or Hardmax: along one axis since opset 13, over all axes from it before."""

    def convert(site: Site) -> Expr:
        coerces = site.node.version < 13
        axis = site.axis("axis", 1 if coerces else -1)
        if not coerces or math.prod(site.shape()[axis + 1 :]) == 1:
            return along(site, site.input(0), axis, kind)
        matrix = site.emit(relax.op.reshape(site.input(0), flattened(site, axis)))
        return relax.op.reshape(site.emit(along(site, matrix, 1, kind)), site.shape())

    return convert


CONVERTERS: dict[str, Converter] = {
    "Celu": convert_celu,
    "Clip": convert_clip,
    "Elu": convert_elu,
    "Gelu": convert_gelu,
    "HardSigmoid": convert_hard_sigmoid,
    "HardSwish": convert_hard_swish,
    "Hardmax": softmax_of("hard"),
    "LeakyRelu": convert_leaky_relu,
    "LogSoftmax": softmax_of("log"),
    "Mish": convert_mish,
    "PRelu": convert_prelu,
    "Relu": lambda site: relax.op.nn.relu(site.input(0)),
    "Selu": convert_selu,
    "Shrink": convert_shrink,
    "Sigmoid": lambda site: relax.op.sigmoid(site.input(0)),
    "Softmax": softmax_of("soft"),
    "Softplus": softplus,
    "Softsign": convert_softsign,
    "Swish": convert_swish,
    "Tanh": lambda site: relax.op.tanh(site.input(0)),
    "ThresholdedRelu": convert_thresholded_relu,
}
