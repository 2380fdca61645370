"""What a user wishes, layer by layer: a recipe is an ordered list of rules, and later rules win.

The same recipe drives the compiler and training. A rule names layers by a glob (`layer`) or by operator (`op`) and sets
any of `SETTINGS`; what it leaves out stays as the call or an earlier rule has it.
"""

import fnmatch
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from lowprec import files
from lowprec.errors import UsageError
from lowprec.vocabulary import (
    ALGORITHMS,
    OWN_PRECISIONS,
    ROUNDINGS,
    SCALES,
    TRAINED_PRECISIONS,
    Vocabulary,
    suggestion,
)

SETTINGS: Final[dict[str, Vocabulary]] = {
    "weights": OWN_PRECISIONS,
    "activations": OWN_PRECISIONS,
    "gradients": TRAINED_PRECISIONS,
    "updates": TRAINED_PRECISIONS,
    "rounding": ROUNDINGS,
    "algorithm": ALGORITHMS,
    "scale": SCALES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Settings for every layer that `layer` (a glob) and `op` both match; one of the two may be left out."""

    layer: str | None = None
    op: str | None = None
    weights: str | None = None
    activations: str | None = None
    gradients: str | None = None
    updates: str | None = None
    rounding: str | None = None
    algorithm: str | None = None
    scale: str | None = None

    def __post_init__(self) -> None:
        if self.layer is None and self.op is None:
            raise UsageError("a recipe's rule names no layers: give it `layer` (a glob) or `op`")
        for name, vocabulary in SETTINGS.items():
            value = getattr(self, name)
            if value is not None:
                vocabulary.check(value)

    def matches(self, layer: str, op: str) -> bool:
        named = self.layer is None or fnmatch.fnmatchcase(layer, self.layer)
        return named and (self.op is None or self.op == op)

    def to_json(self) -> dict[str, str]:
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Rules in order; for each setting of a layer the last rule that matches and sets it wins."""

    rules: tuple[Rule, ...] = ()

    def setting(self, name: str, layer: str, op: str) -> str | None:
        """The value that wins for one setting of one layer, or None where no rule sets it."""
        assert name in SETTINGS, name
        values = (getattr(rule, name) for rule in reversed(self.rules) if rule.matches(layer, op))
        return next((value for value in values if value is not None), None)

    def to_json(self) -> list[dict[str, str]]:
        return [rule.to_json() for rule in self.rules]

    def to_toml(self) -> str:
        """As `load` reads it."""
        rules = ("".join(f"{name} = {json.dumps(value)}\n" for name, value in rule.items()) for rule in self.to_json())
        return "\n".join(f"[[rule]]\n{rule}" for rule in rules)

    def save(self, path: str | Path) -> None:
        """Write `to_toml`, all of it or nothing."""
        try:
            files.place(Path(path), self.to_toml().encode())
        except OSError as error:
            raise UsageError(f"recipe {str(path)!r} cannot be written ({error.strerror}): give another place") from None

    @classmethod
    def from_json(cls, rules: object) -> "Recipe":
        if not isinstance(rules, list):
            raise UsageError(f"a recipe's rules are a {type(rules).__name__}: write them as [[rule]] tables")
        return cls(rules=tuple(_rule(entry) for entry in rules))

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """A TOML file of [[rule]] tables."""
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"recipe {str(path)!r} does not exist: give the path of a TOML file") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"recipe {str(path)!r} cannot be read as TOML: {error}") from error
        _refuse_unknown(document, ("rule",), where=f"recipe {str(path)!r}")
        return cls.from_json(document.get("rule", []))


def _rule(entry: object) -> Rule:
    if not isinstance(entry, Mapping):
        raise UsageError(f"a recipe's rule is a {type(entry).__name__}: write it as a [[rule]] table")
    _refuse_unknown(entry, [field.name for field in fields(Rule)], where="a recipe's rule")
    for key, value in entry.items():
        if not isinstance(value, str):
            raise UsageError(f"a recipe's {key} is {value!r}: write it as a string")
    return Rule(**entry)


def _refuse_unknown(table: Mapping[str, object], known: list[str] | tuple[str, ...], *, where: str) -> None:
    for key in table:
        if key not in known:
            hint = suggestion(key, known)
            raise UsageError(f"{where} has an unknown key {key!r}{hint}: allowed are {', '.join(known)}")
