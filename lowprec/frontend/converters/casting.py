"""Types, choices and tensors made from numbers."""

import math
from typing import Any

import numpy as np
from tvm import relax, te

from lowprec.frontend.converters.site import Converter, Expr, Site, constant


def convert_cast(site: Site) -> Expr:
    """To the output's type; to bool is a comparison, as a cast would look at one bit."""
    wanted = site.out().dtype
    if wanted == site.dtype():
        return site.input(0)
    if wanted == "bool":
        return relax.op.not_equal(site.input(0), constant(0, site.dtype()))
    return relax.op.astype(site.input(0), wanted)


def convert_where(site: Site) -> Expr:
    return relax.op.where(site.input(0), site.input(1), site.input(2))


def convert_shape(site: Site) -> Expr:
    shape = np.array(site.shape(), np.int64)
    return constant(shape[slice(site.attribute("start", 0), site.attribute("end"))], "int64")


def convert_size(site: Site) -> Expr:
    return constant(math.prod(site.shape()), "int64")


def convert_constant_of_shape(site: Site) -> Expr:
    value = site.attribute("value")
    number = 0 if value is None else np.asarray(value).reshape(-1)[0].item()
    return constant(np.full(site.out().shape, number), site.out().dtype)


def convert_eye_like(site: Site) -> Expr:
    rows, columns = site.out().shape
    return constant(np.eye(rows, columns, site.integer("k", 0)), site.out().dtype)


def convert_range(site: Site) -> Expr:
    """start + i * delta; narrow floats count in float32, as ONNX's definition does."""
    dtype = site.out().dtype
    kind = "float32" if dtype in ("float16", "bfloat16") else dtype

    def compute(start: te.Tensor, delta: te.Tensor) -> te.Tensor:
        def element(i: Any) -> Any:
            return (start().astype(kind) + i.astype(kind) * delta().astype(kind)).astype(dtype)

        return te.compute(site.out().shape, element, name="range")

    ends = [
        site.emit(relax.op.reshape(site.input(index), ())) if site.shape(index) else site.input(index)
        for index in (0, 2)
    ]
    return site.te(compute, *ends)


CONVERTERS: dict[str, Converter] = {
    "Cast": convert_cast,
    "CastLike": convert_cast,
    "ConstantOfShape": convert_constant_of_shape,
    "EyeLike": convert_eye_like,
    "Range": convert_range,
    "Shape": convert_shape,
    "Size": convert_size,
    "Where": convert_where,
}
