"""Weights beside the model: read from their place, and from nowhere else (the corpus has the escapes)."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lowprec.errors import InvalidModel
from lowprec.frontend import load_graph
from lowprec.frontend.external import location_parts
from tests.corpus.case import constant_of, network


def move_out(folder: Path, name: str, location: str, *, before: int = 0, with_length: bool = True) -> Path:
    """The small network with one weight at an offset of another file."""
    model = network()
    item = constant_of(model.graph, name)
    file = folder / location
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\xff" * before + item.raw_data)
    item.data_location = TensorProto.EXTERNAL
    item.external_data.add(key="location", value=location)
    item.external_data.add(key="offset", value=str(before))
    if with_length:
        item.external_data.add(key="length", value=str(len(item.raw_data)))
    item.ClearField("raw_data")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", ["matrix", "offset"])
@pytest.mark.parametrize("location", ["weights.bin", "sub/folder/weights.bin", "./weights.bin"])
@pytest.mark.parametrize("before", [0, 3, 4096])
def test_weights_are_read_from_their_place(tmp_path: Path, name: str, location: str, before: int) -> None:
    graph = load_graph(move_out(tmp_path, name, location, before=before))
    raw = constant_of(network().graph, name).raw_data
    np.testing.assert_array_equal(graph.constants[name].ravel(), np.frombuffer(raw, np.float32))
    assert graph.constants[name].flags.aligned


def test_the_length_may_be_left_out(tmp_path: Path) -> None:
    assert "matrix" in load_graph(move_out(tmp_path, "matrix", "w.bin", with_length=False)).constants


def test_the_folder_is_the_models_wherever_the_process_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    move_out(tmp_path / "model", "matrix", "w.bin")
    monkeypatch.chdir(tmp_path)
    assert "matrix" in load_graph("model/model.onnx").constants


def test_a_folder_reached_through_a_link_is_still_the_models(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    move_out(tmp_path / "real", "matrix", "w.bin")
    (tmp_path / "link").symlink_to("real")
    assert "matrix" in load_graph(tmp_path / "link" / "model.onnx").constants


def test_onnx_writes_what_we_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(network(), path, save_as_external_data=True, location="all.bin", size_threshold=0)
    inline = tmp_path / "inline.onnx"
    onnx.save_model(network(), inline)
    outside, inside = load_graph(path), load_graph(inline)
    assert outside.nodes == inside.nodes
    for name, array in inside.constants.items():
        np.testing.assert_array_equal(outside.constants[name], array)


def test_the_size_is_told_before_weights_are_read(tmp_path: Path) -> None:
    path = move_out(tmp_path, "matrix", "w.bin", before=100)
    told: list[int] = []
    load_graph(path, on_size=told.append)
    assert told == [path.stat().st_size + (tmp_path / "w.bin").stat().st_size]


@pytest.mark.parametrize("location", ["", ".", "/a", "../a", "a/../../b", "a\\b", "C:/a", "a\0b"])
def test_places_outside_are_refused(location: str) -> None:
    with pytest.raises(InvalidModel, match="initializer 'w'"):
        location_parts(location, "initializer 'w'")
