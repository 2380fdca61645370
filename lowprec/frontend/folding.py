"""Constant operators evaluated in NumPy, within a budget, after their output types are known.

Operators that only rearrange or fill give views (a broadcast scalar costs nothing, whatever its shape); the rest of the
cheap ones run in onnx's reference evaluator. What is random, stateful or heavy is not evaluated here.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import GraphProto, NodeProto

from lowprec.errors import InvalidModel
from lowprec.frontend.graph import Array, Attribute, TensorSpec
from lowprec.frontend.naming import label, one_line, quote
from lowprec.frontend.shapes import type_proto
from lowprec.frontend.tensors import item_size

Specs = Sequence[TensorSpec]
Arrays = Sequence[Array | None]
EVALUATION_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike "
    "Ceil Celu Clip Cos Cosh DequantizeLinear Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid "
    "HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow "
    "QuantizeLinear Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Tan Tanh "
    "ThresholdedRelu Where Xor"
)
MOVING = (
    "ArgMax ArgMin Compress Concat CumSum DepthToSpace EyeLike Gather GatherElements GatherND NonZero OneHot Pad Range "
    "ReverseSequence ScatterElements ScatterND Slice SpaceToDepth Split Tile TopK Transpose Trilu Unique Upsample"
)
REDUCING = (
    "LogSoftmax ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Softmax"
)
PRODUCTS = ("Gemm", "MatMul")
VIEWING = frozenset(
    ("ConstantOfShape", "Expand", "Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze")
)
DATA_SHAPED = frozenset(("Compress", "NonZero", "Unique"))
"""Operators whose output shape no inference knows, but whose result is never much larger than their operands."""
SLOW = frozenset(("Erf", "GatherND", "ReverseSequence", "ScatterElements", "ScatterND", "TopK", "Unique"))
"""Operators that the reference evaluator sorts for or loops over."""
EVALUATED_FROM = {"DequantizeLinear": 19, "QuantizeLinear": 19}
"""The first version that onnx's evaluator has, where older ones mean the same."""
BY_REFERENCE = frozenset((*f"{ELEMENTWISE} {MOVING} {REDUCING}".split(" "), *PRODUCTS))


def can_fold(node: NodeProto) -> bool:
    """Whether this operator is one of those evaluated here."""
    return node.domain == "" and (node.op_type in VIEWING or node.op_type in BY_REFERENCE)


def depends_on_types_alone(node: NodeProto) -> bool:
    """Operators whose value is known from the input's shape."""
    return node.domain == "" and node.op_type in ("Shape", "Size")


def materialized_bytes(node: NodeProto, outputs: Specs) -> int:
    """The memory the result will take; views take none."""
    if node.op_type in VIEWING:
        return 0
    return sum(spec.elements * item_size(spec.dtype) for spec in outputs)


def effort(node: NodeProto, inputs: Arrays, outputs: Specs) -> int:
    """About how many element operations evaluation takes."""
    if node.op_type in VIEWING:
        return 1
    touched = sum(spec.elements for spec in outputs) + sum(array.size for array in inputs if array is not None)
    if node.op_type in SLOW:
        return 32 * touched
    if node.op_type in PRODUCTS:
        first = inputs[0]
        return touched + sum(spec.elements for spec in outputs) * (
            max(first.shape, default=1) if first is not None else 1
        )
    return touched


def fold(
    node: NodeProto,
    version: int,
    attributes: Mapping[str, Attribute],
    inputs: Arrays,
    input_types: Sequence[TensorSpec | None],
    outputs: Specs,
) -> tuple[Array, ...]:
    """The values of the node's present outputs, checked against their inferred types."""
    view = VIEWS.get(node.op_type)

    def evaluate() -> list[object]:
        if view is None:
            return _by_reference(node, version, inputs)
        return [view(attributes, inputs, input_types, outputs[0])]

    values = _guarded(node, evaluate)
    return tuple(_settle(node, value, spec) for value, spec in zip(values, outputs, strict=True))


def fold_data_shaped(node: NodeProto, version: int, inputs: Arrays) -> dict[str, Array]:
    """The results of an operator whose output shapes depend on its operands' values."""
    names = [name for name in node.output if name]
    values = _guarded(node, lambda: _by_reference(node, version, inputs))
    arrays = [np.array(value, order="C") for value in values]
    for array in arrays:
        array.flags.writeable = False
    return dict(zip(names, arrays, strict=True))


def constant_value(node: NodeProto, attributes: Mapping[str, Attribute]) -> Array:
    """What a Constant holds: inference would only copy it back and forth."""
    given = [name for name in attributes if name.startswith("value")]
    if len(given) != 1 or len(attributes) != 1 or len(node.output) != 1:
        raise InvalidModel(f"{label(node)}: a constant has one value and one result, found {len(given)} values")
    array = np.asarray(_constant(attributes)).view()
    array.flags.writeable = False
    return array


