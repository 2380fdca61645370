"""Padding written by whoever makes a tensor, so that convolutions read their whole neighbourhood without asking.

    before:  y = unit1(x);                     z = unit2(y)   with  unit2 = conv2d(y, w, padding=1) + ...
                                               u = unit3(y)
    after:   y = unit1(x), ending in pad(.);   z = unit2(y)   with  unit2 = conv2d(y, w, padding=0) + ...
                                               u = unit3(y),  which begins with a slice of y

The widest padding asked for is written once; whoever needs less reads a window of it.
Declines when: it pads signs, which have no zero; the tensor is an input or output of the model, or used by anything but
units. It is then padded by a unit of its own, in front of the convolution. What reads planes pads them itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvm import IRModule, relax

from lowprec.passes.calling import KIND, Caller, Kind, unit_attributes, unit_of
from lowprec.passes.editing import (
    MAIN,
    WINDOWS,
    Emitter,
    attributes_of,
    bindings,
    convolution_like,
    op_name,
    replace_tensors,
    result_of,
    shape_of,
    tensors_in,
)
from lowprec.passes.units import CONVOLUTIONS, lies_as_planes
from lowprec.passes.widening import source_of, zero_of

Widths = tuple[tuple[int, int], ...]  # (before, after) of each physical axis
Line = tuple[relax.Var, relax.Expr]


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """What is around a tensor: `value` is its zero, as an integer where it holds integers."""

    widths: Widths
    value: int = 0


def move_padding(module: IRModule) -> IRModule:
    """The pass, over main and its units."""
    main = module[MAIN]
    halos = _halos(module, main)
    mover = _Mover(module=module, halos=halos)
    for var, value in bindings(main):
        mover.move(var, value)
    windows = {
        var.name: [*(before for before, _ in halo.widths), *shape_of(var)] for var, halo in halos.items() if var.name
    }
    result = replace_tensors(result_of(main), mover.new)
    updated = mover.caller.function(list(main.params), result, attributes_of(main) | {WINDOWS: windows})
    return mover.caller.module(updated, module)


def _halos(module: IRModule, main: relax.Function) -> dict[relax.Var, Border]:
    """How much border each tensor of main will be written with."""
    wanted: dict[relax.Var, Border] = {}
    barred: set[relax.Expr] = {*main.params, *tensors_in(result_of(main))}
    for var, value in bindings(main):
        function = unit_of(module, value)
        if function is None:
            barred.update((var, *tensors_in(value)))
            continue
        source = _padded_source(function)
        if source is not None:
            param, border = source
            argument = value.args[list(function.params).index(param)]
            known = wanted.setdefault(argument, border)
            if known.value != border.value:
                barred.add(argument)
            wanted[argument] = Border(widths=_widest(known.widths, border.widths), value=known.value)
    return {var: border for var, border in wanted.items() if var not in barred}


def _widest(first: Widths, second: Widths) -> Widths:
    return tuple((max(a, c), max(b, d)) for (a, b), (c, d) in zip(first, second, strict=True))


def _padded_source(function: relax.Function) -> tuple[relax.Var, Border] | None:
    """The parameter that a unit's convolution pads, and with what."""
    if function.attrs[KIND] != Kind.CONVOLUTION:
        return None
    chain, (_, convolution) = _up_to_convolution(function)
    if lies_as_planes(convolution):
        return None
    widths = _widths_of(convolution)
    if not any(map(any, widths)) or any(op_name(value) == "relax.where" for _, value in chain):
        return None
    source = source_of(chain[0][1]) if chain else convolution.args[0]
    return source, Border(widths=widths, value=zero_of([value for _, value in chain]))


def _up_to_convolution(function: relax.Function) -> tuple[list[Line], Line]:
    """The chain that a unit begins with, and its convolution."""
    chain: list[Line] = []
    for var, value in bindings(function):
        if op_name(value) in CONVOLUTIONS:
            return chain, (var, value)
        chain.append((var, value))
    raise ValueError("a unit of a convolution has none")


def _widths_of(convolution: relax.Call) -> Widths:
    padding = [int(width) for width in convolution.attrs.padding]
    half = len(padding) // 2
    return ((0, 0), *zip(padding[:half], padding[half:], strict=True), (0, 0))


