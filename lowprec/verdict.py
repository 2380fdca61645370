"""What verification found, as values: bounds, each tensor's distance from its reference, and the report of all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowprec.comparison import Errors
from lowprec.exactness import Agreement, percent, share_text, summary
from lowprec.references import ORACLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What is still right: `relative` errors at most `limit`, or `sqnr_db` at least `limit`."""

    measure: str
    limit: float

    def holds(self, errors: Errors) -> bool:
        if self.measure == "relative":
            return errors.relative <= self.limit
        return errors.sqnr_db >= self.limit

    def smallest(self, all_errors: Sequence[Errors]) -> float:
        """The tightest limit that all of these would pass."""
        if self.measure == "relative":
            return max((errors.relative for errors in all_errors), default=0.0)
        return min((errors.sqnr_db for errors in all_errors), default=math.inf)

    def __str__(self) -> str:
        if self.limit == -math.inf:
            return "what the oracle promises"
        return f"relative error <= {self.limit:g}" if self.measure == "relative" else f"SQNR >= {self.limit:g} dB"


ORACLE_ALONE = Bound(measure="sqnr_db", limit=-math.inf)
"""Of precisions whose distance from the model says nothing of how right they are."""

BOUNDS = {
    "fp32": Bound(measure="relative", limit=1e-4),
    "fp16": Bound(measure="sqnr_db", limit=45.0),
    "bf16": Bound(measure="sqnr_db", limit=30.0),
    "int8": Bound(measure="sqnr_db", limit=15.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorErrors:
    """One tensor's distance from its reference; for a layer, `name` is the layer's and `tensor` what was compared.
    `agreement` is with the oracle, where that knows the tensor; to pass, both must hold."""

    name: str
    tensor: str
    errors: Errors
    passed: bool
    agreement: Agreement | None = None

    def to_json(self) -> dict[str, object]:
        beside = {} if self.agreement is None else self.agreement.to_json()
        return {"name": self.name, "tensor": self.tensor, "passed": self.passed} | self.errors.to_json() | beside


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`outputs` and `layers` are against `reference`, `second_outputs` against `second`; `notes`: what was left out.
    `agreements` with the oracle are by layer, of all tensors that it knows: none where nothing is made of integers."""

    passed: bool
    bound: Bound
    smallest_bound: float
    reference: str
    outputs: tuple[TensorErrors, ...]
    layers: tuple[TensorErrors, ...]
    first_bad: str | None
    second: str | None = None
    second_outputs: tuple[TensorErrors, ...] = ()
    agreements: tuple[tuple[str, Agreement], ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {
            "passed": self.passed,
            "bound": {
                "measure": self.bound.measure,
                "limit": self.bound.limit if math.isfinite(self.bound.limit) else None,
            },
            "smallest_bound": self.smallest_bound if math.isfinite(self.smallest_bound) else None,
            "reference": self.reference,
            "outputs": [entry.to_json() for entry in self.outputs],
            "layers": [entry.to_json() for entry in self.layers],
            "first_bad": self.first_bad,
            "second": {"reference": self.second, "outputs": [entry.to_json() for entry in self.second_outputs]},
            "oracle": _counts(self.agreements),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        lines = [f"{verdict}: {self.bound}; the smallest bound that passes is {self.smallest_bound:.3g}"]
        if self.agreements:
            lines.append(f"{ORACLE}: {summary(self.agreements)}")
        worst = sorted(self.layers, key=lambda entry: entry.errors.sqnr_db)[:5]
        groups = [
            (f"output, against {self.reference}", self.outputs),
            (f"output, against {self.second}", self.second_outputs),
            (f"inside, the worst {len(worst)} of {len(self.layers)}", worst),
        ]
        lines += _tables([(title, entries) for title, entries in groups if entries])
        if self.layers:
            lines.append(f"first layer that goes bad: {self.first_bad or 'none'}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _tables(groups: Sequence[tuple[str, Sequence[TensorErrors]]]) -> list[str]:
    """Groups under one another, their columns in line."""
    width = max(len(text) for title, entries in groups for text in (title, *(entry.name for entry in entries)))
    lines = []
    for title, entries in groups:
        beside = f"{'exact':>9}{'at ends':>9}" if any(entry.agreement for entry in entries) else ""
        lines.append(f"{title:<{width}}{'max abs':>11}{'relative':>11}{'cosine':>11}{'SQNR dB':>9}{beside}")
        lines += [_line(entry, width) for entry in entries]
    return lines


def _line(entry: TensorErrors, width: int) -> str:
    errors = entry.errors
    numbers = f"{errors.max_abs:>11.2e}{errors.relative:>11.2e}{errors.cosine:>11.7f}{errors.sqnr_db:>9.1f}"
    wrong = "" if entry.passed else "  not the oracle's" if _differs(entry) else "  outside the bound"
    return f"{entry.name:<{width}}{numbers}{_beside(entry.agreement)}{wrong}".rstrip()


def _differs(entry: TensorErrors) -> bool:
    return entry.agreement is not None and not entry.agreement.passed


def _beside(agreement: Agreement | None) -> str:
    """How it agrees with the oracle, and how often it is at an end of its range."""
    if agreement is None:
        return ""
    return f"{share_text(agreement):>9}{'' if agreement.saturated is None else percent(agreement.saturated):>9}"


def _counts(agreements: Sequence[tuple[str, Agreement]]) -> dict[str, object] | None:
    if not agreements:
        return None
    promised = [entry for _, entry in agreements if entry.promised]
    first = next((layer for layer, entry in agreements if not entry.passed), None)
    equal = sum(entry.passed for entry in promised)
    return {"tensors": len(agreements), "promised": len(promised), "equal": equal, "first_unequal": first}
