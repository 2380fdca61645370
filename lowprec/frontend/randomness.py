"""Stochastic rounding in a graph: two operators of our own, and an operand that ONNX's QuantizeLinear does not have.

    words = RandomWords()  key                     one for each element of a tensor: (9) and (10) of docs/numerics.md
    q = QuantizeLinear(x, scale, zero, words)      rounded by them instead of to nearest
    y = RoundByWords(x, words)  to                 to numbers of a narrower float format, as float32

The words of a call differ with its step, a number that comes from outside of the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowprec.formats import Format
from lowprec.frontend.graph import Array, Graph, Node
from lowprec.philox import key_of, random_bits
from lowprec.rounding import Rounding, round_to

DOMAIN = "lowprec"
RANDOM_WORDS, ROUND_BY_WORDS = "RandomWords", "RoundByWords"
WORDS_OF_QUANTIZE = 3
"""The operand of QuantizeLinear."""
PIECE = 1 << 22
"""Constants are rounded so many at a time: what is between takes several times their room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Which layers (and inputs) of a model round stochastically, and the seed."""

    seed: int = 0
    layers: frozenset[str] = frozenset()

    def seed_of(self, layer: str) -> int | None:
        """The seed, for a layer that draws."""
        return self.seed if layer in self.layers else None


NO_DRAWS = Draws()
"""All is rounded to nearest."""


def drawn(values: Array, fmt: Format, tensor: str, seed: int) -> NDArray[np.float32]:
    """A constant rounded once, by the words of its first step."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, PIECE):
        part = flat[start : start + PIECE]
        bits = random_bits(seed, tensor, part.size, start=start)
        result[start : start + PIECE] = round_to(part, fmt, Rounding.STOCHASTIC, bits=bits)
    return result.reshape(values.shape)


def random_words(tensor: str, name: str, seed: int, *, layer: str) -> Node:
    """The node that makes `name`, the words by which `tensor` is rounded."""
    return Node(
        op=RANDOM_WORDS,
        inputs=(),
        outputs=(name,),
        layer=layer,
        domain=DOMAIN,
        version=1,
        attributes={"key": key_of(seed, tensor)},
    )


def round_by_words(source: str, words: str, result: str, *, kind: str, layer: str) -> Node:
    """The node that makes `result`, numbers of a `kind` of float."""
    return Node(
        op=ROUND_BY_WORDS,
        inputs=(source, words),
        outputs=(result,),
        layer=layer,
        domain=DOMAIN,
        version=1,
        attributes={"to": kind},
    )


def is_drawing(node: Node, op: str) -> bool:
    """Whether a node is one of those above."""
    return node.domain == DOMAIN and node.op == op


def key_in(attributes: Mapping[str, object]) -> tuple[int, int]:
    """Of RandomWords."""
    key = attributes["key"]
    assert isinstance(key, tuple)
    first, second = key
    return int(first), int(second)


def draws(graph: Graph) -> bool:
    """Whether results depend on the step."""
    return any(is_drawing(node, RANDOM_WORDS) for node in graph.nodes)
