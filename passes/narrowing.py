"""Tensors of bfloat16 numbers stored as such, in two bytes: the upper halves of float32.

    before:  y = unit1(x);     z = unit2(y)                                    y: float32, all bfloat16 numbers
    after:   h = unit1(x), ending in upper_half(.), before its border;         z = unit2(h)
             unit2 begins with from_upper_half(h), or only moves what it reads

Where AMX multiplies them, it reads them as they lie; kernels that read them after their products, and those of the
generic rule, make float32 of each element. The numbers are the same.
Declines when: the target has no tiles of bfloat16; the tensor is an input of the model, not made by a unit, read by
none, or multiplied by a kernel that takes float32; it is joined with others that are not stored so.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

from tvm import IRModule, relax

from lowprec.passes.calling import KIND, LAYER, Caller, Kind, unit_attributes, unit_of
from lowprec.passes.editing import (
    MAIN,
    Emitter,
    attributes_of,
    bindings,
    dtype_of,
    is_constant,
    is_tensor,
    op_name,
    replace_tensors,
    result_of,
    shape_of,
    tensors_in,
)
from lowprec.passes.halves import from_upper_half, upper_half
from lowprec.passes.numbers import numbers_of
from lowprec.passes.templates import Facts, Wish, reads_halves
from lowprec.passes.units import CONVOLUTIONS
from lowprec.schedules.arithmetic import BFLOAT
from lowprec.schedules.views import FLOAT, UPPER_HALVES
from lowprec.targets import Target

FLAG = "amx_bf16"
MOVING = frozenset({"relax.concat", "relax.strided_slice", "relax.nn.pad", "relax.permute_dims", "relax.reshape"})
PAD, SLICE = "relax.nn.pad", "relax.strided_slice"


def narrow_bfloats(module: IRModule, target: Target, wishes: Mapping[str, Wish]) -> IRModule:
    """The pass, over main and its units, which compute by the plan's `wishes`."""
    if not target.has(FLAG):
        return module
    main = module[MAIN]
    narrowed = _chosen(module, main, target, wishes)
    return _rewritten(module, main, narrowed) if narrowed else module


def _chosen(module: IRModule, main: relax.Function, target: Target, wishes: Mapping[str, Wish]) -> Set[relax.Expr]:
    """The tensors of main that are stored as halves."""
    numbers = numbers_of(module, main)
    chosen: set[relax.Expr] = set()
    barred: set[relax.Expr] = set()
    joined: list[set[relax.Expr]] = []
    read: set[relax.Expr] = set()
    for var, value in bindings(main):
        function = unit_of(module, value)
        if function is None:
            barred.update((var, *tensors_in(value)))
            continue
        if numbers.get(var) == BFLOAT and is_tensor(var) and dtype_of(var) == FLOAT:
            chosen.add(var)
        read.update(value.args)
        if _joins(function):
            joined.append({var, *value.args})
        elif function.attrs[KIND] != Kind.GENERIC:
            barred.update(_multiplied(value, function, target, wishes, numbers))
    chosen = (chosen & read) - barred
    while any(chosen & together and not together <= chosen for together in joined):
        for together in joined:
            chosen -= set() if together <= chosen else together
    return chosen


def _multiplied(
    value: relax.Call,
    function: relax.Function,
    target: Target,
    wishes: Mapping[str, Wish],
    numbers: Mapping[relax.Expr, str],
) -> Iterator[relax.Expr]:
    """The tensors that a unit's kernel multiplies as float32."""
    actual = dict(zip(function.params, value.args, strict=True))
    facts = Facts(numbers={param: numbers[argument] for param, argument in actual.items() if argument in numbers})
    taken = reads_halves(function, target, wish=wishes.get(str(function.attrs[LAYER])), facts=facts)
    sources = {param: {param} for param in function.params}
    for var, line in bindings(function):
        if op_name(line) == SLICE and line.args[0] in sources:
            sources[var] = sources[line.args[0]]
        elif dtype_of(var) == FLOAT and op_name(line) in ("relax.matmul", *CONVOLUTIONS):
            found = (param for operand in line.args[:2] for param in sources.get(operand, ()))
            yield from (actual[param] for param in found if taken is None or not param.same_as(taken))


