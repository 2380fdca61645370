"""The report is one file that fetches nothing, shows what was measured, and takes no orders from a model's names."""

import dataclasses
import html.parser
import math
import re
from pathlib import Path

import numpy as np
import pytest

from lowprec import artifact as artifacts
from lowprec import charts, report
from lowprec.artifact import Artifact, load
from lowprec.comparison import Errors
from lowprec.errors import UsageError
from lowprec.layers import Cost
from lowprec.manifest import CallSpec
from lowprec.peaks import Peaks
from lowprec.plan import Choice, Formats, Plan
from lowprec.profiling import LayerTime, layer_times
from lowprec.report import render, write_report
from lowprec.verdict import Bound, Report, TensorErrors
from tests import toys
from tests.manifests import hand_made

NASTY = "</td><script>alert('x')</script>&\"'"


@pytest.fixture(scope="module")
def art(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact whose layers are named to break out of HTML."""
    folder = tmp_path_factory.mktemp("report")
    path = toys.linear(folder)
    manifest = load(path).manifest
    calls = tuple(dataclasses.replace(call, layer=NASTY) for call in manifest.calls)
    choices = tuple(
        Choice(layer=layer, op=op, algorithm="direct", formats=Formats(), reason=f"because {NASTY}", declined=declined)
        for layer, op, declined in ((NASTY, "Gemm", ()), ("r1", "Relu", ()), ("r2", "Add", ()), ("r3", "Add", ("no",)))
    )
    source = dataclasses.replace(manifest.model, path=f"/models/{NASTY.replace('/', '')}.onnx")
    nasty = dataclasses.replace(
        hand_made(manifest.inputs, manifest.outputs, calls=calls),
        plan=Plan(choices=choices),
        model=source,
        command=NASTY,
    )
    artifacts.write(folder / "nasty", path / "model.so", toys.linear_weights(), nasty)
    return load(folder / "nasty", threads=1)


def verdict(*, bound: Bound, decibels: tuple[float, ...]) -> Report:
    def entry(name: str, sqnr: float) -> TensorErrors:
        errors = Errors(max_abs=0.1, relative=0.01, cosine=0.999, sqnr_db=sqnr)
        return TensorErrors(name=name, tensor=name, errors=errors, passed=bound.holds(errors))

    return Report(
        passed=False,
        bound=bound,
        smallest_bound=min(decibels),
        reference="onnxruntime",
        outputs=(entry(NASTY, decibels[0]),),
        layers=tuple(entry(NASTY if i == 0 else f"layer{i}", value) for i, value in enumerate(decibels)),
        first_bad=NASTY,
        notes=(f"a note on {NASTY}",),
    )


class Reader(html.parser.HTMLParser):
    """Balanced tags, and every tag and address on the page."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's peaks as they may be."""
    monkeypatch.setattr(
        report,
        "measure_peaks",
        lambda threads: Peaks(threads=threads, flops=1e11, byte_operations=4e11, read_bandwidth={1 << 20: 1e10}),
    )


def test_it_is_whole_and_harmless(art: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = verdict(bound=Bound(measure="sqnr_db", limit=40.0), decibels=(math.inf, 90.0, 35.0))
    monkeypatch.setattr(report, "verify", lambda *_, **__: made)
    page = render(art, model="given.onnx", duration=0.02)
    found = Reader(page)
    assert "script" not in found.tags
    assert found.addresses == []
    assert not re.search(r"https?:|@import|url\(", page)
    assert "NOT VERIFIED" in page
    assert "exact" in page
    assert "SQNR &gt;= 40 dB" in page
    assert '<line class="bound"' in page
    assert page.count("circle class") == 3


def test_without_a_model(art: Artifact, tmp_path: Path) -> None:
    write_report(art, tmp_path / "report.html", duration=0.02)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    Reader(page)
    assert "not compared" in page
    assert "give the model with --model" in page
    assert "SQNR" not in page.partition("<body>")[2]


def test_the_compiled_model_is_found_where_it_was(
    art: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.onnx").write_bytes(b"toy")
    source = dataclasses.replace(art.manifest.model, path=str(tmp_path / "toy.onnx"))
    monkeypatch.setattr(art, "manifest", dataclasses.replace(art.manifest, model=source))
    assert report._find_model(art, None)[0] == tmp_path / "toy.onnx"
    (tmp_path / "toy.onnx").write_bytes(b"changed")
    assert report._find_model(art, None)[0] is None
    assert report._find_model(art, "other.onnx")[0] == Path("other.onnx")


def test_a_place_that_cannot_be_written(art: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(art, tmp_path / "nowhere" / "report.html", duration=0.01)


def calls(*entries: tuple[str, str, float]) -> tuple[LayerTime, ...]:
    """Layers by name, operator and milliseconds, each of which could take a quarter of a millisecond."""
    cost = Cost(macs=12_500_000)
    specs = [
        CallSpec(symbol="k", layer=layer, op=op, output=layer, family="direct", cost=cost) for layer, op, _ in entries
    ]
    peaks = Peaks(threads=1, flops=1e11, byte_operations=4e11, read_bandwidth={1: 1e10})
    return layer_times(specs, np.array([[ms for _, _, ms in entries]]), peaks)


def test_rows_follow_the_plan_and_fold_what_has_no_kernel(art: Artifact) -> None:
    rows = report._rows(art.plan.choices, calls((NASTY, "Gemm", 3.0), ("added", "transpose", 1.0)), ())
    assert [row["layer"] for row in rows] == [NASTY, "r1, r2", "r3", "added"]
    assert [row["folded"] for row in rows] == [0, 2, 0, 0]
    assert (rows[0]["ms"], rows[0]["percent"], rows[0]["bar"]) == ("3.00", "75.0", "100.0")
    assert (rows[3]["percent"], rows[3]["bar"]) == ("25.0", "33.3")
    assert (rows[0]["of_bound"], rows[3]["of_bound"]) == ("8", "25")
    assert rows[2]["declined"] == ("no",)


def test_parts_put_the_rarest_together() -> None:
    choices = [
        Choice(layer=f"r{i}", op=f"Op{i}", algorithm="direct", formats=Formats(), reason="one of many")
        for i in range(9)
    ]
    parts = report._parts(choices, calls(*((f"r{i}", "conv2d+relu", i + 1.0) for i in range(9))))
    assert len(parts) == report.COLOURS
    assert parts[0]["op"] == "Op8"
    assert parts[-1]["op"] == "4 others"
    assert sum(float(part["percent"]) for part in parts) == pytest.approx(100, abs=0.5)
    assert [part["op"] for part in report._parts([], calls(("x", "", 1.0)))] == ["added by compiling"]


@pytest.mark.parametrize("decibels", [(50.0,), (math.inf, math.inf), (-math.inf, 500.0, 3.0), (41.0,) * 200])
@pytest.mark.parametrize("measure", ["relative", "sqnr_db"])
def test_every_dot_is_inside_the_drawing(decibels: tuple[float, ...], measure: str) -> None:
    chart = charts.error_chart(verdict(bound=Bound(measure=measure, limit=30.0), decibels=decibels))
    assert all(50 <= dot["x"] <= 1090 and 0 <= dot["y"] <= chart["height"] for dot in chart["dots"])
    assert 2 <= len(chart["ticks"]) <= 8
    assert (chart["bound"] is None) == (measure == "relative")
