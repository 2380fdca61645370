"""The networks as ONNX Runtime's own static quantizer makes them, which is what its users run in int8.

QuantizeLinear and DequantizeLinear around every operator it knows, weights int8 per output channel, activations uint8,
ranges (its default, the least and the greatest) on the same seeded samples that ours takes its ranges from. Both ONNX
Runtime and OpenVINO run such models on integers.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from lowprec.calibration import default_samples
from lowprec.frontend.tensors import dtype_name
from lowprec.tensors import TensorSpec


def cached(model: Path, folder: Path, *, seed: int = 0) -> Path:
    """The path of the quantized model in the folder, made when it is not there or older; never a half-written one."""
    path = folder / (model.name if seed == 0 else f"{model.stem}-samples{seed}.onnx")
    if path.exists() and path.stat().st_mtime >= model.stat().st_mtime:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        partial = Path(scratch) / path.name
        _quantize(model, partial, seed)
        os.replace(partial, path)
    return path


def _quantize(model: Path, path: Path, seed: int) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = path.with_name(f"folded-{path.name}")
    quant_pre_process(str(model), str(folded), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(folded),
        str(path),
        _reader(default_samples(_inputs(model), seed)),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )


def _reader(samples: Iterator[dict[str, Any]]) -> Any:
    """Samples as the quantizer asks for them, one after the other."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(samples, None)

    return Reader()


def _inputs(model: Path) -> list[TensorSpec]:
    graph = onnx.load(model, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    return [_spec(value) for value in graph.input if value.name not in stored]


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(axis.dim_value or 1 for axis in kind.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype_name(kind.elem_type, value.name), shape=shape)
