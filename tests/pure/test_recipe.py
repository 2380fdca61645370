"""Recipes: later rules win, and every slip is one sentence that says what is allowed."""

import os
from pathlib import Path

import pytest

from lowprec.errors import LowprecError, Unsupported, UsageError
from lowprec.recipe import Recipe, Rule
from tests.pure.test_files import full_disk


def test_later_rules_win_and_unset_fields_fall_through() -> None:
    recipe = Recipe(rules=(Rule(op="Conv", algorithm="direct", weights="fp32"), Rule(layer="stem*", algorithm="auto")))
    assert recipe.setting("algorithm", "stem.0", "Conv") == "auto"
    assert recipe.setting("weights", "stem.0", "Conv") == "fp32"
    assert recipe.setting("algorithm", "body", "Conv") == "direct"
    assert recipe.setting("algorithm", "head", "Gemm") is None


def test_layer_and_op_must_both_match() -> None:
    rule = Rule(layer="a*", op="Conv")
    assert rule.matches("ab", "Conv")
    assert not rule.matches("ab", "Gemm")
    assert not rule.matches("b", "Conv")


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[[rule]]\nlayer = "conv1"\nalgorithm = "direct"\n[[rule]]\nop = "Gemm"\nweights = "fp32"\n')
    recipe = Recipe.load(path)
    assert recipe == Recipe(rules=(Rule(layer="conv1", algorithm="direct"), Rule(op="Gemm", weights="fp32")))
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("[[rule]]\nalgorithm = 'direct'", UsageError, "names no layers"),
        ("[[rule]]\nop = 'Conv'\nweight = 'fp32'", UsageError, r"unknown key 'weight' \(did you mean 'weights'\?\)"),
        ("[[rules]]\nop = 'Conv'", UsageError, r"unknown key 'rules' \(did you mean 'rule'\?\)"),
        ("rule = 3", UsageError, r"rules are a int: write them as \[\[rule\]\] tables"),
        ("rule = [3]", UsageError, r"rule is a int: write it as a \[\[rule\]\] table"),
        ("[[rule]]\nop = 'Conv'\nweights = 8", UsageError, "weights is 8: write it as a string"),
        ("[[rule", UsageError, "cannot be read as TOML"),
        ("[[rule]]\nop = 'Conv'\nalgorithm = 'strassen'", Unsupported, "algorithm 'strassen' is not built yet"),
        ("[[rule]]\nop = 'Conv'\nalgorithm = 'winograd:5'", UsageError, r"'winograd:5' \(did you mean 'winograd:\d'"),
        ("[[rule]]\nop = 'Conv'\ngradients = 'q2.14'", Unsupported, "precision 'q2.14' is not built yet"),
        ("[[rule]]\nop = 'Conv'\nrounding = 'up'", UsageError, "unknown rounding 'up': allowed is nearest, stochastic"),
        (
            "[[rule]]\nop = 'Conv'\nscale = 'channel'",
            Unsupported,
            "scale 'channel' is not built yet: use one of none, m",
        ),
        ("[[rule]]\nop = 'Conv'\nweights = 'int9'", UsageError, r"unknown precision 'int9' \(did you mean 'int8'"),
    ],
)
def test_refusals(tmp_path: Path, text: str, kind: type[LowprecError], sentence: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(kind, match=sentence):
        Recipe.load(path)


def test_a_recipe_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, old, new = tmp_path / "r.toml", Recipe(rules=(Rule(op="Conv", weights="fp32"),)), Recipe()
    old.save(path)
    assert Recipe.load(path) == old
    with pytest.raises(UsageError, match=r"^recipe '.*/none/r.toml' cannot be written \(No such file.*give another"):
        old.save(tmp_path / "none" / "r.toml")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UsageError, match=r"^recipe '.*' cannot be written \(No space left on device\): give another"):
        new.save(path)
    assert Recipe.load(path) == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        Recipe.load(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        Recipe.load(tmp_path)
