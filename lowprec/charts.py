"""Coordinates for the report's drawings: numbers in, positions out; the template does the drawing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lowprec.verdict import Report

HEIGHT = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 1082.0, 22.0, 228.0
_EXACT_DB = 160.0  # where an exact tensor is drawn: above what float32 can reach


def error_chart(verdict: Report) -> dict[str, Any]:
    """SQNR by layer: dots, a scale of round numbers, and the bound where it is one of SQNR."""
    values = [_drawable(entry.errors.sqnr_db) for entry in verdict.layers]
    bound = verdict.bound.limit if verdict.bound.measure == "sqnr_db" else None
    low, high = _scale([*values, *([bound] if bound is not None else [])])
    step = (_RIGHT - _LEFT) / max(len(values) - 1, 1)
    return {
        "height": HEIGHT,
        "radius": 3.4 if len(values) <= 120 else 2.0,
        "ticks": [{"y": _height(tick, low, high), "label": f"{tick:.0f}"} for tick in _ticks(low, high)],
        "bound": None if bound is None else _height(bound, low, high),
        "dots": [
            {
                "x": round(_LEFT + index * step, 1),
                "y": _height(value, low, high),
                "passed": entry.passed,
                "title": f"{entry.name}: {decibels(entry.errors.sqnr_db)} dB",
            }
            for index, (entry, value) in enumerate(zip(verdict.layers, values, strict=True))
        ],
    }


def front_chart(search: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `precision="auto"` expected of mixes of formats, and what it measured: time to the right, SQNR upwards."""
    expected, measured = (_finite(search[name]) for name in ("front", "measured"))
    points = [*expected, *measured]
    if not points:
        return None
    low, high = _scale([_drawable(point["sqnr_db"]) for point in points])
    left, right = min(point["ms"] for point in points), max(point["ms"] for point in points)

    def placed(point: Mapping[str, Any]) -> dict[str, Any]:
        share = (point["ms"] - left) / (right - left) if right > left else 0.5
        return {
            "x": round(_LEFT + share * (_RIGHT - _LEFT), 1),
            "y": _height(_drawable(point["sqnr_db"]), low, high),
            "title": f"{point.get('name', 'expected of a mix')}: {point['ms']:.3g} ms, {point['sqnr_db']:.1f} dB",
            "name": point.get("name", ""),
            "chosen": point.get("chosen", False),
        }

    return {
        "height": HEIGHT + 24,
        "ticks": [{"y": _height(tick, low, high), "label": f"{tick:.0f}"} for tick in _ticks(low, high)],
        "expected": list(map(placed, expected)),
        "measured": list(map(placed, measured)),
        "ends": (f"{left:.3g} ms", f"{right:.3g} ms"),
    }


def _finite(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that differ from float32 at all."""
    return [point for point in points if point["sqnr_db"] is not None]


def decibels(value: float) -> str:
    """`exact` where nothing differs."""
    return "exact" if value == math.inf else f"{value:.1f}"


def _drawable(value: float) -> float:
    return min(max(value, -20.0), _EXACT_DB)


def _scale(values: list[float]) -> tuple[float, float]:
    """Multiples of ten around the values, at least twenty apart."""
    low = 10 * math.floor(min(values) / 10)
    return low, max(10 * math.ceil(max(values) / 10), low + 20)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 if high - low <= 60 else 20 if high - low <= 120 else 40
    return [low + step * index for index in range(int((high - low) // step) + 1)]


def _height(value: float, low: float, high: float) -> float:
    return round(_BOTTOM - (value - low) / (high - low) * (_BOTTOM - _TOP), 1)
