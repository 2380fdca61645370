"""What the command line's words mean: shapes, whole numbers, lists of names."""

import re
from collections.abc import Sequence

from lowprec.errors import UsageError

DEFAULT_TRIALS = 500

_EXAMPLE = "write NAME:1x3x224x224 or NAME:[1,3,224,224]"


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`x:1x3x224x224` or `x:[1,3,224,224]`; a tensor's name may itself hold colons, so the last one counts."""
    name, colon, extents = text.rpartition(":")
    if not colon or not name:
        raise UsageError(f"input shape {text!r} names no input: {_EXAMPLE}")
    bracketed = re.fullmatch(r"\[\s*(.*?)\s*\]", extents.strip())
    parts = re.split(r"\s*,\s*", bracketed[1]) if bracketed else extents.strip().split("x")
    if not all(re.fullmatch(r"[0-9]{1,10}", part) for part in parts):
        raise UsageError(f"input shape {text!r} cannot be read: {_EXAMPLE}")
    shape = tuple(map(int, parts))
    if 0 in shape:
        raise UsageError(f"input shape {text!r} has an extent of 0: every extent must be at least 1")
    return name, shape


def gather_shapes(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """Every `--input-shape`, each input once."""
    gathered = dict(shapes)
    for name in gathered:
        if sum(name == other for other, _ in shapes) > 1:
            raise UsageError(f"input {name!r} is given two shapes: give it one --input-shape")
    return gathered


def parse_whole(text: str, option: str, *, least: int = 0) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) < least:
        raise UsageError(f"{option} is {text!r}: give a whole number of {least} or more")
    return int(text)


def parse_number(text: str, option: str) -> float:
    """A finite decimal number; Python's own reader would take nan, inf and 1_0."""
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]*)?(e-?[0-9]{1,3})?", text):
        raise UsageError(f"{option} is {text!r}: give a number such as 2.5")
    return float(text)


def parse_duration(text: str, option: str) -> float:
    """Seconds in `90s`, `10m`, `2h` or plain seconds."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh]?)", text)
    if not found or float(found[1]) == 0:
        raise UsageError(f"{option} is {text!r}: give a time such as 90s, 10m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def parse_names(text: str) -> tuple[str, ...]:
    """`onnxruntime,openvino:bf16`: names in order, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
