"""TensorProto -> NumPy array, every size checked before anything of that size exists."""

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from io import BufferedReader

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lowprec.errors import InvalidModel, Unsupported
from lowprec.frontend.external import open_inside
from lowprec.frontend.graph import Array
from lowprec.frontend.limits import Limits
from lowprec.frontend.reading import Payload

PACKED_BITS: dict[int, int] = {
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.UINT2: 2,
    TensorProto.INT2: 2,
}
ELEMENT_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}


def dtype_name(element_type: int, what: str) -> str:
    """NumPy's name of an ONNX element type ("string" for strings)."""
    if element_type not in ELEMENT_TYPES:
        raise InvalidModel(f"{what} has element type {element_type}, which ONNX does not define")
    if element_type == TensorProto.STRING:
        return "string"
    return _numpy_name(element_type)


@lru_cache
def _numpy_name(element_type: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(element_type).name)


def element_type(dtype: str) -> int:
    """The inverse of `dtype_name`."""
    return _ELEMENT_TYPES[dtype]


_ELEMENT_TYPES: dict[str, int] = {dtype_name(kind, ""): kind for kind in sorted(ELEMENT_TYPES)}


def check_shape(shape: Sequence[int], dtype: str, what: str, limits: Limits) -> None:
    """Refuses a negative extent, and any rank, element count or byte count beyond the limits."""
    if len(shape) > limits.rank:
        raise InvalidModel(f"{what} has rank {len(shape)}; at most {limits.rank} is accepted")
    if any(extent < 0 for extent in shape):
        raise InvalidModel(f"{what} has shape {list(shape)}: an extent cannot be negative")
    elements = math.prod(shape)
    if elements > limits.elements:
        raise InvalidModel(
            f"{what} has shape {list(shape)}: {elements} elements, at most {limits.elements} are accepted"
        )
    if elements * item_size(dtype) > limits.tensor_bytes:
        raise InvalidModel(f"{what} has shape {list(shape)}: more than the {limits.tensor_bytes} bytes accepted")


def item_size(dtype: str) -> int:
    """Bytes of one element in memory."""
    return 16 if dtype == "string" else int(helper.tensor_dtype_to_np_dtype(element_type(dtype)).itemsize)


def stored_bytes(elements: int, kind: int) -> int:
    """The length of `raw_data` for so many elements of that ONNX type."""
    bits = PACKED_BITS.get(kind)
    if bits is not None:
        return -(-elements * bits // 8)
    return elements * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def check_tensor(tensor: TensorProto, payload: Payload | None, what: str, limits: Limits) -> None:
    """Everything about a stored tensor that can be known without reading its data."""
    dtype = dtype_name(tensor.data_type, what)
    check_shape(tensor.dims, dtype, what, limits)
    if tensor.HasField("segment"):
        raise Unsupported(f"{what} is stored in segments, which are not supported: store it whole")
    elements = math.prod(tensor.dims)
    if payload is not None and _typed_length(tensor):
        raise InvalidModel(f"{what} has its data twice: raw and typed")
    if payload is None and not tensor.HasField("raw_data"):
        _check_typed(tensor, elements, what)
        return
    if tensor.data_type == TensorProto.STRING:
        raise InvalidModel(f"{what} holds strings as raw bytes, which ONNX forbids")
    found = payload.length if payload is not None else len(tensor.raw_data)
    wanted = stored_bytes(elements, tensor.data_type)
    if found != wanted:
        raise InvalidModel(f"{what} has shape {list(tensor.dims)} of {dtype}: {wanted} bytes, but {found} are stored")


def _typed_length(tensor: TensorProto) -> int:
    return (
        len(tensor.float_data)
        + len(tensor.int32_data)
        + len(tensor.int64_data)
        + len(tensor.double_data)
        + len(tensor.uint64_data)
        + len(tensor.string_data)
    )


def _check_typed(tensor: TensorProto, elements: int, what: str) -> None:
    kind = tensor.data_type
    field = helper.tensor_dtype_to_field(kind)
    found = len(getattr(tensor, field))
    if kind in PACKED_BITS:
        wanted = -(-elements * PACKED_BITS[kind] // 8)
    else:
        wanted = elements * (2 if kind in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1)
    if found != wanted or found != _typed_length(tensor):
        raise InvalidModel(f"{what} has shape {list(tensor.dims)}: {wanted} values in {field}, but {found} are stored")


def to_array(tensor: TensorProto, payload: Payload | None, what: str) -> Array:
    """The tensor's value (after `check_tensor`): read-only, C-contiguous, aligned."""
    if payload is not None:
        array = _read_payload(tensor, payload, what)
    elif tensor.data_type == TensorProto.STRING:
        array = np.array(list(tensor.string_data), dtype=object).reshape(tuple(tensor.dims))
    else:
        array = np.require(numpy_helper.to_array(tensor), requirements=["C", "A"])
        array = array.reshape(tuple(tensor.dims))
    array.flags.writeable = False
    return array


def _read_payload(tensor: TensorProto, payload: Payload, what: str) -> Array:
    flat = np.empty(payload.length, np.uint8)
    with _open(payload, what) as file:
        file.seek(payload.offset)
        found = file.readinto(flat.data) if payload.length else 0
    if found != payload.length:
        raise InvalidModel(f"{what}: {payload.path.name} ends inside its data (was it changed meanwhile?)")
    if tensor.data_type in PACKED_BITS:
        whole = TensorProto()
        whole.CopyFrom(tensor)
        whole.ClearField("data_location")
        whole.ClearField("external_data")
        whole.raw_data = flat.tobytes()
        return np.require(numpy_helper.to_array(whole), requirements=["C", "A"])
    return flat.view(helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tuple(tensor.dims))


def _open(payload: Payload, what: str) -> BufferedReader:
    if payload.folder is None:
        return payload.path.open("rb")
    descriptor = open_inside(payload.folder, payload.path.relative_to(payload.folder).parts, what)
    return os.fdopen(descriptor, "rb")


def onnx_type_name(dtype: str) -> str:
    """The type as schemas write it: float32 --> tensor(float)."""
    return _TYPE_NAMES[dtype]


_TYPE_NAMES = {dtype: f"tensor({TensorProto.DataType.Name(kind).lower()})" for dtype, kind in _ELEMENT_TYPES.items()}
