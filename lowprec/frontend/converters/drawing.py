"""Stochastic rounding: see `lowprec.frontend.randomness`."""

from lowprec.frontend.converters.site import Converter, Expr, Site
from lowprec.frontend.randomness import RANDOM_WORDS, ROUND_BY_WORDS, key_in
from lowprec.passes.drawing import drawn, words

STEP = ""
"""What the step is known by: no tensor of a model has no name."""


def convert_words(site: Site) -> Expr:
    shape = site.out().shape
    return words(site.values[STEP], key_in(site.node.attributes), shape, range(len(shape)))


def convert_rounding(site: Site) -> Expr:
    kind = {"bf16": "bfloat16", "fp16": "float16"}[str(site.attribute("to"))]
    return drawn(site.input(0), site.input(1), kind)


CONVERTERS: dict[str, Converter] = {RANDOM_WORDS: convert_words, ROUND_BY_WORDS: convert_rounding}
