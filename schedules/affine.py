"""How the elements that a statement touches move with its loops: linear offsets, merged and split axes.

A load or store is addressed by one linear element offset, through the buffer's last index. Where an offset is linear in
a loop variable, the coefficient says everything a schedule asks: 1 is a vector load, 0 a broadcast, else a stride.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TypeVar

import tvm_ffi
from tvm import sym, tirx
from tvm.ir import Call, Expr, Range, TensorLoad
from tvm.tirx import IntImm, Var

Node = TypeVar("Node")
Interval = tuple[int, int]

IF_THEN_ELSE = "prim.if_then_else"
COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)
MOST_SEGMENTS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One loop: its variable counts from 0 to `extent` - 1."""

    var: Var
    extent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Nest:
    """`output[index] = value` for all points of `spatial`; with `reduce` axes, `value` is one term of a reduction."""

    output: Var
    index: Expr
    value: Expr
    spatial: tuple[Axis, ...]
    reduce: tuple[Axis, ...] = ()
    finish: Expr | None = None  # of a reduction: the stored value as a function of `total`
    total: Var | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.spatial + self.reduce

    def map(self, function: Callable[[Expr], Expr]) -> "Nest":
        finish = self.finish if self.finish is None else function(self.finish)
        return replace(self, index=function(self.index), value=function(self.value), finish=finish)


def int64(value: int) -> IntImm:
    return tirx.const(value, "int64")


def substitute(node: Node, mapping: Mapping[Var, Expr]) -> Node:
    result: Node = tvm_ffi.structural_map(node, (Var, lambda var: mapping.get(var, var)), order="post")
    return result


def linear_load(buffer: Var, offset: Expr) -> TensorLoad:
    return tirx.BufferLoad(buffer, linear_indices(buffer, offset))


def linear_indices(buffer: Var, offset: Expr) -> list[Expr]:
    """Buffers are contiguous, so the last axis alone, indexed past its extent, reaches every element."""
    return [int64(0)] * (len(buffer.shape) - 1) + [offset] if len(buffer.shape) else []


def offset_of(load: TensorLoad) -> Expr:
    return load.indices[-1] if len(load.indices) else int64(0)


def loads_in(node: object) -> list[TensorLoad]:
    found: list[TensorLoad] = []
    tvm_ffi.structural_walk(node, (TensorLoad, found.append), order="post")
    return found


def is_choice(node: object) -> bool:
    return isinstance(node, Call) and getattr(node.op, "name", "") == IF_THEN_ELSE


def choices_in(node: object) -> list[Call]:
    found: list[Call] = []
    tvm_ffi.structural_walk(node, (Call, lambda call: found.append(call) if is_choice(call) else None), order="pre")
    return found


def uses(node: object, variables: set[Var]) -> bool:
    found: list[Var] = []
    tvm_ffi.structural_walk(node, (Var, lambda var: found.append(var) if var in variables else None), order="post")
    return bool(found)


def without_loads(node: Node) -> Node:
    """What is computed from the loop variables themselves, apart from addresses."""
    result: Node = tvm_ffi.structural_map(node, (TensorLoad, lambda load: tirx.const(0, str(load.ty))), order="post")
    return result


def coefficient(offset: Expr, var: Var) -> int | None:
    """By how much `offset` grows with `var`; None if that is not the same everywhere."""
    found = sym.detect_linear_equation(offset, [var])
    return int(found[0].value) if len(found) == 2 and isinstance(found[0], IntImm) else None


def analyzer_for(axes: tuple[Axis, ...]) -> sym.Analyzer:
    analyzer = sym.Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, Range(int64(0), int64(axis.extent)))
    return analyzer


def simplified(value: Expr, analyzer: sym.Analyzer) -> Expr:
    """Addresses and conditions in their simplest form; floating-point arithmetic is never touched."""

    def load(node: TensorLoad) -> TensorLoad:
        if not len(node.indices):
            return node
        return tirx.BufferLoad(node.source, [*node.indices[:-1], analyzer.simplify(node.indices[-1])])

    def choose(call: Call) -> Expr:
        if not is_choice(call):
            return call
        condition = analyzer.simplify(call.args[0])
        if isinstance(condition, IntImm):
            return call.args[1] if condition.value else call.args[2]
        return tirx.if_then_else(condition, call.args[1], call.args[2])

    result: Expr = tvm_ffi.structural_map(value, [(TensorLoad, load), (Call, choose)], order="post")
    return result


def tidy(nest: Nest) -> Nest:
    analyzer = analyzer_for(nest.axes)
    nest = nest.map(lambda value: simplified(value, analyzer))
    return replace(nest, index=analyzer.simplify(nest.index))


