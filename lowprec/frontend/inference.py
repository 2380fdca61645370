"""One node's output types, by ONNX's own inference at its version, from static types and small constants."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from onnx import NodeProto, TensorProto, TypeProto, checker, defs, helper, numpy_helper, shape_inference

from lowprec.errors import InvalidModel, Unsupported
from lowprec.frontend.graph import Array, TensorSpec
from lowprec.frontend.limits import Limits
from lowprec.frontend.naming import label, one_line, quote
from lowprec.frontend.shapes import Declared, declared_type, type_proto
from lowprec.frontend.tensors import check_shape

SMALL = 4096
"""Constants of at most so many elements are shown to inference (shapes, axes, sizes, scales)."""

NEWER = {"AveragePool": 22, "GreaterOrEqual": 16, "LessOrEqual": 16, "LpPool": 22, "MaxPool": 22}
"""Operators whose earlier versions are typed as this one is. Comparisons had no inference of their own; a pool in
ceiling mode had a window that begins behind the input, which no runtime makes."""

LIKE_FIRST = frozenset(("GroupNormalization", "MeanVarianceNormalization"))
"""Operators without inference, whose result is of the type of their first input."""


def schema_of(node: NodeProto, version: int) -> defs.OpSchema:
    """The operator's definition at that opset version."""
    try:
        return _schema(node.op_type, version, node.domain)
    except defs.SchemaError as error:
        domain = node.domain or "ai.onnx"
        raise Unsupported(f"{label(node)}: {domain} {version} has no operator {quote(node.op_type)}") from error


@lru_cache(maxsize=1024)
def _schema(op: str, version: int, domain: str) -> defs.OpSchema:
    return defs.get_schema(op, version, domain)


def infer(
    node: NodeProto,
    schema: defs.OpSchema,
    version: int,
    types: Mapping[str, TensorSpec],
    constants: Mapping[str, Array],
    declared: Mapping[str, Declared],
    limits: Limits,
) -> tuple[TensorSpec, ...]:
    """The static type of each present output, in order; a later output nobody can type is left out of the result."""
    present = [name for name in node.input if name]
    inferred = _run(schema, node, version, present, types, constants)
    specs = []
    for position, name in enumerate(node.output):
        if not name:
            continue
        try:
            specs.append(_settle(name, inferred.get(name), declared.get(name), node, limits))
        except Unsupported:
            if position == 0:
                raise
    return tuple(specs)


def _run(
    schema: defs.OpSchema,
    node: NodeProto,
    version: int,
    present: Sequence[str],
    types: Mapping[str, TensorSpec],
    constants: Mapping[str, Array],
) -> dict[str, TypeProto]:
    if not node.domain and node.op_type in LIKE_FIRST:
        return {node.output[0]: type_proto(types[present[0]])}
    newer = NEWER.get(node.op_type, 0) if not node.domain else 0
    if version < newer:
        schema, version = _schema(node.op_type, newer, ""), newer
    try:
        return shape_inference.infer_node_outputs(
            schema,
            node,
            {name: type_proto(types[name]) for name in present},
            {name: _small_tensor(constants[name], name) for name in present if _is_small(constants.get(name))},
            opset_imports=[helper.make_opsetid(node.domain, version)],
        )
    except shape_inference.InferenceError as error:
        raise InvalidModel(f"{label(node)}: {one_line(str(error).removeprefix('[ShapeInferenceError] '))}") from error
    except (checker.ValidationError, RuntimeError, ValueError, IndexError) as error:
        raise InvalidModel(f"{label(node)}: its output shape cannot be inferred: {one_line(str(error))}") from error


def _is_small(array: Array | None) -> bool:
    return array is not None and array.size <= SMALL and array.dtype != object


def _small_tensor(array: Array, name: str) -> TensorProto:
    return numpy_helper.from_array(array, name)


def _settle(name: str, found: TypeProto | None, stated: Declared | None, node: NodeProto, limits: Limits) -> TensorSpec:
    """What was inferred, completed by what the file declares."""
    what = f"{label(node)}: output {quote(name)}"
    guess = declared_type(found, what) if found is not None and found.WhichOneof("value") else None
    if guess is None and (stated is None or not stated.dtype):
        raise Unsupported(f"{what}: its type cannot be known before the model runs")
    dtype = guess.dtype if guess is not None else stated.dtype  # type: ignore[union-attr]
    if guess is not None and stated is not None and stated.dtype not in ("", dtype):
        raise InvalidModel(f"{what} is {dtype}, but the file declares {stated.dtype}")
    shape = _shape(what, guess.dims if guess else None, stated.dims if stated else None)
    check_shape(shape, dtype, what, limits)
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _shape(
    what: str, found: tuple[int | str | None, ...] | None, stated: tuple[int | str | None, ...] | None
) -> tuple[int, ...]:
    if found is None and stated is None:
        raise Unsupported(f"{what}: its shape depends on values known only when the model runs")
    if found is not None and stated is not None and len(found) != len(stated):
        raise InvalidModel(f"{what} has rank {len(found)}, but the file declares {len(stated)}")
    rank = len(found if found is not None else stated or ())
    shape = []
    for axis in range(rank):
        mine = found[axis] if found is not None else None
        theirs = stated[axis] if stated is not None else None
        if isinstance(mine, int) and isinstance(theirs, int) and mine != theirs:
            raise InvalidModel(f"{what}: dimension {axis} is {mine}, but the file declares {theirs}")
        extent = mine if isinstance(mine, int) else theirs
        if not isinstance(extent, int):
            raise Unsupported(f"{what}: dimension {axis} depends on values known only when the model runs")
        shape.append(extent)
    return tuple(shape)
