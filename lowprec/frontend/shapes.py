"""Static shapes: what the model's inputs are fixed to, and what a type declaration says.

A symbolic first dimension defaults to 1; any other must be given. One symbol is one size, wherever it stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto, TypeProto, ValueInfoProto

from lowprec.errors import InvalidModel, Unsupported, UsageError
from lowprec.frontend.graph import TensorSpec
from lowprec.frontend.limits import Limits
from lowprec.frontend.naming import nearest, quote
from lowprec.frontend.tensors import check_shape, dtype_name, element_type

Dimension = int | str | None
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A declared type: each dimension a size, a symbol or unknown; no dimensions at all when the rank is unknown. The
    dtype is "" where the shape alone is known."""

    dtype: str
    dims: tuple[Dimension, ...] | None


SAME_SHAPE = frozenset({"Abs", "Cast", "CastLike", "Exp", "Identity", "Log", "Neg", "Reciprocal", "Relu", "Sqrt"})
"""Operators whose result has the shape of their first input."""


def declared_before(nodes: Sequence[NodeProto], declared: Mapping[str, Declared]) -> dict[str, Declared]:
    """What the declarations say of values further up: through operators that keep a shape, it is known backwards too.

    The body of ReduceL2 needs it: the square root of a sum over axes that only the run knows.
    """
    known = dict(declared)
    for node in reversed(nodes):
        if node.domain == "" and node.op_type in SAME_SHAPE and node.input and node.output:
            stated = known.get(node.output[0])
            if stated is not None:
                known.setdefault(node.input[0], Declared(dtype="", dims=stated.dims))
    return known


def declared_type(kind: TypeProto, what: str) -> Declared:
    """The tensor type a declaration states; anything but a dense tensor is refused."""
    form = kind.WhichOneof("value")
    if form is None:
        raise InvalidModel(f"{what} has no type")
    if form != "tensor_type":
        raise Unsupported(f"{what} is a {form.removesuffix('_type')}; only dense tensors are supported")
    tensor = kind.tensor_type
    dtype = dtype_name(tensor.elem_type, what)
    if not tensor.HasField("shape"):
        return Declared(dtype=dtype, dims=None)
    return Declared(dtype=dtype, dims=tuple(_dimension(dim, what) for dim in tensor.shape.dim))


def _dimension(dim: object, what: str) -> Dimension:
    form = dim.WhichOneof("value")  # type: ignore[attr-defined]
    if form == "dim_param":
        return str(dim.dim_param) or None  # type: ignore[attr-defined]
    if form is None:
        return None
    size = int(dim.dim_value)  # type: ignore[attr-defined]
    if size < 0:
        raise InvalidModel(f"{what} has a dimension of size {size}: it cannot be negative")
    return size


def input_specs(inputs: Sequence[ValueInfoProto], given: Shapes, limits: Limits) -> tuple[TensorSpec, ...]:
    """The static types of the model's real inputs (without initializers)."""
    names = [info.name for info in inputs]
    for name in given:
        if name not in names:
            listed = ", ".join(quote(known) for known in names[:8]) or "none"
            raise UsageError(f"input shape for {quote(name)}: no such input{nearest(name, names)}; inputs are {listed}")
    declared = {info.name: declared_type(info.type, f"input {quote(info.name)}") for info in inputs}
    symbols: dict[str, int] = {}
    for name, shape in given.items():
        _bind(name, declared[name], tuple(shape), symbols)
    specs = []
    for name, kind in declared.items():
        shape = tuple(given[name]) if name in given else _resolve(name, kind, symbols)
        check_shape(shape, kind.dtype, f"input {quote(name)}", limits)
        specs.append(TensorSpec(name=name, dtype=kind.dtype, shape=shape))
    return tuple(specs)


def _bind(name: str, kind: Declared, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    what = f"input shape for {quote(name)}: {list(shape)}"
    if any(extent < 1 for extent in shape):
        raise UsageError(f"{what}: every extent must be at least 1")
    if kind.dims is None:
        return
    if len(shape) != len(kind.dims):
        raise UsageError(f"{what} has {len(shape)} dimensions, the model declares {_written(kind.dims)}")
    for extent, dim in zip(shape, kind.dims, strict=True):
        if isinstance(dim, int) and dim != extent:
            raise UsageError(f"{what} contradicts the model, which declares {_written(kind.dims)}")
        if isinstance(dim, str) and symbols.setdefault(dim, extent) != extent:
            raise UsageError(f"{what}: dimension {quote(dim)} is {symbols[dim]} elsewhere")


def _resolve(name: str, kind: Declared, symbols: dict[str, int]) -> tuple[int, ...]:
    if kind.dims is None:
        raise UsageError(
            f"input {quote(name)} has no shape: give one with --input-shape {name}:1x3x224x224 (input_shapes=)"
        )
    shape: list[int] = []
    for axis, dim in enumerate(kind.dims):
        if isinstance(dim, int):
            shape.append(dim)
        elif isinstance(dim, str) and dim in symbols:
            shape.append(symbols[dim])
        elif axis == 0:
            shape.append(1)
        else:
            symbol = f" ({quote(dim)})" if dim else ""
            raise UsageError(
                f"input {quote(name)} is {_written(kind.dims)}: dimension {axis}{symbol} is not fixed; "
                f"give the whole shape with --input-shape (input_shapes=)"
            )
    return tuple(shape)


def _written(dims: tuple[Dimension, ...]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"


def type_proto(spec: TensorSpec) -> TypeProto:
    """The ONNX form of a static type."""
    kind = TypeProto()
    kind.tensor_type.elem_type = element_type(spec.dtype)
    kind.tensor_type.shape.SetInParent()
    for extent in spec.shape:
        kind.tensor_type.shape.dim.add().dim_value = extent
    return kind
