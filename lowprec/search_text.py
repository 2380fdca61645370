"""What `precision="auto"` found, for people: what was measured, and the front of what could be had."""

from collections.abc import Mapping, Sequence
from typing import Any

from lowprec.plan import table

WIDTH, HEIGHT = 60, 12
"""Of the drawing, in characters."""


def search_text(search: Mapping[str, Any]) -> str:
    """Builds that were measured, then the front: time to the right, signal to noise ratio upwards."""
    rows = [
        (row["name"], f"{row['ms']:.3f}", _decibels(row["sqnr_db"]), "chosen" if row["chosen"] else "")
        for row in search["measured"]
    ]
    measured = table([("formats", "ms", "SQNR dB", ""), *rows])
    return f"{measured}\n\n{drawing(search)}"


def drawing(search: Mapping[str, Any]) -> str:
    """The front (.), formats alone and mixes that were measured (o), and the one that was chosen (X)."""
    marks = [(point, ".") for point in search["front"]]
    marks += [(row, "X" if row["chosen"] else "o") for row in search["measured"]]
    finite = [(point["ms"], point["sqnr_db"], mark) for point, mark in marks if point["sqnr_db"] is not None]
    if not finite:
        return ""
    left, right = _ends([ms for ms, _, _ in finite])
    low, high = _ends([db for _, db, _ in finite])
    grid = [[" "] * (WIDTH + 1) for _ in range(HEIGHT + 1)]
    for ms, db, mark in sorted(finite, key=lambda point: ".oX".index(point[2])):
        column, row = round(WIDTH * (ms - left) / (right - left)), round(HEIGHT * (high - db) / (high - low))
        grid[row][column] = mark
    names = [f"{high:.0f} dB", *[""] * (HEIGHT - 1), f"{low:.0f} dB"]
    width = max(map(len, names))
    lines = [f"{name.rjust(width)} |{''.join(cells).rstrip()}" for name, cells in zip(names, grid, strict=True)]
    ends = f"{left:.3g} ms".ljust(WIDTH - 8) + f"{right:.3g} ms"
    foot = " " * (width + 2) + ends
    legend = "expected of mixes (.), measured (o), chosen (X)"
    return "\n".join([*lines, f"{' ' * width} +{'-' * WIDTH}", foot, legend])


def _ends(numbers: Sequence[float]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    return (low, high) if high > low else (low, low + 1.0)


def _decibels(number: float | None) -> str:
    return "the same" if number is None else f"{number:.1f}"
