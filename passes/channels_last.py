"""Channels innermost for the whole network.

    before:  y = conv2d(x, w)  NCHW;  z = relu(y);  u = concat([z, v], axis=1);  reshape(u, ...)
    after:   x' = permute(x);  y' = conv2d(x', w)  NHWC;  z' = relu(y');  u' = concat([z', v'], axis=3);
             reshape(permute(u'), ...)

Convolutions, pools and resizes want channels last, but for those of main's `PLANES`; whatever can follow does, on any
axes: elementwise operators, concat, reductions, softmax, slices, pads; and LRN, by a function of its own. A transpose
moves nothing: the value keeps its place in memory and only its axes' names change. A reshape that splits or merges axes
lying together moves nothing either. What is left needs the ONNX order, and gets a permute.

Each value's physical order is recorded on main, for whoever reads a layer's output by its ONNX name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from tvm import IRModule, ir, relax, tirx

from lowprec.passes.drawing import WORDS_OP, parameters, words
from lowprec.passes.editing import (
    AXES,
    MAIN,
    PLANES,
    Constant,
    Emitter,
    array_of,
    attributes_of,
    bindings,
    convolution_like,
    dtype_of,
    is_constant,
    is_tensor,
    layers_in,
    op_name,
    replace_main,
    replace_tensors,
    result_of,
    shape_of,
    tensors_in,
)
from lowprec.passes.elementwise import ELEMENTWISE_OPS
from lowprec.passes.local_response import last_function, response_of
from lowprec.passes.reshaping import regroup
from lowprec.passes.signs import signs_of
from lowprec.passes.widening import chain_of

Axes = tuple[int, ...]
DEFAULT_LAYOUTS = ("NCW", "NCHW", "NCDHW")
LAST_LAYOUTS = {"NCW": "NWC", "NCHW": "NHWC", "NCDHW": "NDHWC"}
REDUCTIONS = ("max", "mean", "min", "prod", "std", "sum", "variance")


def channels_last(module: IRModule) -> IRModule:
    """The pass, over main."""
    main = module[MAIN]
    rewriter = _Rewriter(module=module, planes=_planes(main))
    for param in main.params:
        rewriter.values[param] = _Value(param, identity(param)) if is_tensor(param) else _Value(param, ())
    outputs = set(tensors_in(result_of(main)))
    for var, value in bindings(main):
        rewriter.rewrite(var, value)
        if var in outputs:
            rewriter.in_order(var)  # at once, while it is in cache, so that its memory can be used again
    result = rewriter.in_order_everywhere(result_of(main))
    axes = {name: list(order) for name, order in rewriter.orders.items() if order != tuple(range(len(order)))}
    attributes = attributes_of(main) | {AXES: axes}
    updated = replace_main(module, rewriter.emitter.function(list(main.params), result, attributes))
    return IRModule({**dict(updated.functions_items()), **rewriter.functions}, attrs=module.attrs)


def leaving_planes(module: IRModule, layers: Sequence[str]) -> IRModule:
    """The module with the layers whose images the pass leaves as they are."""
    main = module[MAIN]
    return replace_main(module, main.with_attrs({PLANES: list(layers)})) if layers else module


def _planes(main: relax.Function) -> set[relax.Var]:
    """The convolutions of layers whose images stay as they are: an operator without a name is of the next named one's
    layer."""
    kept = {str(name) for name in attributes_of(main).get(PLANES, ())}  # type: ignore[attr-defined]
    layers, layer, found = layers_in(main), "", set()
    for var, value in reversed(list(bindings(main)) if kept else []):
        layer = layers.get(var.name, layer)
        if layer in kept and op_name(value) == "relax.nn.conv2d":
            found.add(var)
    return found


def identity(value: relax.Expr) -> Axes:
    return tuple(range(len(shape_of(value))))


def last(rank: int) -> Axes:
    """Physical order of channels-last: the logical axis at each position."""
    return (0, *range(2, rank), 1)


def inverse(axes: Axes) -> Axes:
    return tuple(int(i) for i in np.argsort(axes))


def _moved(physical: relax.Expr, order: Axes) -> relax.Expr:
    """A permute, or a reshape when only axes of one element change places."""
    shape = shape_of(physical)
    long = [axis for axis in order if shape[axis] != 1]
    if long == sorted(long):
        return relax.op.reshape(physical, tuple(shape[axis] for axis in order))
    return relax.op.permute_dims(physical, order)


@dataclass(frozen=True, slots=True)
class _Value:
    """A logical tensor: `physical`'s axis i is the logical axis `axes[i]`."""

    physical: relax.Expr
    axes: Axes

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape."""
        extents = shape_of(self.physical)
        return tuple(extents[position] for position in inverse(self.axes))


@dataclass(slots=True)
class _Rewriter:
    module: IRModule
    functions: dict[ir.GlobalVar, tirx.PrimFunc] = field(default_factory=dict)
    planes: set[relax.Var] = field(default_factory=set)
    emitter: Emitter = field(default_factory=Emitter)
    values: dict[relax.Var, _Value] = field(default_factory=dict)
    definitions: dict[relax.Var, relax.Expr] = field(default_factory=dict)
    copies: dict[tuple[relax.Var, Axes], relax.Var] = field(default_factory=dict)  # by physical order of the source
    orders: dict[str, Axes] = field(default_factory=dict)
    chains: dict[relax.Var, relax.Call] = field(default_factory=dict)  # steps of `widening` and `signs`
    words: dict[relax.Var, relax.Call] = field(default_factory=dict)

    def rewrite(self, var: relax.Var, value: relax.Expr) -> None:
        self.definitions[var] = value
        chain = (var,) if chain_of(var, self.definitions) else signs_of(var, self.definitions)
        self.chains.update((step, self.definitions[step]) for step in chain)
        rule = RULES.get(op_name(value))
        done = rule(self, var, value) if rule is not None else None
        if done is None:
            done = self._as_written(var, value)
        self.values[var] = done
        self.orders[var.name] = done.axes

    def look_up(self, expression: relax.Expr) -> _Value:
        if isinstance(expression, relax.Var):
            return self.values[expression]
        return _Value(expression, identity(expression))

    def arranged(self, expression: relax.Expr, axes: Axes) -> relax.Expr:
        """The tensor with its logical axes in that physical order, moved at most once."""
        if expression in self.words:
            return self._arranged_words(expression, axes)
        value = self.look_up(expression)
        if value.axes == axes:
            return value.physical
        if expression in self.chains:
            return self._moved_chain(expression, axes)
        order = tuple(value.axes.index(axis) for axis in axes)
        if is_constant(value.physical):
            return relax.const(np.ascontiguousarray(array_of(value.physical).transpose(order)), dtype_of(expression))
        key = (value.physical, order)
        if key not in self.copies:
            self.copies[key] = self.emitter.emit(_moved(value.physical, order))
        return self.copies[key]

    def _moved_chain(self, expression: relax.Var, axes: Axes) -> relax.Expr:
        """What the chain begins with is moved, and the rest done again."""
        key = (expression, axes)
        if key not in self.copies:
            step = self.chains[expression]
            source = next(tensor for tensor in tensors_in(step) if isinstance(tensor, relax.Var))
            moved = replace_tensors(step, {source: self.arranged(source, axes)})
            self.copies[key] = self.emitter.emit(moved)
        return self.copies[key]

    def _arranged_words(self, expression: relax.Var, axes: Axes) -> relax.Expr:
        """Random words are made in the order that they are wanted in."""
        key = (expression, axes)
        if key not in self.copies:
            call = self.words[expression]
            name, shape, _ = parameters(call)
            step = self.look_up(call.args[0]).physical
            arranged = words(step, name, [shape[axis] for axis in axes], axes)
            self.copies[key] = self.emitter.emit(arranged, expression.name)
        return self.copies[key]

    def in_order(self, expression: relax.Expr) -> relax.Expr:
        """The tensor as ONNX has it."""
        return self.arranged(expression, identity(expression)) if is_tensor(expression) else expression

    def in_order_everywhere(self, expression: relax.Expr) -> relax.Expr:
        """The expression with every variable in ONNX order."""
        if isinstance(expression, relax.Tuple):
            return relax.Tuple([self.in_order_everywhere(field) for field in expression.fields])
        if isinstance(expression, relax.Var) and not is_tensor(expression):
            return self.values[expression].physical
        return self.in_order(expression)

    def _as_written(self, var: relax.Var, value: relax.Expr) -> _Value:
        new = {
            source: self.in_order_everywhere(source)
            for source in relax.analysis.free_vars(value)
            if source in self.values
        }
        emitted = self.emitter.emit(replace_tensors(value, new), var.name)
        return _Value(emitted, identity(emitted) if is_tensor(emitted) else ())

    def emit(self, value: relax.Expr, var: relax.Var, axes: Axes) -> _Value:
        return _Value(self.emitter.emit(value, var.name), axes)


def _words(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value:
    rewriter.words[var] = call
    return _Value(var, identity(var))


Rule = Callable[[_Rewriter, relax.Var, relax.Call], _Value | None]


def _convolution(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    attrs = call.attrs
    if attrs.data_layout not in DEFAULT_LAYOUTS or var in rewriter.planes:
        return None
    axes = last(len(shape_of(var)))
    layout = LAST_LAYOUTS[attrs.data_layout]
    source, weights = rewriter.arranged(call.args[0], axes), rewriter.in_order(call.args[1])
    convolved = convolution_like(call, source, weights, layout=layout)
    return rewriter.emit(convolved, var, axes)


def _pool(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    attrs = call.attrs
    if attrs.layout not in DEFAULT_LAYOUTS:
        return None
    axes = last(len(shape_of(var)))
    function = getattr(relax.op.nn, op_name(call).rsplit(".", 1)[1])
    pooled = function(
        rewriter.arranged(call.args[0], axes),
        pool_size=attrs.pool_size,
        strides=attrs.strides,
        padding=attrs.padding,
        dilation=attrs.dilation,
        ceil_mode=attrs.ceil_mode,
        count_include_pad=attrs.count_include_pad,
        layout=LAST_LAYOUTS[attrs.layout],
        out_layout=LAST_LAYOUTS[attrs.layout],
    )
    return rewriter.emit(pooled, var, axes)


def _resize(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    attrs = call.attrs
    if attrs.layout != "NCHW":
        return None
    axes = last(4)
    resized = relax.op.image.resize2d(
        rewriter.arranged(call.args[0], axes),
        call.args[1],
        roi=tuple(float(edge) for edge in attrs.roi),
        layout="NHWC",
        method=attrs.method,
        coordinate_transformation_mode=attrs.coordinate_transformation_mode,
        rounding_method=attrs.rounding_method,
        cubic_alpha=attrs.cubic_alpha,
        cubic_exclude=attrs.cubic_exclude,
        extrapolation_value=attrs.extrapolation_value,
        out_dtype=attrs.out_dtype or None,
    )
    return rewriter.emit(resized, var, axes)


def _elementwise(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    """Every operand in the order of the first one that has moved; short ones are given their missing axes."""
    rank = len(shape_of(var))
    operands = [argument for argument in call.args if isinstance(argument, relax.Var | Constant)]
    moved = [
        value.axes
        for value in map(rewriter.look_up, operands)
        if len(value.axes) == rank and value.axes != tuple(range(rank))
    ]
    if not moved:
        return None
    axes = moved[0]

    def place(argument: relax.Expr) -> relax.Expr:
        if not isinstance(argument, relax.Var | Constant):
            return argument
        shape = shape_of(argument)
        if len(shape) in (0, rank) or int(np.prod(shape)) == 1:
            return rewriter.arranged(argument, axes) if len(shape) == rank else rewriter.in_order(argument)
        widened = (1,) * (rank - len(shape)) + shape
        physical = tuple(widened[axis] for axis in axes)
        if sum(extent > 1 for extent in shape) <= 1:
            return _reshaped(rewriter, rewriter.in_order(argument), physical)
        full = _reshaped(rewriter, rewriter.in_order(argument), widened)
        if is_constant(full):
            return relax.const(np.ascontiguousarray(array_of(full).transpose(axes)), dtype_of(argument))
        return rewriter.emitter.emit(relax.op.permute_dims(full, axes))

    return rewriter.emit(relax.Call(call.op, [place(a) for a in call.args], call.attrs), var, axes)


def _reshaped(rewriter: _Rewriter, value: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
    if is_constant(value):
        return relax.const(array_of(value).reshape(shape), dtype_of(value))
    return rewriter.emitter.emit(relax.op.reshape(value, shape))


def _concat(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    fields = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
    moved = [value.axes for value in map(rewriter.look_up, fields) if value.axes != tuple(range(len(value.axes)))]
    if not moved:
        return None
    axes = moved[0]
    axis = int(call.attrs.axis) % len(axes)
    joined = relax.op.concat([rewriter.arranged(field, axes) for field in fields], axis=axes.index(axis))
    return rewriter.emit(joined, var, axes)


def _reduction(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    value = rewriter.look_up(call.args[0])
    rank = len(value.axes)
    if value.axes == tuple(range(rank)) or call.attrs.axis is None:
        return None
    reduced = sorted(int(axis) % rank for axis in call.attrs.axis)
    positions = sorted(value.axes.index(axis) for axis in reduced)
    function = getattr(relax.op, op_name(call).rsplit(".", 1)[1])
    keep = bool(call.attrs.keepdims)
    kept = [axis for axis in value.axes if axis not in reduced]
    axes = value.axes if keep else tuple(sorted(kept).index(axis) for axis in kept)
    return rewriter.emit(function(value.physical, positions, keepdims=keep), var, axes)


def _softmax(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    value = rewriter.look_up(call.args[0])
    axis = int(call.attrs.axis) % len(value.axes)
    function = getattr(relax.op.nn, op_name(call).rsplit(".", 1)[1])
    return rewriter.emit(function(value.physical, axis=value.axes.index(axis)), var, value.axes)


def _pad(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    if str(call.attrs.pad_mode) != "constant":
        return None
    value = rewriter.look_up(call.args[0])
    widths = [int(width) for width in call.attrs.pad_width]
    physical = [width for axis in value.axes for width in widths[2 * axis : 2 * axis + 2]]
    return rewriter.emit(relax.op.nn.pad(value.physical, physical, "constant", call.attrs.pad_value), var, value.axes)


def _slice(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    value = rewriter.look_up(call.args[0])
    rank = len(value.axes)
    axes, *ranges = ([int(item) for item in argument.fields] for argument in call.args[1:])
    positions = [value.axes.index(axis % rank) for axis in axes]
    sliced = relax.op.strided_slice(value.physical, positions, *ranges, assume_inbound=call.attrs.assume_inbound)
    return rewriter.emit(sliced, var, value.axes)


def _permute(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    """Logical axis j of the result is axis order[j] of the argument; the memory stays."""
    value = rewriter.look_up(call.args[0])
    rank = len(value.axes)
    order = tuple(int(axis) % rank for axis in call.attrs.axes) if call.attrs.axes else tuple(reversed(range(rank)))
    if is_constant(value.physical):
        return None
    new = inverse(order)
    return _Value(value.physical, tuple(new[axis] for axis in value.axes))


def _reshape(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    value = rewriter.look_up(call.args[0])
    target = shape_of(var)
    if value.axes == tuple(range(len(value.axes))) or is_constant(value.physical):
        return None
    moved = regroup(value.shape, target, value.axes)
    if moved is None:
        return None
    source = rewriter.arranged(call.args[0], moved.arrange)
    physical = tuple(target[axis] for axis in moved.axes)
    return rewriter.emit(relax.op.reshape(source, physical), var, moved.axes)


def _called(rewriter: _Rewriter, var: relax.Var, call: relax.Call) -> _Value | None:
    """A function of our own that knows how channels lie side by side."""
    numbers = response_of(rewriter.module[call.args[0]])
    if numbers is None:
        return None
    (source,) = call.args[1].fields
    axes = last(len(shape_of(var)))
    if rewriter.look_up(source).axes != axes:
        return None
    arranged = rewriter.arranged(source, axes)
    function = last_function(numbers, shape_of(arranged), dtype_of(arranged))
    name = relax.BlockBuilder().add_func(function, f"{call.args[0].name_hint}_last")
    rewriter.functions[name] = function
    return rewriter.emit(relax.call_tir(name, relax.Tuple([arranged]), arranged.ty), var, axes)


RULES: dict[str, Rule] = {
    "relax.call_tir": _called,
    **{f"relax.nn.conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"relax.nn.{kind}_pool{n}d": _pool for kind in ("max", "avg") for n in (1, 2, 3)},
    **{f"relax.{name}": _reduction for name in REDUCTIONS},
    **dict.fromkeys(ELEMENTWISE_OPS, _elementwise),
    "relax.concat": _concat,
    "relax.image.resize2d": _resize,
    "relax.nn.log_softmax": _softmax,
    "relax.nn.pad": _pad,
    "relax.nn.softmax": _softmax,
    "relax.permute_dims": _permute,
    "relax.reshape": _reshape,
    "relax.strided_slice": _slice,
    WORDS_OP: _words,
}