def merged(nest: Nest) -> Nest:
    """Loops a, b --> one loop, wherever every offset moves through both as through one."""
    computed = [without_loads(value) for value in (nest.value, nest.finish) if value is not None]
    for kind in ("spatial", "reduce"):
        axes: tuple[Axis, ...] = getattr(nest, kind)
        position = len(axes) - 1
        while position > 0:
            outer, inner = axes[position - 1 : position + 1]
            if not uses(computed, {outer.var, inner.var}) and _move_as_one(nest, outer, inner):
                fused = Axis(var=Var(f"{outer.var.name}_{inner.var.name}", "int64"), extent=outer.extent * inner.extent)
                axes = (*axes[: position - 1], fused, *axes[position + 1 :])
                mapping = {outer.var: int64(0), inner.var: fused.var}
                nest = nest.map(partial(substitute, mapping=mapping))
                nest = replace(nest, spatial=axes) if kind == "spatial" else replace(nest, reduce=axes)
            position -= 1
    return tidy(nest)


def _move_as_one(nest: Nest, outer: Axis, inner: Axis) -> bool:
    offsets = [nest.index] + [offset_of(load) for value in (nest.value, nest.finish) for load in loads_in(value)]
    for offset in offsets:
        slow, fast = coefficient(offset, outer.var), coefficient(offset, inner.var)
        if slow is None or fast is None or slow != fast * inner.extent:
            return False
    return True


def split_by_divisors(nest: Nest) -> Nest:
    """A loop over v with v // c and v % c in offsets --> two loops, over v // c and v % c."""
    for _ in range(4):
        found = _divided_axis(nest)
        if found is None:
            return nest
        axis, divisor = found
        outer = Axis(var=Var(f"{axis.var.name}_o", "int64"), extent=axis.extent // divisor)
        inner = Axis(var=Var(f"{axis.var.name}_i", "int64"), extent=divisor)
        mapping = {axis.var: outer.var * int64(divisor) + inner.var}
        position = nest.spatial.index(axis)
        spatial = (*nest.spatial[:position], outer, inner, *nest.spatial[position + 1 :])
        nest = tidy(replace(nest.map(partial(substitute, mapping=mapping)), spatial=spatial))
    return nest


def _divided_axis(nest: Nest) -> tuple[Axis, int] | None:
    divisions: list[Expr] = []
    offsets = [offset_of(load) for value in (nest.value, nest.finish) for load in loads_in(value)]
    tvm_ffi.structural_walk(offsets, ((tirx.FloorDiv, tirx.FloorMod), divisions.append), order="post")
    for division in divisions:
        for axis in nest.spatial:
            divisor = division.b.value if isinstance(division.b, IntImm) else 0
            if axis.var.same_as(division.a) and 1 < divisor < axis.extent and axis.extent % divisor == 0:
                return axis, int(divisor)
    return None


def segments(value: Expr, axis: Axis) -> tuple[Interval, ...]:
    """The parts of an axis between the points where a comparison of its variable with a constant changes."""
    found: list[Expr] = []
    for choice in choices_in(value):
        tvm_ffi.structural_walk(choice.args[0], (COMPARISONS, found.append), order="post")
    cuts = {0, axis.extent}
    for comparison in found:
        linear = sym.detect_linear_equation(comparison.a - comparison.b, [axis.var])
        if len(linear) == 2 and all(isinstance(part, IntImm) for part in linear) and linear[0].value:
            changes = _changes(comparison, int(linear[0].value), int(linear[1].value))
            cuts |= {cut for cut in changes if 0 < cut < axis.extent}
    if len(cuts) > MOST_SEGMENTS:
        return ((0, axis.extent),)
    ordered = sorted(cuts)
    return tuple(pairwise(ordered))


def _changes(comparison: Expr, slope: int, base: int) -> tuple[int, ...]:
    """Where `slope * v + base` compared with 0 becomes another answer, as the first such v."""
    below, above = -base // slope, -(base // slope)  # the root, rounded down and up
    if isinstance(comparison, tirx.EQ | tirx.NE):
        return () if base % slope else (above, below + 1)
    includes_root = isinstance(comparison, tirx.LE | tirx.GT)
    return (below + 1 if includes_root == (slope > 0) else above,)


def is_contiguous(nest: Nest, axis: Axis) -> bool:
    """Whether every operand is a vector or a broadcast along `axis`, and no lane takes a branch of its own."""
    values = [value for value in (nest.value, nest.finish) if value is not None]
    if any(uses(choice.args[0], {axis.var}) for choice in choices_in(values)):
        return False
    loads = loads_in(values)
    if any("bool" in str(item.ty) for item in loads) or str(nest.output.dtype) == "bool":
        return False
    return all(coefficient(offset_of(load), axis.var) in (0, 1) for load in loads)
