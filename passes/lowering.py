"""Units -> kernels, constants -> arguments: the last step before the runtime's own.

    before:  v = unit3(x, r)
    after:   v = call_tir(kernel7, (x, w12, b13, r))       w12, b13: parameters of main

    before:  v = concat(a, b)                              a, b: units, see `joining`
    after:   v = alloc();  kernel8(x, w14, v);  kernel9(y, w15, v)

Kernels with equal identities are one. The order of calls is recorded, with each one's layer, for profiles and reports.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from tvm import IRModule, ir, relax, tirx

from lowprec.layers import Cost
from lowprec.passes.alignment import reading_anywhere
from lowprec.passes.calling import KIND, LAYER, OPERATORS, Kind, unit_of
from lowprec.passes.costs import cost_of
from lowprec.passes.drawing import WORDS_OP, parameters
from lowprec.passes.editing import (
    MAIN,
    Array,
    Emitter,
    array_of,
    attributes_of,
    bindings,
    dtype_of,
    is_constant,
    op_name,
    replace_tensors,
    result_of,
    shape_of,
)
from lowprec.passes.generic import Cache, lower_generic
from lowprec.passes.joining import Join, Part, find_joins
from lowprec.passes.numbers import numbers_of
from lowprec.passes.overwriting import last_reads
from lowprec.passes.reading_units import Declined, read_border
from lowprec.passes.templates import Facts, KernelCall, Wish, lower_by_template
from lowprec.schedules.copying import Copy
from lowprec.schedules.noise import Noise
from lowprec.schedules.views import FLOAT_BYTES, WORDS
from lowprec.schedules.windows import Shape, Window, whole
from lowprec.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweredCall:
    """One kernel call of main, in order: which layer it computes, and how."""

    symbol: str
    layer: str
    operators: tuple[str, ...]
    family: str
    output: str
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """Main on kernels; `weights` are the arguments that follow the model's inputs, `declined` says of each layer left
    to the generic rule why no template computes it, `retreats` of each that is direct why it is not as planned."""

    module: IRModule
    kernels: dict[str, tirx.PrimFunc]
    weights: tuple[Array, ...]
    calls: tuple[LoweredCall, ...]
    declined: dict[str, str]
    retreats: dict[str, str]


def lower_units(module: IRModule, target: Target, wishes: Mapping[str, Wish] | None = None) -> Lowered:
    """The lowering of every unit that main calls; `wishes` are the plan's, by the layer's name."""
    main = module[MAIN]
    joins = find_joins(module, main)
    places = {part.source: (join, part) for join in joins for part in join.parts if part.in_place}
    wholes = {join.whole: join for join in joins}
    lowering = _Lowering(
        target=target,
        wishes=wishes or {},
        inside=_inside_halos(module, main),
        numbers=numbers_of(module, main),
        readers=_readers_of_words(module, main),
        step=main.params[-1] if main.params else relax.Var("", relax.TensorType((), "int64")),
        places=places,
        last=last_reads(main),
    )
    for var, value in bindings(main):
        function = unit_of(module, value)
        if op_name(value) == WORDS_OP:
            lowering.words[var] = value
        elif function is None:
            lowering.new[var] = lowering.emitter.emit(replace_tensors(value, lowering.new), var.name)
        elif var in wholes:
            lowering.join(wholes[var], function)
        else:
            lowering.call(module, var, value, function)
    result = replace_tensors(result_of(main), lowering.new)
    params = [*main.params, *lowering.params]
    attributes = attributes_of(main) | {"num_input": len(main.params)}
    updated = lowering.emitter.function(params, result, attributes)
    return Lowered(
        module=IRModule({ir.GlobalVar(MAIN): updated}, attrs=module.attrs),
        kernels={name: reading_anywhere(kernel, lowering.anywhere[name]) for name, kernel in lowering.kernels.items()},
        weights=tuple(lowering.weights),
        calls=tuple(lowering.calls),
        declined=lowering.declined,
        retreats=lowering.retreats,
    )


@dataclass(slots=True, kw_only=True)
class _Lowering:
    target: Target
    wishes: Mapping[str, Wish]
    inside: Mapping[relax.Expr, Window]
    numbers: Mapping[relax.Expr, str]
    readers: Mapping[relax.Expr, str]
    step: relax.Var
    places: Mapping[relax.Expr, tuple[Join, Part]]
    last: Mapping[relax.Expr, frozenset[relax.Expr]]
    emitter: Emitter = field(default_factory=Emitter)
    new: dict[relax.Var, relax.Expr] = field(default_factory=dict)
    params: list[relax.Var] = field(default_factory=list)
    weights: list[Array] = field(default_factory=list)
    calls: list[LoweredCall] = field(default_factory=list)
    kernels: dict[str, tirx.PrimFunc] = field(default_factory=dict)
    symbols: dict[Hashable, str] = field(default_factory=dict)
    cache: Cache = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    retreats: dict[str, str] = field(default_factory=dict)
    written: set[relax.Var] = field(default_factory=set)
    words: dict[relax.Var, relax.Call] = field(default_factory=dict)
    own: set[relax.Expr] = field(default_factory=set)
    made: set[relax.Expr] = field(default_factory=set)
    anywhere: dict[str, set[int]] = field(default_factory=dict)

    def call(self, module: IRModule, var: relax.Var, value: relax.Call, function: relax.Function) -> None:
        """One unit's kernel, into a tensor of its own or into its place in a larger one."""
        layer = str(function.attrs[LAYER])
        join, part = self.places.get(var, (None, None))
        place = None if join is None or part is None else self._place(join, part)
        actual = dict(zip(function.params, value.args, strict=True))
        facts = Facts(
            insides={param: self.inside[arg] for param, arg in actual.items() if arg in self.inside},
            numbers={param: self.numbers[arg] for param, arg in actual.items() if arg in self.numbers},
            words={param: parameters(self.words[arg]) for param, arg in actual.items() if arg in self.words},
            spent={param for param, arg in actual.items() if arg in self.last[var] and arg in self.made},
        )
        kernel = self._by_template(function, layer, place, facts)
        written = kernel is not None
        if kernel is not None and kernel.declined:
            self.retreats[layer] = kernel.declined
        if kernel is None:
            kernel = lower_generic(module, function, self.target, self.cache)
        symbol = self._symbol(kernel)
        arguments = [*self._arguments(kernel, actual), *([self.step] if kernel.draws else [])]
        if written and join is not None:
            self._write(symbol, arguments, join)
            self.written.add(var)
        elif kernel.over is not None:
            self._overwrite(symbol, arguments, var, kernel.over)
        else:
            self._call(symbol, arguments, var)
            self.made.add(var)
        cost = cost_of(function, [self._extents(arg) for arg in value.args], self._extents(var))
        self._record(symbol, function, kernel.family, var, cost)

    def _make_words(self, var: relax.Var) -> None:
        """The kernel of random words, for whoever reads them."""
        value = self.words[var]
        key, shape, order = parameters(value)
        noise = Noise(shape=shape, order=order, lanes=self.target.lanes)
        symbol = self._symbol(KernelCall(identity=noise, family="noise", arguments=(), kernel=noise))
        self._call(symbol, [self._weight(np.array(key, np.uint32)), self.new.get(value.args[0], value.args[0])], var)
        cost = Cost(macs=0, weight_bytes=0, tensor_bytes=prod(shape) * np.dtype(WORDS).itemsize)
        self._note(symbol, self.readers[var], ("words",), "noise", var, cost)

    def join(self, join: Join, function: relax.Function) -> None:
        """A concatenation: copies of the parts that do not lie there yet."""
        for part in join.parts:
            if part.source in self.written:
                continue
            lanes = self.target.lanes * FLOAT_BYTES // np.dtype(part.read.dtype).itemsize
            copy = Copy(source=part.read, result=self._place(join, part), lanes=lanes)
            symbol = self._symbol(KernelCall(identity=copy, family="copy", arguments=(), kernel=copy))
            self._write(symbol, [self._passed(part.source)], join)
            cost = Cost(macs=0, weight_bytes=0, tensor_bytes=2 * part.read.bytes)
            self._record(symbol, function, "copy", join.whole, cost)

    def _record(self, symbol: str, function: relax.Function, family: str, output: relax.Var, cost: Cost) -> None:
        """Note the call just emitted, for a unit."""
        operators = tuple(str(name) for name in function.attrs[OPERATORS])
        self._note(symbol, str(function.attrs[LAYER]), operators, family, output, cost)

    def _note(
        self, symbol: str, layer: str, operators: tuple[str, ...], family: str, output: relax.Var, cost: Cost
    ) -> None:
        self.calls.append(
            LoweredCall(symbol=symbol, layer=layer, operators=operators, family=family, output=output.name, cost=cost)
        )

    def _call(self, symbol: str, arguments: list[relax.Expr], var: relax.Var) -> None:
        """A kernel call that makes a value of main. The kernel is found by its name in the library, so that main and
        kernels are built apart."""
        self._note_alignment(symbol, arguments)
        call = relax.call_dps_packed(symbol, relax.Tuple(arguments), _out_types(var))
        self.new[var] = self.emitter.emit(call, var.name)
        self.own.add(self.new[var])

    def _overwrite(self, symbol: str, arguments: list[relax.Expr], var: relax.Var, place: int) -> None:
        """A kernel call that makes a value of main where one of its arguments was."""
        self._note_alignment(symbol, arguments)
        self.emitter.emit(relax.Call(relax.ExternFunc(symbol), arguments, ty_args=[relax.TupleType([])]))
        self.new[var] = arguments[place]
        self.made.add(var)

    def _note_alignment(self, symbol: str, arguments: list[relax.Expr]) -> None:
        """What is no weight, and was not made by a kernel, is the caller's memory, and may begin anywhere."""
        places = {place for place, argument in enumerate(arguments) if argument not in self.own}
        self.anywhere.setdefault(symbol, set()).update(places)

    def _place(self, join: Join, part: Part) -> Window:
        """Where a part goes; the first to be written writes the border as well."""
        return replace(part.written, bordered=join.whole not in self.new)

    def _write(self, symbol: str, arguments: list[relax.Expr], join: Join) -> None:
        """A kernel call into the whole, which is allocated when its first part is written."""
        if join.whole not in self.new:
            shape = relax.ShapeExpr(shape_of(join.whole))
            buffer = relax.op.builtin.alloc_tensor(shape, dtype_of(join.whole), 0)
            self.new[join.whole] = self.emitter.emit(buffer, join.whole.name)
            self.own.add(self.new[join.whole])
        self._note_alignment(symbol, arguments)
        nothing = [relax.TupleType([])]
        self.emitter.emit(relax.Call(relax.ExternFunc(symbol), [*arguments, self.new[join.whole]], ty_args=nothing))

    def _extents(self, value: relax.Expr) -> Shape | None:
        """The extents of a tensor of main inside its halo, if it has one."""
        return self.inside[value].extents if value in self.inside else None

    def _by_template(
        self, function: relax.Function, layer: str, place: Window | None, facts: Facts
    ) -> KernelCall | None:
        if function.attrs[KIND] == Kind.GENERIC:
            return None
        try:
            wish = self.wishes.get(layer)
            return lower_by_template(function, self.target, wish=wish, place=place, facts=facts)
        except Declined as declined:
            self.declined[layer] = str(declined)
            return None

    def _symbol(self, kernel: KernelCall) -> str:
        identity = (kernel.identity, kernel.over)
        symbol = self.symbols.get(identity)
        if symbol is None:
            symbol = f"{kernel.family}_{len(self.kernels)}"
            self.symbols[identity] = symbol
            self.kernels[symbol] = kernel.build().with_attr("global_symbol", symbol)
        return symbol

    def _arguments(self, kernel: KernelCall, actual: dict[relax.Var, relax.Expr]) -> Iterator[relax.Expr]:
        for argument in kernel.arguments:
            if isinstance(argument, relax.Var):
                yield self._passed(actual[argument])
            elif is_constant(argument):
                yield self._passed(argument)
            else:
                yield self._weight(argument)

    def _passed(self, value: relax.Expr) -> relax.Expr:
        """What stands for a value of main in a kernel call."""
        if value in self.words and value not in self.new:
            self._make_words(value)
        return self._weight(array_of(value)) if is_constant(value) else self.new.get(value, value)

    def _weight(self, array: Array) -> relax.Var:
        param = relax.Var(f"w{len(self.weights)}", relax.TensorType(array.shape, str(array.dtype)))
        self.weights.append(np.require(array, requirements="C"))  # keeps rank 0
        self.params.append(param)
        self.own.add(param)
        return param


