"""The whole file, before any node is looked into: onnx's checker as an error, on a model without its large weights."""

from onnx import ModelProto, checker

from lowprec.errors import InvalidModel
from lowprec.frontend.naming import one_line, quote
from lowprec.frontend.reading import Source
from lowprec.frontend.tensors import check_tensor


def check_structure(source: Source) -> None:
    """Refuses what is not a well-formed model."""
    for tensor in source.proto.graph.initializer:
        what = f"initializer {quote(tensor.name)}"
        check_tensor(tensor, source.payloads.get(tensor.name), what, source.limits)
    run_checker(source)


def run_checker(source: Source) -> None:
    """onnx's own check of the model, where each large weight is an input of the same type.

    Its full check would also infer shapes through every function body, which takes exponential time on a hostile model
    and fails on some valid ones (MeanVarianceNormalization without axes); `walking` infers node by node instead.
    """
    try:
        checker.check_model(checkable(source), full_check=False)
    except (checker.ValidationError, RuntimeError, ValueError) as error:
        raise InvalidModel(f"onnx's checker refuses it: {one_line(str(error))}") from error


def checkable(source: Source) -> ModelProto:
    """`source.proto` with its payload-less initializers turned into inputs, and every node named by its output."""
    model = ModelProto()
    model.CopyFrom(source.proto)
    graph = model.graph
    inputs = {info.name for info in graph.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in source.payloads]
    for tensor in graph.initializer:
        if tensor.name in source.payloads and tensor.name not in inputs:
            info = graph.input.add(name=tensor.name)
            info.type.tensor_type.elem_type = tensor.data_type
            info.type.tensor_type.shape.SetInParent()
            for extent in tensor.dims:
                info.type.tensor_type.shape.dim.add().dim_value = extent
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        node.name = node.name or next(iter(node.output), "")
    return model
