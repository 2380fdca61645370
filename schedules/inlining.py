"""Stages into their consumers: what is cheap or read once is computed where it is needed, and never stored.

    b = f(a); c = g(b)          -->  c = g(f(a))
    s = sum(a); c = g(s)        -->  c = g(total) at the end of the sum, total still in a register

Declines when a stage's buffer is an output of the function; when costly work (exp, division, pow) would be done more
than once per element (softmax's exp feeds the sum and the quotient); when lanes of a vector would take different
branches (LRN pads the channels, which are innermost, and then reads them five times).
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr, TensorLoad
from tvm.tirx import Var

from lowprec.schedules.affine import Axis, analyzer_for, choices_in, loads_in, substitute, uses
from lowprec.schedules.stages import AnyStage, Entangled, Stage

# Work in units of a plain arithmetic operation. Calls are transcendental functions, square roots and the like.
CALL_COST, DIVISION_COST = 16, 4
REPEATABLE_COST = 2
MOST_REPEATS = 9  # a pooling window's taps
ROUNDING_ERROR = 1.05
MOST_EXPANSION = 400  # operations written out more than once, so that chains do not grow exponentially
ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Max, tirx.Min, tirx.Select, tirx.Cast)
FREE_CALLS = ("prim.if_then_else", "tirx.reinterpret", "tirx.likely", "prim.likely")


def cost_of(value: object) -> int:
    """Operations to compute a value, addresses not counted."""
    total = 0

    def count(node: Expr) -> None:
        nonlocal total
        if str(node.ty).startswith("int64"):
            return
        if isinstance(node, Call):
            total += 0 if getattr(node.op, "name", "") in FREE_CALLS else CALL_COST
        else:
            total += DIVISION_COST if isinstance(node, tirx.Div) else 1

    tvm_ffi.structural_walk(value, ((*ARITHMETIC, tirx.Div, Call), count), order="post")
    return total


def values_of(stage: AnyStage) -> list[object]:
    if isinstance(stage, Entangled):
        return [stage.update]
    return [value for value in (stage.value, stage.finish) if value is not None]


def domain_of(stage: AnyStage) -> int:
    return prod(stage.shape) * prod(axis.extent for axis in stage.reduce)


def inline(stages: list[AnyStage], outputs: set[Var]) -> list[AnyStage]:
    """All stages but those that went into others; `outputs` are the buffers that someone else reads."""
    stages = list(stages)
    position = 0
    while position < len(stages):
        stage = stages[position]
        readers = [i for i, other in enumerate(stages) if i != position and _reads(other, stage)]
        if not isinstance(stage, Stage) or stage.output in outputs or not readers:
            position += 1
        elif stage.reduce:
            finished = _finished(stage, stages[readers[0]]) if len(readers) == 1 else None
            if finished is None:
                position += 1
            else:  # computed where the reader stood: what the reader needs is there by then
                stages[readers[0]] = finished
                del stages[position]
        elif _may_repeat(stage, [stages[i] for i in readers]):
            for i in readers:
                stages[i] = _with_inlined(stages[i], stage)
            del stages[position]
        else:
            position += 1
    return stages


def _reads(reader: AnyStage, stage: AnyStage) -> bool:
    return any(load.source in stage.outputs for value in values_of(reader) for load in loads_in(value))


def _may_repeat(stage: Stage, readers: list[AnyStage]) -> bool:
    sites = [_sites(stage, reader) for reader in readers]
    elements = max(1, domain_of(stage))
    repeats = sum(len(found) * domain_of(reader) for found, reader in zip(sites, readers, strict=True)) / elements
    cost = cost_of(stage.value)
    if repeats <= ROUNDING_ERROR:
        return cost * max(copies for found in sites for copies in found) <= MOST_EXPANSION
    if stage.spatial and any(uses(choice.args[0], {_innermost(stage)}) for choice in choices_in(stage.value)):
        return False
    return cost == 0 or (cost <= REPEATABLE_COST and repeats <= MOST_REPEATS)


def _sites(stage: Stage, reader: AnyStage) -> list[int]:
    """How often each element is asked for by name; LLVM computes equal expressions once, so a place counts once."""
    places: list[list[Expr]] = []
    copies: list[int] = []
    for load in (load for value in values_of(reader) for load in loads_in(value)):
        if not load.source.same_as(stage.output):
            continue
        indices = list(load.indices)
        known = [i for i, place in enumerate(places) if tvm_ffi.structural_equal(place, indices)]
        if known:
            copies[known[0]] += 1
        else:
            places.append(indices)
            copies.append(1)
    return copies


def _innermost(stage: Stage) -> Var:
    wide = [axis.var for axis in stage.spatial if axis.extent > 1]
    return wide[-1] if wide else stage.spatial[-1].var


def _with_inlined(reader: AnyStage, stage: Stage) -> AnyStage:
    def expand(load: TensorLoad) -> Expr:
        if not load.source.same_as(stage.output):
            return load
        return substitute(stage.value, _point(stage.spatial, load))

    def expanded(node: object) -> object:
        return tvm_ffi.structural_map(node, (TensorLoad, expand), order="post")

    if isinstance(reader, Entangled):
        return replace(reader, update=expanded(reader.update))
    finish = reader.finish if reader.finish is None else expanded(reader.finish)
    return replace(reader, value=expanded(reader.value), finish=finish)


def _point(axes: tuple[Axis, ...], load: TensorLoad) -> Mapping[Var, Expr]:
    return {axis.var: index for axis, index in zip(axes, load.indices, strict=True)}


def _finished(stage: Stage, reader: AnyStage) -> Stage | None:
    """The reduction with its only reader's arithmetic at its end; None unless that reads just the element made."""
    if isinstance(reader, Entangled) or reader.reduce or prod(stage.shape) != prod(reader.shape):
        return None
    theirs = _row_major(reader.shape, tuple(axis.var for axis in reader.spatial))
    analyzer = analyzer_for(reader.spatial)
    loads = [load for load in loads_in(reader.value) if load.source.same_as(stage.output)]
    for load in loads:
        position = _row_major(tuple(int(size.value) for size in load.source.shape), tuple(load.indices))
        if not analyzer.can_prove_equal(position, theirs):
            return None
    if stage.shape != reader.shape:
        return _reshaped(stage, reader)
    total = stage.total if stage.total is not None else Var("total", loads[0].ty)
    before = stage.finish if stage.finish is not None else total

    def replaced(load: TensorLoad) -> Expr:
        return before if load.source.same_as(stage.output) else load

    finish = tvm_ffi.structural_map(reader.value, (TensorLoad, replaced), order="post")
    finish = substitute(finish, {axis.var: own.var for axis, own in zip(reader.spatial, stage.spatial, strict=True)})
    return replace(stage, output=reader.output, finish=finish, total=total)


def _reshaped(stage: Stage, reader: Stage) -> Stage | None:
    """A reader that only gives the result another shape: the elements are the same ones in the same order."""
    is_copy = isinstance(reader.value, TensorLoad) and reader.value.source.same_as(stage.output)
    return replace(stage, output=reader.output) if is_copy else None


def _row_major(shape: tuple[int, ...], point: tuple[Expr, ...]) -> Expr:
    position: Expr = tirx.const(0, "int64")
    for size, index in zip(shape, point, strict=True):
        position = position * tirx.const(size, "int64") + index
    return position
