"""`precision="auto"`: bounds that are met, recipes that make the same artifact again, and what is refused."""

import math
from pathlib import Path
from typing import Any

import onnx
import pytest

import lowprec
from lowprec import Recipe
from lowprec.comparison import compare
from lowprec.errors import BuildFailed, Unsupported, UsageError
from lowprec.recipe import Rule
from lowprec.search_text import drawing, search_text
from lowprec.searching import escaped
from tests.tvm.test_mixed_formats import SAMPLES, images

LAYERS = {"a", "b", "c", "y"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auto") / "m.onnx"
    onnx.save(images(), path)
    return path


def formats_of(art: lowprec.Artifact) -> dict[str, str]:
    return {layer: art.plan.choice(layer).formats.weights for layer in LAYERS}


@pytest.fixture(scope="module")
def found(model: Path) -> lowprec.Artifact:
    return lowprec.compile(model, precision="auto", min_sqnr=40.0, calibration=SAMPLES)


def test_the_bound_is_met_on_samples(model: Path, found: lowprec.Artifact) -> None:
    exact = lowprec.compile(model)
    for sample in SAMPLES:
        assert compare(exact(sample[None]), found(sample[None])).sqnr_db >= 40.0
    assert lowprec.verify(found, model, inputs=[SAMPLES[:1]]).passed


def test_what_was_measured_is_kept(found: lowprec.Artifact) -> None:
    search: Any = found.manifest.options["search"]
    names = [row["name"] for row in search["measured"]]
    assert names[:4] == ["fp32", "bf16", "fp16", "int8"]
    (chosen,) = [row for row in search["measured"] if row["chosen"]]
    fitting = [row for row in search["measured"] if row["sqnr_db"] is None or row["sqnr_db"] >= 40.5]
    assert chosen["ms"] == min(row["ms"] for row in fitting)
    assert "chosen" in search_text(search)


def test_its_recipe_makes_the_same_artifact(model: Path, found: lowprec.Artifact, tmp_path: Path) -> None:
    recipe = Recipe.from_json(found.manifest.options["recipe"])
    recipe.save(tmp_path / "r.toml")
    assert Recipe.load(tmp_path / "r.toml") == recipe
    samples = SAMPLES if "int8" in formats_of(found).values() else None
    again = lowprec.compile(model, recipe=tmp_path / "r.toml", calibration=samples)
    assert formats_of(again) == formats_of(found)
    exact = lowprec.compile(model)(SAMPLES[:1])
    assert compare(exact, again(SAMPLES[:1])).sqnr_db >= 39.0


@pytest.mark.slow
def test_a_bound_that_only_float32_meets(model: Path) -> None:
    art = lowprec.compile(model, precision="auto", min_sqnr=110.0, calibration=SAMPLES)
    assert set(formats_of(art).values()) == {"fp32"}


def test_a_recipe_with_other_integers_is_refused(model: Path) -> None:
    recipe = Recipe(rules=(Rule(layer="b", weights="q2.14"),))
    with pytest.raises(Unsupported, match=r"precision 'auto' tries int8, the recipe has 'b' in q2\.14"):
        lowprec.compile(model, precision="auto", min_sqnr=5.0, recipe=recipe, calibration=SAMPLES)


@pytest.mark.slow
def test_a_layer_that_the_recipe_speaks_of_stays(model: Path) -> None:
    recipe = Recipe(rules=(Rule(layer="b", weights="fp16"),))
    art = lowprec.compile(model, precision="auto", min_sqnr=5.0, recipe=recipe, calibration=SAMPLES)
    assert formats_of(art)["b"] == "fp16"


@pytest.mark.slow
def test_time_that_is_enough_for_all_gives_the_most_exact(model: Path) -> None:
    art = lowprec.compile(model, precision="auto", max_ms=1e4, calibration=SAMPLES)
    assert set(formats_of(art).values()) == {"fp32"}


def test_time_that_nothing_meets_is_refused(model: Path) -> None:
    with pytest.raises(BuildFailed, match=r"the fastest mix of formats takes .* ms and has .* dB: max_ms is 1e-06"):
        lowprec.compile(model, precision="auto", max_ms=1e-6, calibration=SAMPLES)


@pytest.mark.parametrize("bound", [0.0, -3.0, math.inf, math.nan, "30", True])
def test_bounds_are_numbers_above_zero(model: Path, bound: object) -> None:
    with pytest.raises(UsageError, match=r"min_sqnr is .*: give a number above 0"):
        lowprec.compile(model, precision="auto", min_sqnr=bound)  # type: ignore[arg-type]


def test_bounds_are_for_auto(model: Path) -> None:
    with pytest.raises(UsageError, match="max_ms is for precision 'auto', and the precision is int8"):
        lowprec.compile(model, precision="int8", max_ms=3.0)


def test_a_name_with_signs_of_globs_is_matched_alone() -> None:
    rule = Rule(layer=escaped("a[0]*?"), weights="int8")
    assert rule.matches("a[0]*?", "Conv")
    assert not rule.matches("a0xx", "Conv")


@pytest.mark.parametrize("rows", [[], [("a", 1.0, 3.0)], [("a", 1.0, 3.0), ("b", 1.0, 3.0)], [("a", 1.0, None)]])
def test_any_front_is_drawn(rows: list[tuple[str, float, float | None]]) -> None:
    measured = [{"name": name, "ms": ms, "sqnr_db": db, "chosen": True} for name, ms, db in rows]
    assert isinstance(drawing({"measured": measured, "front": []}), str)