def _guarded(node: NodeProto, evaluate: Callable[[], list[object]]) -> list[object]:
    try:
        with np.errstate(all="ignore"):
            return evaluate()
    except MemoryError as error:
        raise InvalidModel(f"{label(node)}: evaluating this constant needs more memory than is allowed") from error
    except EVALUATION_ERRORS as error:
        raise InvalidModel(f"{label(node)}: this constant cannot be evaluated: {one_line(str(error))}") from error


def _settle(node: NodeProto, value: object, spec: TensorSpec) -> Array:
    array = np.asarray(value)
    if array.shape != spec.shape:
        raise InvalidModel(f"{label(node)}: {quote(spec.name)} is {list(array.shape)}, inferred {list(spec.shape)}")
    if spec.dtype != "string" and array.dtype.name != spec.dtype:
        raise InvalidModel(f"{label(node)}: {quote(spec.name)} is {array.dtype.name}, inferred {spec.dtype}")
    if array.size > 1 and all(array.strides):
        array = np.require(array, requirements=["C", "A"])
    array = array.view()
    array.flags.writeable = False
    return array


def _by_reference(node: NodeProto, version: int, inputs: Arrays) -> list[object]:
    """One node in onnx's reference evaluator, at its own opset version."""
    from onnx.reference import ReferenceEvaluator

    graph = GraphProto(name="constant")
    graph.node.append(node)
    feeds: dict[str, Array] = {}
    for name, array in zip(node.input, inputs, strict=True):
        if array is None or name in feeds:
            continue
        feeds[name] = array
        info = graph.input.add(name=name)
        dtype = "string" if array.dtype == object else array.dtype.name
        info.type.CopyFrom(type_proto(TensorSpec(name=name, dtype=dtype, shape=array.shape)))
    for name in node.output:
        if name:
            graph.output.add(name=name)
    evaluator = ReferenceEvaluator(graph, opsets={"": max(version, EVALUATED_FROM.get(node.op_type, 1))})
    return list(evaluator.run(None, feeds))


View = Callable[[Mapping[str, Attribute], Arrays, Sequence[TensorSpec | None], TensorSpec], object]


def _constant(attributes: Mapping[str, Attribute]) -> object:
    """Constant: one attribute of several holds the value."""
    for name, dtype in (
        ("value", None),
        ("value_float", "float32"),
        ("value_floats", "float32"),
        ("value_int", "int64"),
    ):
        if name in attributes:
            return np.asarray(attributes[name], dtype=dtype)
    if "value_ints" in attributes:
        return np.asarray(attributes["value_ints"], dtype=np.int64)
    text = attributes.get("value_string", attributes.get("value_strings"))
    return np.asarray(text, dtype=object)


def _constant_of_shape(
    attributes: Mapping[str, Attribute], _i: Arrays, _t: Sequence[TensorSpec | None], out: TensorSpec
) -> object:
    value = attributes.get("value", np.zeros(1, np.float32))
    return np.broadcast_to(np.asarray(value).reshape(()), out.shape)


def _expand(_a: Mapping[str, Attribute], inputs: Arrays, _t: Sequence[TensorSpec | None], out: TensorSpec) -> object:
    return np.broadcast_to(_first(inputs), out.shape)


def _reshape(_a: Mapping[str, Attribute], inputs: Arrays, _t: Sequence[TensorSpec | None], out: TensorSpec) -> object:
    """Reshape, Flatten, Squeeze, Unsqueeze, Identity: the inferred shape says it all."""
    data = _first(inputs)
    if data.size != math.prod(out.shape):
        raise ValueError(f"{list(data.shape)} does not fit {list(out.shape)}")
    if data.size and not any(data.strides):
        return np.broadcast_to(data.flat[0].astype(data.dtype), out.shape)
    return data.reshape(out.shape)


def _shape(
    attributes: Mapping[str, Attribute], _i: Arrays, types: Sequence[TensorSpec | None], _o: TensorSpec
) -> object:
    shape = types[0].shape if types[0] is not None else ()
    start, end = attributes.get("start", 0), attributes.get("end", len(shape))
    if not isinstance(start, int) or not isinstance(end, int):
        raise TypeError("start and end must be integers")
    return np.array(shape[slice(start, end)], np.int64)


def _size(_a: Mapping[str, Attribute], _i: Arrays, types: Sequence[TensorSpec | None], _o: TensorSpec) -> object:
    return np.array(types[0].elements if types[0] is not None else 0, np.int64)


def _first(inputs: Arrays) -> Array:
    if not inputs or inputs[0] is None:
        raise ValueError("its first input is missing")
    return inputs[0]


VIEWS: Mapping[str, View] = {
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _reshape,
    "Identity": _reshape,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
}