def _joins(function: relax.Function) -> bool:
    """Whether a unit's parts may be written where it joins them."""
    return _moves(function) and any(op_name(value) == "relax.concat" for _, value in bindings(function))


def _moves(function: relax.Function) -> bool:
    """Whether a unit only moves numbers, and zeros around them."""
    return all(
        op_name(value) in MOVING
        and not any(map(is_constant, tensors_in(value)))
        and (op_name(value) != PAD or (str(value.attrs.pad_mode) == "constant" and not float(value.attrs.pad_value)))
        for _, value in bindings(function)
    )


def _rewritten(module: IRModule, main: relax.Function, narrowed: Set[relax.Expr]) -> IRModule:
    caller = Caller()
    new: dict[relax.Var, relax.Expr] = {}
    layers: dict[relax.Expr, str] = {}
    for var, value in bindings(main):
        function = unit_of(module, value)
        if function is None:
            new[var] = caller.emit(replace_tensors(value, new), var.name)
            continue
        layers[var] = str(function.attrs[LAYER])
        pairs = zip(function.params, value.args, strict=True)
        unit = _Unit(function=function, halves=frozenset(param for param, argument in pairs if argument in narrowed))
        arguments = [new.get(argument, argument) for argument in value.args]
        new[var] = caller.call(unit.rebuilt(ends=var in narrowed), arguments, var.name)
    results = dict(new)
    for var in dict.fromkeys(tensors_in(result_of(main))):
        if var in narrowed:
            results[var] = caller.call(_made_whole(new[var], layers[var]), [new[var]])
    result = replace_tensors(result_of(main), results)
    return caller.module(caller.function(list(main.params), result, attributes_of(main)), module)


def _made_whole(stored: relax.Expr, layer: str) -> relax.Function:
    """A unit that turns a tensor back into float32, for whoever is not of this module."""
    param, inner = relax.Var("h", stored.ty), Emitter()
    result = inner.emit(from_upper_half(param))
    return inner.function([param], result, unit_attributes(Kind.GENERIC, layer, ["from_upper_half"]))


@dataclass(slots=True, kw_only=True)
class _Unit:
    """A unit, some of whose parameters become `halves`."""

    function: relax.Function
    halves: frozenset[relax.Expr]
    emitter: Emitter = field(default_factory=Emitter)
    stored: dict[relax.Expr, relax.Expr] = field(default_factory=dict)
    new: dict[relax.Expr, relax.Expr] = field(default_factory=dict)

    def rebuilt(self, *, ends: bool) -> relax.Function:
        """The unit; one that `ends` in halves or does not."""
        params = [self._param(param) for param in self.function.params]
        result = result_of(self.function)
        moving = ends and self.halves.issuperset(self.function.params) and _moves(self.function)
        for var, value in bindings(self.function):
            source = next(tensors_in(value), None)
            if moving or (op_name(value) == SLICE and source in self.stored):
                self.stored[var] = self.emitter.emit(replace_tensors(value, self.stored), var.name)
                continue
            if ends and var.same_as(result) and op_name(value) == PAD:
                inside = self.emitter.emit(upper_half(self._whole(value.args[0])))
                self.stored[var] = self.emitter.emit(replace_tensors(value, {value.args[0]: inside}), var.name)
                continue
            whole = {source: self._whole(source) for source in tensors_in(value) if not is_constant(source)}
            self.new[var] = self.emitter.emit(replace_tensors(value, whole), var.name)
        if not ends:
            last = replace_tensors(result, {source: self._whole(source) for source in tensors_in(result)})
        elif result in self.stored:
            last = self.stored[result]
        else:
            last = self.emitter.emit(upper_half(self.new[result]))
        return self.emitter.function(params, last, attributes_of(self.function))

    def _param(self, param: relax.Var) -> relax.Var:
        if param not in self.halves:
            self.new[param] = relax.Var(param.name, param.ty)
            return self.new[param]
        self.stored[param] = relax.Var(param.name, relax.TensorType(shape_of(param), UPPER_HALVES))
        return self.stored[param]

    def _whole(self, value: relax.Expr) -> relax.Expr:
        """A value as float32."""
        if value not in self.new:
            self.new[value] = self.emitter.emit(from_upper_half(self.stored[value]))
        return self.new[value]
