"""The converters, one family of operators a file; `CONVERTERS` is the whole table."""

from lowprec.frontend.converters import (
    activations,
    convolution,
    elementwise,
    linear,
    normalization,
    pooling,
    shaping,
)
from lowprec.frontend.converters.site import Converter

FAMILIES = (
    convolution,
    pooling,
    linear,
    normalization,
    activations,
    elementwise,
    shaping,
)

CONVERTERS: dict[str, Converter] = {op: convert for family in FAMILIES for op, convert in family.CONVERTERS.items()}
