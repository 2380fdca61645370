"""The figures of `docs/convolution.md`, from what was measured last: `python -m benchmarks.drawings`.

- `kernels.svg`: time over kernel size, ours and the fastest peer's, dense and depthwise;
- `choices.svg`: for each layer drawn, how much longer than the fastest candidate the predicted one took.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from lowprec.errors import UsageError

ROOT = Path(__file__).parents[1]
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "figures"
WIDTH, HEIGHT, MARGIN = 640, 360, 56
COLOURS = ("#1f5fa8", "#c2571a", "#2b8a3e", "#8a8a8a")

SVG = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}"
  font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<text x="{{ width / 2 }}" y="20" text-anchor="middle" font-size="14">{{ title }}</text>
{% for x, label in across %}
<line x1="{{ x }}" y1="{{ top }}" x2="{{ x }}" y2="{{ bottom }}" stroke="#eee"/>
<text x="{{ x }}" y="{{ bottom + 16 }}" text-anchor="middle">{{ label }}</text>
{% endfor %}
{% for y, label in up %}
<line x1="{{ left }}" y1="{{ y }}" x2="{{ right }}" y2="{{ y }}" stroke="#eee"/>
<text x="{{ left - 6 }}" y="{{ y + 4 }}" text-anchor="end">{{ label }}</text>
{% endfor %}
<text x="{{ (left + right) / 2 }}" y="{{ bottom + 36 }}" text-anchor="middle">{{ below }}</text>
<text x="{{ left }}" y="{{ top - 10 }}">{{ beside }}</text>
{% for line in lines %}
<polyline points="{{ line.points }}" fill="none" stroke="{{ line.colour }}" stroke-width="2"
  {%- if line.dashed %} stroke-dasharray="5 4"{% endif %}/>
{% for x, y, label in line.marks %}
<circle cx="{{ x }}" cy="{{ y }}" r="3" fill="{{ line.colour }}"/>
<text x="{{ x }}" y="{{ y + line.shift }}" text-anchor="middle" font-size="10"
  fill="{{ line.colour }}">{{ label }}</text>
{% endfor %}
<text x="{{ left + 12 }}" y="{{ top + 16 + 16 * loop.index0 }}" fill="{{ line.colour }}">{{ line.name }}</text>
{% endfor %}
</svg>
"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points (x, y), some with a word at them, below or above."""

    name: str
    points: Sequence[tuple[float, float]]
    words: Sequence[str] = ()
    above: bool = False
    dashed: bool = False
    colour: str = COLOURS[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A scale with labels at some values."""

    name: str
    marks: Sequence[float]
    ends: tuple[float, float]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """From 0 to 1 between the ends; what lies outside goes to the end."""
        scale: Callable[[float], float] = math.log if self.logarithmic else float
        low, high = map(scale, self.ends)
        return min(1.0, max(0.0, (scale(value) - low) / (high - low)))


def draw(title: str, across: Axis, up: Axis, curves: Iterable[Curve]) -> str:
    """The figure as SVG."""

    def x(value: float) -> float:
        return round(MARGIN + across.place(value) * (WIDTH - 2 * MARGIN), 1)

    def y(value: float) -> float:
        return round(HEIGHT - MARGIN - up.place(value) * (HEIGHT - 2 * MARGIN), 1)

    lines = [
        {
            "name": curve.name,
            "colour": curve.colour,
            "dashed": curve.dashed,
            "shift": -8 if curve.above else 16,
            "points": " ".join(f"{x(a)},{y(b)}" for a, b in curve.points),
            "marks": [(x(a), y(b), word) for (a, b), word in zip(curve.points, curve.words, strict=False)],
        }
        for curve in curves
    ]
    return SVG.render(
        title=title,
        width=WIDTH,
        height=HEIGHT,
        left=MARGIN,
        right=WIDTH - MARGIN,
        top=MARGIN,
        bottom=HEIGHT - MARGIN,
        across=[(x(value), f"{value:g}") for value in across.marks],
        up=[(y(value), f"{value:g}") for value in up.marks],
        below=across.name,
        beside=up.name,
        lines=lines,
    )


def kernels(document: dict[str, Any]) -> str:
    """Time over kernel size."""
    curves = []
    for kind, colour in (("dense", COLOURS[0]), ("depthwise", COLOURS[1])):
        rows = [row for row in document["rows"] if row["layer"].startswith(f"{kind}_")]
        sizes = [int(row["layer"].rpartition("_")[2]) for row in rows]
        ours = [row["engines"]["lowprec"]["p50_ms"] for row in rows]
        theirs = [min(e["p50_ms"] for name, e in row["engines"].items() if name != "lowprec") for row in rows]
        names = [row["algorithm"].split()[0] for row in rows]
        words = ["" if name == before else name for name, before in zip(names, ["", *names], strict=False)]
        channels = {"dense": "64 channels", "depthwise": "384 channels, depthwise"}[kind]
        curves += [
            Curve(
                name=f"lowprec, {channels}",
                points=list(zip(sizes, ours, strict=True)),
                words=words,
                above=kind == "dense",
                colour=colour,
            ),
            Curve(
                name=f"fastest peer, {channels}",
                points=list(zip(sizes, theirs, strict=True)),
                dashed=True,
                colour=colour,
            ),
        ]
    across = Axis(name="taps along an axis", marks=(3, 5, 7, 9, 11, 15, 21, 31, 63), ends=(2.7, 70), logarithmic=True)
    up = Axis(name="ms", marks=(0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500), ends=(0.4, 800), logarithmic=True)
    return draw("56 x 56 pixels, one thread", across, up, curves)


def choices(document: dict[str, Any]) -> str:
    """How good the choice was, layers in order."""
    curves = []
    for key, name, colour in (("untuned", "predicted", COLOURS[1]), ("with_records", "measured before", COLOURS[0])):
        values = sorted(row[key] for row in document["rows"])
        points = [(100 * (i + 1) / len(values), value) for i, value in enumerate(values)]
        curves.append(Curve(name=f"the choice as {name}", points=points, colour=colour))
    across = Axis(name=f"per cent of {len(document['rows'])} layers", marks=range(0, 101, 10), ends=(0, 100))
    up = Axis(name="times the fastest candidate", marks=(1, 1.1, 1.2, 1.3, 1.4, 1.5), ends=(0.98, 1.5))
    return draw("Time of the chosen algorithm", across, up, curves)


FROM: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "kernels.svg": ("layers-kernels-fp32-1t.json", kernels),
    "choices.svg": ("choices-fp32-1t.json", choices),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.drawings", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results (default: %(default)s)")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of figures (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.figures.mkdir(parents=True, exist_ok=True)
    for name, (source, make) in FROM.items():
        path = options.results / source
        if not path.is_file():
            raise UsageError(f"{path} does not exist: run the benchmark that makes it")
        (options.figures / name).write_text(make(json.loads(path.read_text())))
        print(f"written to {options.figures / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
