"""Concatenations along channels without copies: whoever makes a part writes it where the whole will lie.

    before:  a = conv(x);  b = conv(y);  c = max_pool(z);  v = concat(a, b, c)
    after:   v = alloc();  conv(x) -> v[..., :k];  conv(y) -> v[..., k:m];  c = max_pool(z);  copy(c) -> v[..., m:]

A part is written in place when a template computes it, so at any stride, and nobody but the concatenation reads it; the
rest is copied.
Declines when: the unit does more than to join along the last axis and to add a border, or no part is made by a
template.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tvm import IRModule, relax

from lowprec.passes.calling import KIND, Kind, unit_of
from lowprec.passes.editing import bindings, dtype_of, op_name, result_of, shape_of, tensors_in
from lowprec.passes.reading_units import Declined, read_border, read_windows
from lowprec.schedules.views import UPPER_HALVES
from lowprec.schedules.windows import Window, whole

TYPES = ("float32", "int16", "int8", "uint8", UPPER_HALVES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One argument of a concatenation: the part of `source` that is read, and its place in the whole."""

    source: relax.Expr
    read: Window
    written: Window
    in_place: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A concatenation whose result is allocated first and then filled part by part."""

    whole: relax.Var
    parts: tuple[Part, ...]


def find_joins(module: IRModule, main: relax.Function) -> list[Join]:
    """The concatenations of main that need no kernel of their own, or only copies."""
    lines = list(bindings(main))
    units = {var: function for var, value in lines if (function := unit_of(module, value)) is not None}
    uses = Counter(source for _, value in lines for source in tensors_in(value))
    uses.update(tensors_in(result_of(main)))
    joins = []
    for var, value in lines:
        if var not in units or units[var].attrs[KIND] != Kind.GENERIC:
            continue
        try:
            join = _read(var, value, units, uses)
        except Declined:
            continue
        if any(part.in_place for part in join.parts):
            joins.append(join)
    return joins


def _read(
    var: relax.Var, value: relax.Call, units: Mapping[relax.Var, relax.Function], uses: Mapping[relax.Expr, int]
) -> Join:
    function = units[var]
    actual = dict(zip(function.params, value.args, strict=True))
    windows, lines = read_windows(function)
    joined, parts = _concatenation(lines, function)
    place = whole(shape_of(joined), dtype_of(joined))
    if lines:
        border, pad = lines.pop(0)
        if op_name(pad) != "relax.nn.pad" or not pad.args[0].same_as(joined) or not border.same_as(result_of(function)):
            raise Declined("something follows the concatenation")
        place = read_border(pad, place)
    found = []
    begin = place.begin[-1]
    for part in parts:
        if part not in windows:
            raise Declined("a part that is computed inside")
        param, read = windows[part]
        source, width = actual[param], read.extents[-1]
        written = replace(place, begin=(*place.begin[:-1], begin), extents=(*place.extents[:-1], width))
        templated = source in units and units[source].attrs[KIND] != Kind.GENERIC
        in_place = templated and uses[source] == parts.count(part) == 1 and read.is_whole
        found.append(Part(source=source, read=read, written=written, in_place=in_place))
        begin += width
    return Join(whole=var, parts=tuple(found))


def _concatenation(
    lines: list[tuple[relax.Var, relax.Expr]], function: relax.Function
) -> tuple[relax.Var, list[relax.Expr]]:
    """The first line, which must join tensors of rank 2 to 5 along the last axis; it is taken from `lines`."""
    if not lines or op_name(lines[0][1]) != "relax.concat" or len(lines) > 2:
        raise Declined("not a concatenation alone")
    var, value = lines.pop(0)
    rank = len(shape_of(var))
    axis = value.attrs.axis
    parts = value.args[0]
    plain = isinstance(parts, relax.Tuple) and dtype_of(var) in TYPES and 2 <= rank <= 5 and 0 not in shape_of(var)
    if not plain or axis is None or int(axis) % rank != rank - 1 or not (lines or var.same_as(result_of(function))):
        raise Declined("a concatenation that no view can express")
    return var, list(parts.fields)
