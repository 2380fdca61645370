"""Units -> kernels, constants -> arguments: the last step before the runtime's own.

    before:  v = unit3(x, r)
    after:   v = call_tir(kernel7, (x, w12, b13, r))       w12, b13: parameters of main

Kernels with equal identities are one. The order of calls is recorded, with each one's layer, for profiles and reports.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from tvm import IRModule, ir, relax, tirx

from lowprec.layers import Cost
from lowprec.passes.costs import cost_of
from lowprec.passes.editing import (
    MAIN,
    WINDOWS,
    Array,
    Emitter,
    array_of,
    attributes_of,
    bindings,
    is_constant,
    replace_tensors,
    result_of,
)
from lowprec.passes.generic import Cache, lower_generic
from lowprec.passes.halos import unit_of
from lowprec.passes.reading_units import Declined
from lowprec.passes.templates import KernelCall, lower_by_template
from lowprec.passes.units import KIND, LAYER, OPERATORS, Kind
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
    to the generic rule why no template computes it."""

    module: IRModule
    kernels: dict[str, tirx.PrimFunc]
    weights: tuple[Array, ...]
    calls: tuple[LoweredCall, ...]
    declined: dict[str, str]


def lower_units(module: IRModule, target: Target) -> Lowered:
    """The lowering of every unit that main calls."""
    main = module[MAIN]
    lowering = _Lowering(target=target, inside=_inside_halos(main))
    for var, value in bindings(main):
        function = unit_of(module, value)
        if function is None:
            lowering.new[var] = lowering.emitter.emit(replace_tensors(value, lowering.new), var.name)
            continue
        lowering.call(module, var, value, function)
    result = replace_tensors(result_of(main), lowering.new)
    params = [*main.params, *lowering.params]
    attributes = attributes_of(main) | {"num_input": len(main.params)}
    updated = lowering.emitter.function(params, result, attributes)
    return Lowered(
        module=IRModule({ir.GlobalVar(MAIN): updated}, attrs=module.attrs),
        kernels=lowering.kernels,
        weights=tuple(lowering.weights),
        calls=tuple(lowering.calls),
        declined=lowering.declined,
    )


@dataclass(slots=True, kw_only=True)
class _Lowering:
    target: Target
    inside: Mapping[str, tuple[int, ...]]
    emitter: Emitter = field(default_factory=Emitter)
    new: dict[relax.Var, relax.Expr] = field(default_factory=dict)
    params: list[relax.Var] = field(default_factory=list)
    weights: list[Array] = field(default_factory=list)
    calls: list[LoweredCall] = field(default_factory=list)
    kernels: dict[str, tirx.PrimFunc] = field(default_factory=dict)
    symbols: dict[Hashable, str] = field(default_factory=dict)
    cache: Cache = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)

    def call(self, module: IRModule, var: relax.Var, value: relax.Call, function: relax.Function) -> None:
        layer = str(function.attrs[LAYER])
        kernel = self._by_template(function, layer) or lower_generic(module, function, self.target, self.cache)
        symbol = self._symbol(kernel)
        actual = dict(zip(function.params, value.args, strict=True))
        arguments = list(self._arguments(kernel, actual))
        # The kernel is found by its name in the library, so that main and kernels are built apart.
        call = relax.call_dps_packed(symbol, relax.Tuple(arguments), _out_types(var))
        self.new[var] = self.emitter.emit(call, var.name)
        self.calls.append(
            LoweredCall(
                symbol=symbol,
                layer=layer,
                operators=tuple(str(name) for name in function.attrs[OPERATORS]),
                family=kernel.family,
                output=var.name,
                cost=cost_of(function, [self.inside.get(arg.name) for arg in value.args], self.inside.get(var.name)),
            )
        )

    def _by_template(self, function: relax.Function, layer: str) -> KernelCall | None:
        if function.attrs[KIND] == Kind.GENERIC:
            return None
        try:
            return lower_by_template(function, self.target)
        except Declined as declined:
            self.declined[layer] = str(declined)
            return None

    def _symbol(self, kernel: KernelCall) -> str:
        symbol = self.symbols.get(kernel.identity)
        if symbol is None:
            symbol = f"{kernel.family}_{len(self.kernels)}"
            self.symbols[kernel.identity] = symbol
            self.kernels[symbol] = kernel.build().with_attr("global_symbol", symbol)
        return symbol

    def _arguments(self, kernel: KernelCall, actual: dict[relax.Var, relax.Expr]) -> Iterator[relax.Expr]:
        for argument in kernel.arguments:
            if isinstance(argument, relax.Var):
                passed = actual[argument]
                yield self.new.get(passed, passed)
            elif is_constant(argument):
                yield self._weight(array_of(argument))
            else:
                yield self._weight(argument)

    def _weight(self, array: Array) -> relax.Var:
        param = relax.Var(f"w{len(self.weights)}", relax.TensorType(array.shape, str(array.dtype)))
        self.weights.append(np.require(array, requirements="C"))  # keeps rank 0
        self.params.append(param)
        return param


def _inside_halos(main: relax.Function) -> dict[str, tuple[int, ...]]:
    """The extents of each tensor that has a halo, without it: the second half of its window."""
    windows = main.attrs.get(WINDOWS, {}) if main.attrs else {}
    return {str(name): tuple(map(int, window[len(window) // 2 :])) for name, window in windows.items()}


def _out_types(var: relax.Var) -> list[relax.TensorType]:
    """Types of what a kernel writes."""
    return list(var.ty.fields) if isinstance(var.ty, relax.TupleType) else [var.ty]
