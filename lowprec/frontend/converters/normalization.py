"""Normalizations, as Relax's own operators where it has one."""

from dataclasses import asdict

import numpy as np
from tvm import relax

from lowprec.frontend.converters.convolution import per_channel
from lowprec.frontend.converters.site import Converter, Expr, Result, Site, constant
from lowprec.passes.local_response import NAME as LOCAL_RESPONSE
from lowprec.passes.local_response import LocalResponse


def scale_and_shift(site: Site, mean: Expr, variance: Expr, epsilon: float) -> Expr:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift over channels; the vectors broadcast already."""
    deviation = site.emit(relax.op.sqrt(site.emit(relax.op.add(variance, constant(epsilon, site.dtype(0))))))
    centred = site.emit(relax.op.subtract(site.input(0), mean))
    factor = site.emit(relax.op.divide(per_channel(site, 1), deviation))
    return relax.op.add(site.emit(relax.op.multiply(centred, factor)), per_channel(site, 2))


def folded_batch_norm(site: Site, epsilon: float) -> Expr | None:
    """One multiplication and one addition when all four vectors are constants; computed in double."""
    known = [site.known(index) for index in range(1, 5)]
    if any(value is None for value in known):
        return None
    scale, shift, mean, variance = (np.asarray(value, np.float64) for value in known)
    factor = scale / np.sqrt(variance + epsilon)
    shape = (1, -1, *(1,) * (site.rank() - 2))
    dtype = site.dtype()
    product = relax.op.multiply(site.input(0), constant(factor.reshape(shape), dtype))
    return relax.op.add(site.emit(product), constant((shift - mean * factor).reshape(shape), dtype))


def moments(site: Site, axes: list[int]) -> tuple[Expr, Expr]:
    """Mean and variance of the first input, kept broadcastable; two passes, so that a large mean costs no digits."""
    data = site.input(0)
    mean = site.emit(relax.op.mean(data, axes, keepdims=True))
    centred = site.emit(relax.op.subtract(data, mean))
    return mean, site.emit(relax.op.mean(site.emit(relax.op.multiply(centred, centred)), axes, keepdims=True))


def running(site: Site, index: int, current: Expr) -> Expr:
    """old * momentum + current * (1 - momentum), as a vector."""
    momentum = site.number("momentum", 0.9)
    dtype = site.dtype(index)
    kept = site.emit(relax.op.multiply(site.input(index), constant(momentum, dtype)))
    flat = site.emit(relax.op.reshape(current, site.shape(index)))
    return relax.op.add(kept, site.emit(relax.op.multiply(flat, constant(1 - momentum, dtype))))


def convert_batch_norm(site: Site) -> Result:
    epsilon = site.number("epsilon", 1e-5)
    if site.integer("training_mode", 0):
        axes = [0, *range(2, site.rank())]
        mean, variance = moments(site, axes)
        result = scale_and_shift(site, mean, variance, epsilon)
        return result, running(site, 3, mean), running(site, 4, variance)
    folded = folded_batch_norm(site, epsilon)
    if folded is not None:
        return folded
    return scale_and_shift(site, per_channel(site, 3), per_channel(site, 4), epsilon)


def convert_lrn(site: Site) -> Expr:
    response = LocalResponse(
        size=site.integer("size", 1),
        alpha=site.number("alpha", 1e-4),
        beta=site.number("beta", 0.75),
        bias=site.number("bias", 1.0),
    )
    return site.te(response.planar, site.input(0), op=LOCAL_RESPONSE, **asdict(response))


def convert_instance_norm(site: Site) -> Expr:
    """By its moments: Relax's own operator subtracts the mean's square from the mean square and loses all digits."""
    mean, variance = moments(site, list(range(2, site.rank())))
    return scale_and_shift(site, mean, variance, site.number("epsilon", 1e-5))


def spread_groups(site: Site, index: int, groups: int) -> Expr:
    """Scale or shift as a tensor that broadcasts: per channel from opset 21 on, per group before."""
    channels = site.shape()[1]
    if site.shape(index)[0] == channels:
        return per_channel(site, index)
    shape = (1, channels, *(1,) * (site.rank() - 2))
    known, repeats = site.known(index), channels // groups
    if known is not None:
        return constant(np.repeat(known, repeats).reshape(shape))
    return site.emit(relax.op.reshape(site.emit(relax.op.repeat(site.input(index), repeats, 0)), shape))


def convert_group_norm(site: Site) -> Expr:
    """Moments over each group's channels and places together, by way of a reshape."""
    groups, epsilon = site.integer("num_groups", 1), site.number("epsilon", 1e-5)
    grouped = site.emit(relax.op.reshape(site.input(0), (site.shape()[0], groups, -1)))
    mean = site.emit(relax.op.mean(grouped, [2], keepdims=True))
    centred = site.emit(relax.op.subtract(grouped, mean))
    variance = site.emit(relax.op.mean(site.emit(relax.op.multiply(centred, centred)), [2], keepdims=True))
    deviation = site.emit(relax.op.sqrt(site.emit(relax.op.add(variance, constant(epsilon, site.dtype())))))
    whole = site.emit(relax.op.reshape(site.emit(relax.op.divide(centred, deviation)), site.shape()))
    scaled = site.emit(relax.op.multiply(whole, spread_groups(site, 1, groups)))
    return relax.op.add(scaled, spread_groups(site, 2, groups))


