"""The names a user may type for a choice: those built, those promised and not built yet, and the nearest to a slip.

One `Vocabulary` a kind of choice, so that the command line, the Python call and a recipe refuse the same names in the
same words: a name not built yet is `Unsupported` (exit 4), a name nobody knows is `UsageError` (exit 2).
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from lowprec.errors import Unsupported, UsageError


def suggestion(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """One kind of choice: `built` names, `planned` names, and patterns for families such as q2.14, which lists show as
    `family`."""

    kind: str
    built: tuple[str, ...]
    planned: tuple[str, ...] = ()
    planned_pattern: str = r"(?!)"
    built_pattern: str = r"(?!)"
    family: str = ""

    def is_planned(self, name: str) -> bool:
        return name in self.planned or re.fullmatch(self.planned_pattern, name) is not None

    @property
    def listed(self) -> str:
        """What is built, for people."""
        return ", ".join((*self.built, self.family) if self.family else self.built)

    def check(self, name: object) -> str:
        """The name itself when it is built; refused by name otherwise."""
        if isinstance(name, str) and (name in self.built or re.fullmatch(self.built_pattern, name)):
            return name
        allowed = self.listed
        if not isinstance(name, str):
            raise UsageError(f"{self.kind} is given as {type(name).__name__}: give a name, one of {allowed}")
        if self.is_planned(name):
            raise Unsupported(f"{self.kind} {name!r} is not built yet: use one of {allowed}")
        hint = suggestion(name, (*self.built, *self.planned))
        raise UsageError(f"unknown {self.kind} {name!r}{hint}: allowed is {allowed}")


PRECISIONS = Vocabulary(
    kind="precision",
    built=("fp32", "bf16", "fp16", "int8", "binary", "auto"),
    built_pattern=r"q[1-9]\d*\.\d+",
    family="qI.F",
)
OWN_PRECISIONS = Vocabulary(
    kind="precision",
    built=("fp32", "bf16", "fp16", "int8", "binary"),
    built_pattern=PRECISIONS.built_pattern,
    family="qI.F",
)
"""Of one layer's weights and activations, in a recipe."""
TRAINED_PRECISIONS = Vocabulary(
    kind="precision",
    built=("fp32",),
    planned=("bf16", "fp16", "int8", "binary"),
    planned_pattern=PRECISIONS.built_pattern,
)
"""Of one layer's gradients and updates."""
NEAREST, STOCHASTIC = "nearest", "stochastic"
ROUNDINGS = Vocabulary(kind="rounding", built=(NEAREST, STOCHASTIC))
ALGORITHMS = Vocabulary(
    kind="algorithm",
    built=("auto", "direct", "im2col", "winograd", "winograd:2", "winograd:3", "winograd:4", "winograd:6", "fft"),
    planned=("strassen", "split"),
)
LITERAL = "none"
SCALES = Vocabulary(
    kind="scale", built=(LITERAL, "minmax", "percentile", "mse", "entropy"), planned=("tensor", "channel")
)
"""`none`: values are what their words say, whatever was seen; the others say how what was seen becomes a range."""
PEERS = Vocabulary(kind="engine", built=("onnxruntime", "openvino"), planned=("torch",))
