"""Interpolation along one axis: which input elements each output element is made of, and their weights.

Written once over `Numbers`, so that constant scales become tables made by NumPy and run-time scales the same arithmetic
in TIR. Coordinates are those of ONNX's Resize; every index returned lies within the axis.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The few functions in which arrays and TIR expressions differ."""

    floor: Callable[[Any], Any]
    ceil: Callable[[Any], Any]
    where: Callable[[Any, Any, Any], Any]
    minimum: Callable[[Any, Any], Any]
    maximum: Callable[[Any, Any], Any]


def number(value: Any) -> Any:
    """A Python number as a TIR constant; an expression as it is."""
    return tirx.const(value, "float64") if isinstance(value, int | float) else value


ARRAYS = Numbers(floor=np.floor, ceil=np.ceil, where=np.where, minimum=np.minimum, maximum=np.maximum)
EXPRESSIONS = Numbers(
    floor=tirx.floor,
    ceil=tirx.ceil,
    where=lambda c, a, b: tirx.Select(c, number(a), number(b)),
    minimum=lambda a, b: tirx.min(number(a), number(b)),
    maximum=lambda a, b: tirx.max(number(a), number(b)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One resized axis. `scale`, `start` and `end` (the region of interest) are floats or TIR expressions."""

    size: int
    output: int
    scale: Any
    start: Any = 0.0
    end: Any = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The attributes of Resize."""

    mode: str
    coordinates: str
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    antialias: bool = False
    exclude_outside: bool = False


def coordinate(place: Any, axis: Axis, mode: str, n: Numbers) -> Any:
    """The input coordinate of an output place."""
    half = (place + 0.5) / axis.scale - 0.5
    length, last = axis.scale * axis.size, axis.size - 1
    match mode:
        case "half_pixel":
            return half
        case "asymmetric":
            return place / axis.scale
        case "tf_half_pixel_for_nn":
            return half + 0.5
        case "pytorch_half_pixel":
            return half if axis.output > 1 else half * 0.0
        case "half_pixel_symmetric":
            return axis.size / 2 * (1 - axis.output / length) + half
        case "align_corners":
            return place * last / n.where(length == 1, 1.0, length - 1) if axis.output > 1 else place * 0.0
        case "tf_crop_and_resize":
            span = (axis.end - axis.start) * last
            inner = place * span / (axis.output - 1) if axis.output > 1 else span / 2 + place * 0.0
            return inner + axis.start * last
    raise ValueError(mode)


def rounded_place(x: Any, nearest: str, n: Numbers) -> Any:
    match nearest:
        case "round_prefer_floor":
            return n.ceil(x - 0.5)
        case "round_prefer_ceil":
            return n.floor(x + 0.5)
        case "floor":
            return n.floor(x)
        case "ceil":
            return n.ceil(x)
    raise ValueError(nearest)


def triangle(distance: Any, _: float, n: Numbers) -> Any:
    return n.maximum(1 - n.maximum(distance, -distance), 0.0)


def cubic(distance: Any, a: float, n: Numbers) -> Any:
    """Keys' kernel, reaching two elements to both sides."""
    d = n.maximum(distance, -distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return n.where(d <= 1, near, n.where(d < 2, far, 0.0))


KERNELS: dict[str, tuple[Callable[[Any, float, Numbers], Any], int]] = {"linear": (triangle, 1), "cubic": (cubic, 2)}


def reach_of(axis: Axis, method: Method) -> range:
    """The taps, relative to the element left of the coordinate. Antialiasing widens them by the smallest scale."""
    radius = KERNELS[method.mode][1]
    least = min(axis.output / axis.size, 1.0) if method.antialias else 1.0
    if method.antialias and isinstance(axis.scale, float):
        least = min(axis.scale, 1.0)
    first = math.floor(-radius / least) + 1
    return range(
        first, radius - first if method.antialias and radius == 2 else 2 - first if method.antialias else 1 + radius
    )


def taps(place: Any, axis: Axis, method: Method, n: Numbers) -> list[tuple[Any, Any]]:
    """(index, weight) pairs for an output place. Outside the axis its edge counts, or nothing if excluded."""
    x = coordinate(place, axis, method.coordinates, n)
    last = axis.size - 1
    if method.mode == "nearest":
        return [(n.minimum(n.maximum(rounded_place(x, method.nearest, n), 0.0), float(last)), 1.0)]
    kernel, _ = KERNELS[method.mode]
    scale = n.minimum(axis.scale, 1.0) if method.antialias else 1.0
    left = n.ceil(x) - 1
    found = []
    for tap in reach_of(axis, method):
        index = left + float(tap)
        weight = kernel((index - x) * scale, method.cubic, n)
        if method.exclude_outside:
            weight = n.where(index < 0.0, 0.0, n.where(index > float(last), 0.0, weight))
        found.append((n.minimum(n.maximum(index, 0.0), float(last)), weight))
    if not (method.antialias or method.exclude_outside):
        return found
    total = sum(weight for _, weight in found)
    return [(index, weight / total) for index, weight in found]


def outside(place: Any, axis: Axis, method: Method, n: Numbers) -> Any:
    """1 where tf_crop_and_resize looks outside the input."""
    x = coordinate(place, axis, method.coordinates, n)
    return n.where(x < 0.0, 1.0, n.where(x > float(axis.size - 1), 1.0, 0.0))


def tables(axis: Axis, method: Method) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Indices and weights of every output place, (output, taps) each."""
    places = np.arange(axis.output, dtype=np.float64)
    pairs = taps(places, axis, method, ARRAYS)
    indices = np.stack([np.broadcast_to(index, places.shape) for index, _ in pairs], 1)
    weights = np.stack([np.broadcast_to(np.asarray(weight, np.float64), places.shape) for _, weight in pairs], 1)
    return indices.astype(np.int64), weights