@dataclass(slots=True, kw_only=True)
class _Mover:
    module: IRModule
    halos: Mapping[relax.Var, Border]
    caller: Caller = field(default_factory=Caller)
    new: dict[relax.Var, relax.Expr] = field(default_factory=dict)
    padded: dict[tuple[relax.Expr, Border], relax.Var] = field(default_factory=dict)

    def move(self, var: relax.Var, value: relax.Expr) -> None:
        function = unit_of(self.module, value)
        if function is None:
            self.new[var] = self.caller.emit(replace_tensors(value, self.new), var.name)
            return
        arguments = dict(zip(function.params, value.args, strict=True))
        called = {param: self.new.get(argument, argument) for param, argument in arguments.items()}
        halos = dict(self.halos)
        source = _padded_source(function)
        if source is not None and arguments[source[0]] not in halos:
            param, border = source
            halos[arguments[param]] = border
            called[param] = self._padded_alone(arguments[param], border)
        rebuilt, order = self._rebuild(function, arguments, called, halos, var)
        self.new[var] = self.caller.call(rebuilt, order, var.name)

    def _padded_alone(self, argument: relax.Expr, border: Border) -> relax.Var:
        """A copy of a tensor with a border, made by a unit of its own."""
        key = (argument, border)
        if key not in self.padded:
            physical = self.new.get(argument, argument)
            param = relax.Var(argument.name, physical.ty)
            inner = Emitter()
            result = inner.emit(_pad(param, border))
            attributes = unit_attributes(Kind.GENERIC, argument.name, ["pad"])
            self.padded[key] = self.caller.call(inner.function([param], result, attributes), [physical])
        return self.padded[key]

    def _rebuild(
        self,
        function: relax.Function,
        arguments: Mapping[relax.Var, relax.Expr],
        called: Mapping[relax.Var, relax.Expr],
        halos: Mapping[relax.Var, Border],
        result: relax.Var,
    ) -> tuple[relax.Function, list[relax.Expr]]:
        """The unit on the tensors as they now lie: windows in front, the border behind."""
        inner = Emitter()
        params = {param: relax.Var(param.name, argument.ty) for param, argument in called.items()}
        inside: dict[relax.Var, relax.Expr] = {}
        lines = list(bindings(function))
        source = _padded_source(function)
        if source is not None:
            param, border = source
            chain, (anchor, convolution) = _up_to_convolution(function)
            inside[param] = _around(inner, params[param], halos[arguments[param]].widths, border.widths)
            for var, value in chain:
                inside[var] = inner.emit(replace_tensors(value, inside), var.name)
            inside[anchor] = inner.emit(_unpadded(convolution, inside[convolution.args[0]]), anchor.name)
            del inside[param]
            lines = lines[len(chain) + 1 :]
        for param, physical in params.items():
            used = any(param in tensors_in(value) for _, value in lines)
            if not used:
                continue
            halo = halos.get(arguments[param])
            inside[param] = physical if halo is None else _window(inner, physical, halo.widths, shape_of(param))
        for var, value in lines:
            inside[var] = inner.emit(replace_tensors(value, inside), var.name)
        value = inside[result_of(function)]
        if result in self.halos:
            value = inner.emit(_pad(value, self.halos[result]))
        return inner.function(list(params.values()), value, attributes_of(function)), list(called.values())


def _around(inner: Emitter, physical: relax.Expr, halo: Widths, widths: Widths) -> relax.Expr:
    """What a convolution with padding sees of a tensor that has a border of `halo`, as wide as that or wider."""
    inside = zip(shape_of(physical), halo, widths, strict=True)
    extents = tuple(extent - sum(have) + sum(own) for extent, have, own in inside)
    inset = tuple((before - own, 0) for (before, _), (own, _) in zip(halo, widths, strict=True))
    return _window(inner, physical, inset, extents)


def _unpadded(convolution: relax.Call, source: relax.Expr) -> relax.Expr:
    """The convolution of a tensor that has the padding around it."""
    return convolution_like(convolution, source, convolution.args[1], padding=[0] * len(convolution.attrs.padding))


def _pad(value: relax.Expr, border: Border) -> relax.Expr:
    return relax.op.nn.pad(value, [width for pair in border.widths for width in pair], pad_value=border.value)


def _window(inner: Emitter, value: relax.Expr, pads: Widths, extents: tuple[int, ...]) -> relax.Expr:
    """The slice of `extents` that begins after the borders."""
    if shape_of(value) == extents:
        return value
    begin = [before for before, _ in pads]
    end = [start + extent for start, extent in zip(begin, extents, strict=True)]
    axes = list(range(len(extents)))
    return inner.emit(relax.op.strided_slice(value, axes, begin, end))
