"""Relax functions as straight-line programs: reading their bindings, and writing new ones with the names kept.

A variable's name is the ONNX tensor's it stands for. Values that stand for none are named `UNNAMED`, which no ONNX
tensor is.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import IRModule, ir, relax
from tvm.relax import BlockBuilder

UNNAMED = ""
MAIN = "main"
LAYERS = "lowprec.layers"  # on main: ONNX tensor name -> the name users know its layer by
AXES = "lowprec.axes"  # on main: ONNX tensor name -> the logical axis at each physical position
PLANES = "lowprec.planes"  # on main: layers whose images stay as ONNX has them
OPERATOR = "lowprec.op"  # on a function of our own: the ONNX operator it computes, its numbers beside it
WINDOWS = "lowprec.windows"  # on main: ONNX tensor name -> where it begins in a padded tensor, and its extents

Array = NDArray[np.generic]
Constant = ir.GenericConst


def bindings(function: relax.Function) -> Iterator[tuple[relax.Var, relax.Expr]]:
    """Every (variable, value) of a straight-line function, in order."""
    for block in function.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


def op_name(value: relax.Expr) -> str:
    """The operator a call calls ("relax.add"), or nothing."""
    if isinstance(value, relax.Call) and isinstance(value.op, ir.Op):
        return str(value.op.name)
    return ""


def shape_of(value: relax.Expr) -> tuple[int, ...]:
    """A tensor's static shape."""
    return tuple(int(extent) for extent in value.ty.shape.values)


def dtype_of(value: relax.Expr) -> str:
    return str(value.ty.dtype)


def is_tensor(value: relax.Expr) -> bool:
    return isinstance(value.ty, relax.TensorType)


def is_constant(value: relax.Expr) -> bool:
    return isinstance(value, Constant)


def array_of(constant: relax.Expr) -> Array:
    """A constant's value."""
    return constant.value.numpy()  # type: ignore[no-any-return]


def tensors_in(value: relax.Expr) -> Iterator[relax.Expr]:
    """The variables and constants that a value reads, in order, those inside tuples included."""
    if isinstance(value, relax.Var | Constant):
        yield value
    elif isinstance(value, relax.Tuple):
        for field in value.fields:
            yield from tensors_in(field)
    elif isinstance(value, relax.TupleGetItem):
        yield from tensors_in(value.tuple_value)
    elif isinstance(value, relax.Call):
        for argument in value.args:
            yield from tensors_in(argument)


def replace_tensors(value: relax.Expr, new: Mapping[relax.Expr, relax.Expr]) -> relax.Expr:
    """The same value, reading `new[v]` wherever it read the variable or constant v."""
    if isinstance(value, relax.Var | Constant):
        return new.get(value, value)
    if isinstance(value, relax.Tuple):
        return relax.Tuple([replace_tensors(field, new) for field in value.fields])
    if isinstance(value, relax.TupleGetItem):
        return relax.TupleGetItem(replace_tensors(value.tuple_value, new), value.index)
    if isinstance(value, relax.Call):
        arguments = [replace_tensors(argument, new) for argument in value.args]
        return relax.Call(value.op, arguments, value.attrs, value.ty_args)
    return value


def convolution_like(
    call: relax.Call,
    source: relax.Expr,
    weights: relax.Expr,
    *,
    padding: Sequence[int] | None = None,
    layout: str = "",
    dtype: str = "",
) -> relax.Expr:
    """The same convolution of another source; padded, laid out or summed differently where that is given."""
    attrs = call.attrs
    layout = layout or str(attrs.data_layout)
    function = getattr(relax.op.nn, op_name(call).rsplit(".", 1)[1])
    return function(
        source,
        weights,
        strides=attrs.strides,
        padding=attrs.padding if padding is None else padding,
        dilation=attrs.dilation,
        groups=attrs.groups,
        data_layout=layout,
        kernel_layout=attrs.kernel_layout,
        out_layout=layout,
        out_dtype=dtype or attrs.out_dtype,
    )


class Emitter:
    """Writes a straight-line function, one binding after the other."""

    def __init__(self) -> None:
        self._normalize = BlockBuilder().normalize
        self._bindings: list[relax.VarBinding] = []

    def emit(self, value: relax.Expr, name: str = UNNAMED) -> relax.Var:
        """Bind a value to a new variable of exactly that name."""
        value = self._normalize(value)
        var = relax.Var(name, value.ty)
        self._bindings.append(relax.VarBinding(var, value))
        return var

    def keep(self, var: relax.Var, value: relax.Expr) -> None:
        """Bind a value to a variable that there is already."""
        self._bindings.append(relax.VarBinding(var, self._normalize(value)))

    def function(
        self, params: list[relax.Var], result: relax.Expr, attrs: Mapping[str, object] | None = None
    ) -> relax.Function:
        """The function of everything emitted so far."""
        result = self._normalize(result)
        body = relax.SeqExpr([relax.BindingBlock(self._bindings)], result)
        function = relax.Function(params, body, result.ty, is_pure=True)
        return function.with_attrs(dict(attrs)) if attrs else function


def result_of(function: relax.Function) -> relax.Expr:
    return function.body.body


def attributes_of(function: relax.Function) -> dict[str, object]:
    """A function's attributes as a dictionary to extend."""
    return {str(key): value for key, value in function.attrs.items()} if function.attrs else {}


def layers_in(main: relax.Function) -> dict[str, str]:
    """The layer of each ONNX tensor of main."""
    known = attributes_of(main).get(LAYERS, {})
    return {str(tensor): str(layer) for tensor, layer in known.items()}  # type: ignore[attr-defined]


def replace_main(module: IRModule, main: relax.Function) -> IRModule:
    """A module with another main function."""
    functions = {var: function for var, function in module.functions_items() if var.name_hint != MAIN}
    return IRModule({**functions, ir.GlobalVar(MAIN): main}, attrs=module.attrs)