def _inside_halos(module: IRModule, main: relax.Function) -> dict[relax.Expr, Window]:
    """The part inside the border of each tensor that its unit puts one around, of zeros."""
    units = ((var, unit_of(module, value)) for var, value in bindings(main))
    found = ((var, _inside_border(function)) for var, function in units if function is not None)
    return {var: inside for var, inside in found if inside is not None}


def _readers_of_words(module: IRModule, main: relax.Function) -> dict[relax.Expr, str]:
    """Of random words, the layer that is rounded by them."""
    found: dict[relax.Expr, str] = {}
    for _, value in bindings(main):
        function = unit_of(module, value)
        if function is not None:
            found.update(dict.fromkeys(value.args, str(function.attrs[LAYER])))
    return {var: found[var] for var, value in bindings(main) if op_name(value) == WORDS_OP}


def _inside_border(function: relax.Function) -> Window | None:
    *_, (var, value) = bindings(function)
    if op_name(value) != "relax.nn.pad" or not var.same_as(result_of(function)):
        return None
    try:
        return read_border(value, whole(shape_of(value.args[0]), dtype_of(value.args[0])))
    except Declined:
        return None


def _out_types(var: relax.Var) -> list[relax.TensorType]:
    """Types of what a kernel writes."""
    return list(var.ty.fields) if isinstance(var.ty, relax.TupleType) else [var.ty]
