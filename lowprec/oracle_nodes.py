"""One node of a graph in onnx's own reference evaluator: slow, independent, and it knows every operator."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lowprec.frontend.graph import Node
from lowprec.oracle_values import Array


def by_onnx(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    """The node's outputs, those that nobody names included as they come."""
    try:
        return _evaluated(node, arrays)
    except TypeError:  # what NumPy makes of one number is no array, which the evaluator does not take
        if len(arrays) != 1 or arrays[0] is None or arrays[0].ndim:
            raise
        return [array.reshape(()) for array in _evaluated(node, [arrays[0].reshape(1)])]


def _evaluated(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    feeds = {name: array for name, array in zip(node.inputs, arrays, strict=True) if array is not None}
    results = [name for name in node.outputs if name]
    made = helper.make_graph(
        [helper.make_node(node.op, node.inputs, node.outputs, **_attributes(node))],
        "node",
        [helper.make_tensor_value_info(name, _kind(array), array.shape) for name, array in feeds.items()],
        [helper.make_empty_tensor_value_info(name) for name in results],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", node.version)])
    found = dict(zip(results, ReferenceEvaluator(model).run(None, feeds), strict=True))
    return [np.asarray(found[name]) if name else np.zeros(0) for name in node.outputs]


def _attributes(node: Node) -> dict[str, Any]:
    """As onnx writes them; an empty list has no type there, and means what its absence does."""
    from onnx import numpy_helper

    return {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attributes.items()
        if not isinstance(value, tuple) or value
    }


def _kind(array: Array) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(array.dtype))
