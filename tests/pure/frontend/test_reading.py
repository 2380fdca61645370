"""Reading: the wire format skipped over, foreign files named, weights read once and in place."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lowprec.errors import InvalidModel, UsageError
from lowprec.frontend import load_graph
from lowprec.frontend.limits import Limits, limits_for
from lowprec.frontend.reading import read_model
from lowprec.frontend.wire import Malformed, fields, read_varint, write_varint
from tests.corpus.case import constant_of, model_of, network, tensor, value
from tests.graphs import load


@given(st.integers(0, 2**63 - 1))
def test_numbers_survive_the_wire(number: int) -> None:
    data = write_varint(number)
    assert read_varint(data, 0, len(data)) == (number, len(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_malformed(data: bytes) -> None:
    try:
        found = list(fields(data, 0, len(data)))
    except Malformed:
        return
    assert sum(field.end - field.tag for field in found) == len(data)


def test_large_weights_stay_out_of_the_parsed_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network().SerializeToString())
    source = read_model(path, None)
    assert set(source.payloads) == {"matrix"}
    assert not constant_of(source.proto.graph, "matrix").raw_data
    assert constant_of(source.proto.graph, "weight").raw_data


def test_what_is_read_is_what_was_stored(tmp_path: Path) -> None:
    graph = load(network(), tmp_path)
    matrix = graph.constants["matrix"]
    np.testing.assert_array_equal(
        matrix, np.frombuffer(constant_of(network().graph, "matrix").raw_data, np.float32).reshape(10, 128)
    )
    assert matrix.flags.aligned
    assert matrix.flags.c_contiguous
    assert not matrix.flags.writeable


@pytest.mark.parametrize(
    "kind", ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT64", "BOOL", "INT4", "UINT4"]
)
@pytest.mark.parametrize("count", [1, 5, 3000])
@pytest.mark.parametrize("raw", [True, False])
def test_every_element_type_is_read(tmp_path: Path, kind: str, count: int, raw: bool) -> None:
    number = TensorProto.DataType.Value(kind)
    dtype = helper.tensor_dtype_to_np_dtype(number)
    wanted = (np.arange(count) % 2).astype(dtype)
    stored = tensor("c", wanted)
    if not raw:
        stored = helper.make_tensor("c", number, [count], wanted.astype(np.float32).tolist())
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], [value("x", [1])], [value("y", [1])], [stored])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert load_graph(path).outputs[0].shape == (1,)
    node = helper.make_node("Identity", ["c"], ["z"])
    outside = model_of([node], [], [value("z", [count], number)], [stored])
    if kind not in ("INT4", "UINT4"):
        (found,) = load(outside, tmp_path).constants.values()
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_a_missing_file_is_the_callers_fault(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_graph(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="is not a file"):
        load_graph(tmp_path)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"PK\x03\x04", "zip archive"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b'{"irVersion": 8}', "text"),
        (b"ir_version: 8\n", "text"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, head: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(head + bytes(100 if b"\0" in head or head[0] > 127 else 0))
    with pytest.raises(InvalidModel, match=message):
        load_graph(path)


def test_limits_grow_with_the_file() -> None:
    small, large = limits_for(1000), limits_for(1 << 30)
    assert small.nodes == large.nodes == Limits().nodes
    assert large.constant_bytes > 4 << 30
    assert small.constant_bytes < 3 << 30


def test_limits_are_an_argument(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="more than 3 nodes"):
        load(network(), tmp_path, limits=Limits(nodes=3))
    with pytest.raises(InvalidModel, match="initializer 'weight' has rank 4; at most 3"):
        load(network(), tmp_path, limits=Limits(rank=3))
    with pytest.raises(InvalidModel, match=r"initializer 'weight' has shape .* at most 100 are accepted"):
        load(network(), tmp_path, limits=Limits(elements=100))
