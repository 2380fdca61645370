"""The converters, one family of operators a file; `CONVERTERS` is the whole table."""

from lowprec.frontend.converters import (
    activations,
    casting,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    ordering,
    padding,
    pooling,
    quantization,
    reductions,
    resizing,
    sampling,
    shaping,
)
from lowprec.frontend.converters.site import Converter

FAMILIES = (
    convolution,
    pooling,
    reductions,
    linear,
    normalization,
    padding,
    activations,
    casting,
    elementwise,
    indexing,
    ordering,
    quantization,
    resizing,
    sampling,
    shaping,
)

CONVERTERS: dict[str, Converter] = {op: convert for family in FAMILIES for op, convert in family.CONVERTERS.items()}