def neutral(site: Site, index: int, shape: tuple[int, ...], value: float) -> Expr:
    """The input, or what changes nothing where it is absent; spread to the normalized shape."""
    if not site.has(index):
        return constant(np.full(shape, value), site.dtype())
    known = site.known(index)
    if known is not None:
        return constant(np.broadcast_to(known, shape))
    return (
        site.input(index) if site.shape(index) == shape else site.emit(relax.op.broadcast_to(site.input(index), shape))
    )


def convert_layer_norm(site: Site) -> Result:
    axis, epsilon = site.axis("axis", -1), site.number("epsilon", 1e-5)
    axes = list(range(axis, site.rank()))
    shape = site.shape()[axis:]
    result = relax.op.nn.layer_norm(
        site.input(0), neutral(site, 1, shape, 1), neutral(site, 2, shape, 0), axes, epsilon
    )
    if not (site.wants(1) or site.wants(2)):
        return result
    mean, variance = moments(site, axes)
    deviation = site.emit(relax.op.sqrt(site.emit(relax.op.add(variance, constant(epsilon, site.dtype())))))
    return result, mean, relax.op.divide(constant(1, site.dtype()), deviation)


def convert_rms_norm(site: Site) -> Expr:
    """x / sqrt(mean(x * x) + epsilon) * scale. Relax's own operator fails when every axis is normalized."""
    data, axes = site.input(0), list(range(site.axis("axis", -1), site.rank()))
    mean = site.emit(relax.op.mean(site.emit(relax.op.multiply(data, data)), axes, keepdims=True))
    root = site.emit(relax.op.sqrt(site.emit(relax.op.add(mean, constant(site.number("epsilon", 1e-5), site.dtype())))))
    return relax.op.multiply(site.emit(relax.op.divide(data, root)), site.input(1))


def convert_mean_variance(site: Site) -> Expr:
    axes = [axis % site.rank() for axis in site.integers("axes", (0, 2, 3))]
    mean, variance = moments(site, axes)
    deviation = site.emit(relax.op.add(site.emit(relax.op.sqrt(variance)), constant(1e-9, site.dtype())))
    return relax.op.divide(site.emit(relax.op.subtract(site.input(0), mean)), deviation)


def convert_lp_normalization(site: Site) -> Expr:
    """x over its norm along one axis; a zero norm gives zeros."""
    axis, data = site.axis("axis", -1), site.input(0)
    magnitude = site.emit(relax.op.abs(data))
    zero, one = constant(0, site.dtype()), constant(1, site.dtype())
    if site.integer("p", 2) == 1:
        norm = site.emit(relax.op.sum(magnitude, [axis], keepdims=True))
    else:
        squares = site.emit(relax.op.multiply(data, data))
        norm = site.emit(relax.op.sqrt(site.emit(relax.op.sum(squares, [axis], keepdims=True))))
    safe = site.emit(relax.op.where(site.emit(relax.op.equal(norm, zero)), one, norm))
    return relax.op.divide(data, safe)


CONVERTERS: dict[str, Converter] = {
    "BatchNormalization": convert_batch_norm,
    "GroupNormalization": convert_group_norm,
    "InstanceNormalization": convert_instance_norm,
    "LayerNormalization": convert_layer_norm,
    "LpNormalization": convert_lp_normalization,
    "LRN": convert_lrn,
    "MeanVarianceNormalization": convert_mean_variance,
    "RMSNormalization": convert_rms_norm,
}
