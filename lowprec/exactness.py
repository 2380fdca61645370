"""Does an artifact that computes with integers equal the oracle, bit for bit, and how much of its range does it use?

The oracle (`quantized_reference`) evaluates, in a child process, the quantized model that the artifact was compiled
from. What it promises must be equal; what depends on a float sum is compared with a tolerance, and reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowprec import references
from lowprec.comparison import compare
from lowprec.plan import Plan
from lowprec.references import ORACLE

Array = NDArray[np.generic]

NEAR = 1e-4
"""Of the largest magnitude: how far numbers that are not promised may be from the oracle's; codes may be a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """A tensor of kernels: the `tensor` of the quantized network that has its values, the model's own (`original`, ""
    where it has none), and whether every bit is promised. Where there are codes: their scale, zero point and type."""

    tensor: str
    original: str
    promised: bool
    scale: float = 0.0
    zero: int = 0
    dtype: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A tensor beside the oracle's. `exact` is the share of elements that are equal, `off` the largest difference, in
    steps for codes and as a share of the largest magnitude for numbers, `saturated` the share of codes at an end of
    their range (zero's own code apart), if there are any."""

    tensor: str
    promised: bool
    exact: float
    off: float
    near: bool
    saturated: float | None = None

    @property
    def passed(self) -> bool:
        """What is promised must be equal."""
        return self.exact == 1 or not self.promised

    def to_json(self) -> dict[str, object]:
        return {
            "exact": self.exact,
            "promised": self.promised,
            "off": self.off if np.isfinite(self.off) else None,
            "near": self.near,
            "saturated": self.saturated,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """The oracle's arrays by the quantized network's names, and the meanings of the artifact's tensors."""

    values: Mapping[str, Array]
    meanings: Mapping[str, Meaning]

    def agreement(self, name: str, found: Array) -> Agreement | None:
        """How a tensor of the artifact agrees, if the oracle knows it."""
        meaning = self.meanings.get(name)
        if meaning is None:
            return None
        wanted = self.values[meaning.tensor]
        codes = wanted.dtype == found.dtype and wanted.dtype.kind in "iu"
        return _agreement(wanted, found if codes else numbers(found, meaning), meaning, _codes(found, meaning))

    def original(self, name: str, found: Array) -> tuple[str, Array]:
        """The model's tensor that one of the artifact is, and its values in numbers; itself where nobody knows."""
        meaning = self.meanings.get(name)
        return (name, found) if meaning is None else (meaning.original, numbers(found, meaning))


def summary(agreements: Sequence[tuple[str, Agreement]]) -> str:
    """How all tensors agree, in a sentence; agreements are by layer."""
    promised = [(layer, entry) for layer, entry in agreements if entry.promised]
    wrong = [(layer, entry) for layer, entry in promised if not entry.passed]
    other = [entry for _, entry in agreements if not entry.promised]
    said = f"{len(promised) - len(wrong)} of {len(promised)} promised tensors are equal, bit for bit"
    if wrong:
        layer, entry = wrong[0]
        said += f"; the first that differs is {entry.tensor} of {layer}, {percent(entry.exact)} equal"
    if other:
        said += (
            f"; {len(other)} behind sums of floats are not promised (*), {sum(entry.near for entry in other)} are near"
        )
    return said


def percent(share: float) -> str:
    """100 % only where nothing is missing, 0 % only where nothing is there."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(max(100 * share, 0.01), 99.99):.2f}%"


def share_text(agreement: Agreement) -> str:
    """The share of equal elements; a star where equality is not promised."""
    return percent(agreement.exact) + ("" if agreement.promised else "*")


def computes_integers(plan: Plan) -> bool:
    """Whether some layer's sums are of integers."""
    return any(choice.formats.integers for choice in plan.choices)


def ask_oracle(model: Path, inputs: Mapping[str, Array], options: Mapping[str, Any], inner: Sequence[str]) -> Oracle:
    """The oracle for a model under an artifact's options; ReferenceFailed where it gives no answer."""
    values, facts = references.ask(ORACLE, model, inputs, {"options": dict(options), "inner": list(inner)})
    return Oracle(values=values, meanings={name: Meaning(**fact) for name, fact in facts.items()})


def numbers(found: Array, meaning: Meaning) -> Array:
    """What codes stand for: fp32(q - zero) * scale; numbers as they are."""
    if found.dtype.name != meaning.dtype:
        return found
    centred = np.subtract(found, meaning.zero, dtype=np.int32)
    return np.asarray(centred.astype(np.float32) * np.float32(meaning.scale))


def _agreement(wanted: Array, found: Array, meaning: Meaning, codes: Array | None) -> Agreement:
    counted = wanted.dtype.kind in "biu"
    equal = _equal(wanted, found)
    off = _steps(wanted, found) if counted else compare(wanted, found).relative
    return Agreement(
        tensor=meaning.tensor,
        promised=meaning.promised,
        exact=equal,
        off=off,
        near=off <= (1 if counted else NEAR),
        saturated=None if codes is None else _saturated(codes, meaning.zero),
    )


def _equal(wanted: Array, found: Array) -> float:
    """The share of equal elements: NaN equals NaN, and -0 is 0."""
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return 0.0
    same = wanted == found
    if wanted.dtype.kind == "f":
        same |= np.isnan(wanted) & np.isnan(found)
    return float(same.mean()) if same.size else 1.0


def _steps(wanted: Array, found: Array) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    return float(np.abs(wanted.astype(np.float64) - found.astype(np.float64)).max(initial=0))


def _codes(found: Array, meaning: Meaning) -> Array | None:
    """The codes of a tensor, or those that its numbers stand for."""
    if not meaning.dtype:
        return None
    if found.dtype.name == meaning.dtype:
        return found
    limits = np.iinfo(meaning.dtype)
    steps = np.rint(found.astype(np.float64) / meaning.scale) + meaning.zero
    codes: Array = np.clip(np.nan_to_num(steps), limits.min, limits.max).astype(meaning.dtype)
    return codes


def _saturated(codes: Array, zero: int) -> float:
    """The share of codes at an end of the range: a range that begins at zero ends there by right."""
    limits = np.iinfo(codes.dtype.name)
    ends = [end for end in (limits.min, limits.max) if end != zero]
    return float(np.isin(codes, ends).mean()) if codes.size else 0.0
