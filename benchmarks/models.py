"""The nine real architectures inside the onnx package, given weights, so that nothing has to be downloaded.

onnx ships them for its backend tests with every large weight replaced by `ConstantOfShape`. Each comes out here as a
plain opset 17 model in one file: graph inputs are the images alone, every parameter is a seeded initializer.

Values are drawn per tensor from (seed, tensor name), so they depend neither on the order of the graph nor on the other
tensors. He et al. 2015 (eq. 10) for weights; variances in 0.5..1.5; the branches of a sum scaled by 1/sqrt(branches),
so that a residual stream keeps its size; last, the classifier scaled by a power of two until the spread of its scores
is about 2, so that no softmax is flat or saturated. A power of two, because the spread is measured: rounding it so
coarsely keeps the file the same wherever it is made.
"""

import argparse
import math
import os
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, version_converter

Float32 = NDArray[np.float32]

NAMES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
OPSET = 17
SCORE_SPREAD = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """How a parameter is used: the operator, its input's position, and how many branches its result is summed with."""

    op: str
    position: int
    branches: int = 1


def make_model(name: str, *, seed: int = 0) -> onnx.ModelProto:
    """The named architecture, with weights."""
    light = onnx.load(_light_path(name))
    model = version_converter.convert_version(light, OPSET)
    shapes = _parameter_shapes(model.graph)
    roles = {tensor: _role(model.graph, tensor) for tensor in shapes}
    parameters = {tensor: draw(roles[tensor], shape, tensor, seed=seed) for tensor, shape in shapes.items()}
    _install(model, parameters)
    _spread_scores(model, seed=seed)
    onnx.checker.check_model(model, full_check=model.ByteSize() < 2**30)
    return model


def draw(role: Role, shape: tuple[int, ...], tensor: str, *, seed: int) -> Float32:
    """The values of one parameter."""
    rng = np.random.default_rng([seed, zlib.crc32(tensor.encode())])
    match role.op, role.position:
        case "Conv" | "Gemm", 1:
            fan_in = math.prod(shape[1:])
            return np.float32(math.sqrt(2 / fan_in)) * rng.standard_normal(shape, dtype=np.float32)
        case "BatchNormalization", 1:
            return (rng.uniform(0.8, 1.2, shape) / math.sqrt(role.branches)).astype(np.float32)
        case "BatchNormalization", 4:
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        case "Mul", _:
            return rng.uniform(0.8, 1.2, shape).astype(np.float32)
        case _:
            return np.float32(0.1) * rng.standard_normal(shape, dtype=np.float32)


def cached(name: str, folder: Path, *, seed: int = 0) -> Path:
    """The path of the model's file in the folder, made when it is not there; never a half-written one."""
    path = folder / (f"{name}.onnx" if seed == 0 else f"{name}-seed{seed}.onnx")
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        partial = Path(scratch) / path.name
        onnx.save(make_model(name, seed=seed), partial)
        os.replace(partial, path)
    return path


def _light_path(name: str) -> Path:
    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"


def _parameter_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Every float parameter that a node reads: made by a ConstantOfShape, or stored."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    read = {name for node in graph.node for name in node.input}
    shapes = {
        name: tuple(tensor.dims)
        for name, tensor in stored.items()
        if tensor.data_type == onnx.TensorProto.FLOAT and name in read
    }
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shapes[node.output[0]] = tuple(int(extent) for extent in numpy_helper.to_array(stored[node.input[0]]))
    return shapes


def _role(graph: onnx.GraphProto, tensor: str) -> Role:
    """The first reader that computes with the parameter, seen through reshapes."""
    node = _readers(graph, tensor)[0]
    if node.op_type in ("Reshape", "Unsqueeze"):
        return _role(graph, node.output[0])
    readers = _readers(graph, node.output[0])
    branches = max((len(reader.input) for reader in readers if reader.op_type == "Sum"), default=1)
    return Role(op=node.op_type, position=list(node.input).index(tensor), branches=branches)


def _readers(graph: onnx.GraphProto, tensor: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if tensor in node.input]


def _install(model: onnx.ModelProto, parameters: dict[str, Float32]) -> None:
    """Replace what made or stored the parameters by initializers, and drop what nothing reads any more."""
    graph = model.graph
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read and tensor.name not in parameters]
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    for field, values in (("node", nodes), ("initializer", kept), ("input", inputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in parameters.items())
    graph.ClearField("value_info")
    model.ir_version = 8


def _spread_scores(model: onnx.ModelProto, *, seed: int) -> None:
    """Scale the last layer until the scores, which the softmax reads, have a standard deviation of about 2."""
    graph = model.graph
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    scores = softmaxes[-1].input[0] if softmaxes else graph.output[0].name
    spread = float(np.std(_evaluate(model, scores, seed=seed)))
    factor = np.float32(2.0 ** round(math.log2(SCORE_SPREAD / spread)))
    classifier = [node for node in graph.node if node.op_type in ("Conv", "Gemm")][-1]
    producers = {node.output[0]: node for node in graph.node}
    weight = producers[classifier.input[1]].input[0] if classifier.input[1] in producers else classifier.input[1]
    for tensor in graph.initializer:
        if tensor.name in (weight, classifier.input[2]):
            tensor.CopyFrom(numpy_helper.from_array(factor * numpy_helper.to_array(tensor), tensor.name))


def _evaluate(model: onnx.ModelProto, tensor: str, *, seed: int) -> Float32:
    """One tensor on one seeded image, by ONNX Runtime."""
    import onnxruntime  # a peer: needed to make the models, not to import their names

    outputs = list(model.graph.output)
    model.graph.ClearField("output")
    model.graph.output.append(onnx.ValueInfoProto(name=tensor))
    probe = model.SerializeToString()
    model.graph.ClearField("output")
    model.graph.output.extend(outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe, options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    values = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    scores: Float32 = session.run([tensor], {image.name: values})[0]
    return scores


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/models"), help="the folder (default: build/models)")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in options.only or NAMES:
        print(cached(name, options.out, seed=options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
