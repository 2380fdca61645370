"""Frozen dataclasses to JSON and back, exactly: nothing missing, nothing extra, nothing of another type.

`encode` then `decode` is the identity. `decode` raises ValueError with the path of the first field that is not as
declared, so that a damaged or foreign file is refused by name and never half understood.
"""

import dataclasses
import json
import types
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def dumps(value: object) -> str:
    """Readable, with a stable order of fields."""
    return json.dumps(encode(value), indent=1, allow_nan=False) + "\n"


def loads(text: str | bytes) -> object:
    """JSON as the standard has it: no NaN, no name twice; ValueError otherwise."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def encode(value: object) -> Any:
    """A dataclass becomes an object, a tuple a list; plain values stay."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def decode(kind: type[T], value: object, where: str = "") -> T:
    """`value`, as parsed from JSON, as an instance of the dataclass `kind`."""
    result: T = _decode(kind, value, where)
    return result


def _decode(kind: Any, value: object, where: str) -> Any:
    """One value against an annotation: dataclass, tuple, dict[str, X], X | None, object or scalar."""
    if kind is object:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, value, where)
    origin = get_origin(kind)
    if origin is types.UnionType:
        (inner,) = (option for option in get_args(kind) if option is not type(None))
        return None if value is None else _decode(inner, value, where)
    if origin is tuple:
        return _decode_tuple(get_args(kind), value, where)
    if origin is dict:
        items = _expect(dict, value, where)
        return {key: _decode(get_args(kind)[1], item, f"{where}[{key!r}]") for key, item in items.items()}
    return _expect(kind, value, where)


def _decode_fields(kind: Any, value: object, where: str) -> Any:
    found = _expect(dict, value, where)
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    prefix = f"{where}." if where else ""
    for name in names:
        if name not in found:
            raise ValueError(f"{prefix}{name} is missing")
    for name in found:
        if name not in names:
            raise ValueError(f"{prefix}{name} is not a known field")
    return kind(**{name: _decode(hints[name], found[name], f"{prefix}{name}") for name in names})


def _decode_tuple(kinds: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    items = _expect(list, value, where)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    if len(items) != len(kinds):
        raise ValueError(f"{where} has {len(items)} items, not {len(kinds)}")
    return tuple(_decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, items, strict=True)))


_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def _expect(kind: Any, value: Any, where: str) -> Any:
    """The value itself when its type is exactly `kind`: True is no number, and 1.0 is no whole number."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    found = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
    raise ValueError(f"{where or 'the document'} is {found}, not {_WORDS[kind]}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("the same field twice in one object")
    return result


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
