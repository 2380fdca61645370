"""The formats that layers can have, by name, and what goes with them: known without a model."""

from lowprec.recipe import Recipe

FLOAT = "fp32"
INT8 = "int8"
NARROW_FLOATS = ("bf16", "fp16")
BINARY = "binary"
BINARY_WEIGHTS = "binary weights"
"""Signs and a factor, with activations in float32."""
AUTO = "auto"
UNROUNDED = frozenset((FLOAT, BINARY, BINARY_WEIGHTS))
"""Formats in which no number is rounded."""


def base_of(precision: str) -> str:
    """What layers have that no recipe speaks of; what `auto` finds is a recipe."""
    return FLOAT if precision == AUTO else precision


def formats_in(precision: str, recipe: Recipe | None) -> frozenset[str]:
    """The formats that layers may have."""
    rules = () if recipe is None else recipe.rules
    own = {name for rule in rules for name in (rule.weights, rule.activations) if name is not None}
    return frozenset(own | {base_of(precision)})


def takes_ranges(fmt: str) -> bool:
    """Whether a format is of integers, whose scales depend on samples."""
    return fmt not in UNROUNDED.union(NARROW_FLOATS)
