"""Calibration: samples become runs, what is wrong with one is said in one line, ranges come from all of them."""

import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.calibration import Observer, default_samples, load_calibration
from lowprec.formats import Int
from lowprec.ranges import Method, scale_and_zero
from lowprec.tensors import TensorSpec
from tests.refusals import refused

IMAGE = TensorSpec(name="x", dtype="float32", shape=(1, 3, 4))
MASK = TensorSpec(name="mask", dtype="int64", shape=(1, 2))
PLACE = "calibration sample 0, input 'x'"


def images(*shape: int) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(np.float32)


def batched(batch: int) -> TensorSpec:
    return TensorSpec(name="x", dtype="float32", shape=(batch, 3, 4))


def runs(source: Any, *specs: TensorSpec) -> list[dict[str, Any]]:
    return list(load_calibration(source, specs or (IMAGE,)))


def saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "samples.npz", **arrays)
    return folder / "samples.npz"


@pytest.mark.parametrize(
    "source",
    [
        images(5, 3, 4),
        list(images(5, 3, 4)),
        list(images(5, 1, 3, 4)),
        [images(5, 3, 4)],
        [images(5, 3, 4)[:2], images(5, 3, 4)[2], images(5, 3, 4)[3:]],
        [{"x": image} for image in images(5, 3, 4)],
        [images(5, 3, 4).astype(np.float64)],
        (image for image in images(5, 3, 4)),
    ],
)
def test_each_sample_is_a_run_of_a_model_of_batch_1(source: Any) -> None:
    found = runs(source)
    assert [list(run) for run in found] == [["x"]] * 5
    assert all(run["x"].dtype == np.float32 and run["x"].shape == (1, 3, 4) for run in found)
    assert np.array_equal(np.concatenate([run["x"] for run in found]), images(5, 3, 4))


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), batch=st.integers(1, 4))
def test_samples_fill_the_batch_in_order(lengths: list[int], batch: int) -> None:
    """However they come; the last run repeats its own."""
    whole = images(sum(lengths), 3, 4)
    found = runs(np.split(whole, np.cumsum(lengths)[:-1]), batched(batch))
    assert all(run["x"].shape == (batch, 3, 4) for run in found)
    flat = np.concatenate([run["x"] for run in found])
    assert len(found) == -(-len(whole) // batch)
    assert np.array_equal(flat[: len(whole)], whole)
    rest = len(whole) % batch
    for index in range(len(whole), len(flat)):
        assert np.array_equal(flat[index], flat[index - rest])


def test_a_run_is_a_copy() -> None:
    buffer = np.zeros((3, 4), np.float32)

    def reused() -> Iterator[Any]:
        for index in range(3):
            buffer[:] = index
            yield buffer

    assert [run["x"][:, 0, 0].tolist() for run in runs(reused(), batched(2))] == [[0, 1], [2, 2]]


def test_several_inputs_come_by_name() -> None:
    samples = [{"mask": np.array([index, 1]), "x": images(3, 4)} for index in range(3)]
    found = runs(samples, IMAGE, MASK)
    assert [list(run) for run in found] == [["x", "mask"]] * 3
    assert [run["mask"].tolist() for run in found] == [[[0, 1]], [[1, 1]], [[2, 1]]]


def test_inputs_without_a_common_batch_come_as_they_are() -> None:
    scalar = TensorSpec(name="s", dtype="float32", shape=())
    found = runs([{"x": images(1, 3, 4), "s": np.float32(2)}] * 2, IMAGE, scalar)
    assert [(run["x"].shape, run["s"].shape) for run in found] == [((1, 3, 4), ())] * 2
    message = refused(lambda: runs([{"x": images(3, 4), "s": np.float32(2)}], IMAGE, scalar))
    assert message == f"{PLACE} has shape [3, 4]: give [1, 3, 4]"
    vector = TensorSpec(name="x", dtype="float32", shape=(3,))
    assert [run["x"].tolist() for run in runs([images(3)], vector)] == [[0, 1, 2]]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_holds_samples_by_input(tmp_path: Path, compressed: bool) -> None:
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "a.npz", allow_pickle=False, **{"x": images(4, 3, 4), "mask": np.arange(8).reshape(4, 2)})
    found = runs(str(tmp_path / "a.npz"), IMAGE, MASK)
    assert np.array_equal(np.concatenate([run["x"] for run in found]), images(4, 3, 4))
    assert np.array_equal(np.concatenate([run["mask"] for run in found]), np.arange(8).reshape(4, 2))


def test_the_array_of_the_only_input_may_have_any_name(tmp_path: Path) -> None:
    assert len(runs(saved(tmp_path, arr_0=images(4, 3, 4)))) == 4
    assert len(runs(saved(tmp_path, arr_0=images(4, 2, 3, 4)), batched(4))) == 2


def test_bfloat16_comes_back_from_raw_bytes(tmp_path: Path) -> None:
    spec = TensorSpec(name="x", dtype="bfloat16", shape=(1, 3, 4))
    values = images(2, 3, 4).astype(ml_dtypes.bfloat16)
    found = runs(saved(tmp_path, x=values), spec)
    assert np.array_equal(np.concatenate([run["x"] for run in found]), values)
    assert runs([images(3, 4)], spec)[0]["x"].dtype == ml_dtypes.bfloat16


def test_a_large_file_is_read_sample_by_sample(tmp_path: Path) -> None:
    """64 samples of 1 MB; two of them, and a copy, are never held together with the rest."""
    spec = TensorSpec(name="x", dtype="float32", shape=(1, 512, 512))
    path = saved(tmp_path, x=np.ones((64, 512, 512), np.float32))
    tracemalloc.start()
    count = sum(1 for _ in load_calibration(path, [spec]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 64
    assert peak < 10 * 2**20


BAD = images(3, 4)
BAD[1, 2] = np.nan
TAKES = "the model takes x"
# fmt: off
REFUSED: list[tuple[Any, str]] = [
    ([BAD], f"{PLACE} holds NaN, infinity or what float32 does not reach: give finite values"),
    ([images(3, 4), np.full((3, 4), np.inf, np.float32)],
     "calibration sample 1, input 'x' holds NaN, infinity or what float32 does not reach: give finite values"),
    ([np.full((3, 4), 1e300)], f"{PLACE} holds NaN, infinity or what float32 does not reach: give finite values"),
    ([images(4, 3)], f"{PLACE} has shape [4, 3]: give [3, 4], or several of them as [n, 3, 4]"),
    ([images(0, 3, 4)], f"{PLACE} has shape [0, 3, 4]: give [3, 4], or several of them as [n, 3, 4]"),
    ([images(1, 1, 3, 4)], f"{PLACE} has shape [1, 1, 3, 4]: give [3, 4], or several of them as [n, 3, 4]"),
    ([np.zeros((3, 4), np.uint8)], f"{PLACE} is uint8: the model takes float32, convert it first"),
    ([np.zeros((3, 4), "V4")], f"{PLACE} is |V4: the model takes float32, convert it first"),
    ([np.full((3, 4), "a")], f"{PLACE} is <U1: the model takes float32, convert it first"),
    ([{"x": [1.0]}], f"{PLACE} is a list: give a NumPy array"),
    ([[1.0]], f"calibration sample 0 is a list: give an array; {TAKES}"),
    (["a.png"], f"calibration sample 0 is a str: give an array; {TAKES}"),
    ([{"xx": images(3, 4)}], f"calibration sample 0: the model has no input 'xx' (did you mean 'x'?): {TAKES}"),
    ([{}], f"calibration sample 0: input 'x' is missing: {TAKES}"),
    ([], "calibration holds no samples: give at least one"),
    (images(0, 3, 4), "calibration holds no samples: give at least one"),
    (7, "calibration is a int: give the path of an .npz, or an iterable of arrays or dicts"),
    ({"x": images(2, 3, 4)}, "calibration is a dict: give the path of an .npz, or an iterable of arrays or dicts"),
]
# fmt: on


@pytest.mark.parametrize(("source", "message"), REFUSED)
def test_what_is_wrong_is_said_in_one_line(source: Any, message: str) -> None:
    assert refused(lambda: runs(source)) == message


def test_samples_of_several_inputs_that_do_not_fit() -> None:
    short = refused(lambda: runs([{"x": images(2, 3, 4), "mask": np.zeros((1, 2), np.int64)}], IMAGE, MASK))
    assert short == "calibration sample 0 holds 2 of 'x', 1 of 'mask': give as many of each input"
    alone = refused(lambda: runs([images(3, 4)], IMAGE, MASK))
    assert alone.endswith("is a ndarray: give a dict of arrays by input name; the model takes x, mask")
    narrow = TensorSpec(name="mask", dtype="int8", shape=(1, 2))
    beyond = refused(lambda: runs([np.array([1, 300])], narrow))
    assert beyond.endswith("input 'mask' holds numbers beyond int8, which the model takes: give smaller ones")


def test_files_that_are_none(tmp_path: Path) -> None:
    def message(path: Path, *specs: TensorSpec) -> str:
        found = refused(lambda: runs(path, *specs))
        advice = ": write one with numpy.savez(path, **{input_name: samples})"
        return found.removesuffix(advice).removeprefix(f"calibration {str(path)!r} ")

    assert message(tmp_path / "none.npz") == "does not exist"
    (tmp_path / "text.npz").write_text("text")
    assert message(tmp_path / "text.npz") == "cannot be read as .npz (File is not a zip file)"
    np.save(tmp_path / "one.npy", images(2, 3, 4))
    assert message(tmp_path / "one.npy") == "cannot be read as .npz (File is not a zip file)"
    objects = saved(tmp_path, x=np.array([{}], object))
    assert message(objects) == "cannot be read as .npz (it holds Python objects, which are not loaded)"
    columns = saved(tmp_path, x=np.asfortranarray(images(2, 3, 4)))
    assert message(columns).endswith("stored column by column: save numpy.ascontiguousarray of it)")
    number = saved(tmp_path, x=np.float32(1))
    assert message(number).endswith("(an array is one number, without an axis that counts samples)")
    counts = saved(tmp_path, x=images(2, 3, 4), mask=np.zeros((3, 2), np.int64))
    assert message(counts, IMAGE, MASK) == "holds 2 of 'x', 3 of 'mask': give as many samples of each input"
    assert (
        refused(lambda: runs(saved(tmp_path, x=images(0, 3, 4)))) == "calibration holds no samples: give at least one"
    )
    assert refused(lambda: runs(saved(tmp_path))) == "calibration holds no samples: give at least one"


def test_files_that_are_damaged(tmp_path: Path) -> None:
    """Cut short or changed anywhere, a file is refused in one line, or its samples are what they were."""
    content = saved(tmp_path, x=images(2, 3, 4)).read_bytes()
    path = tmp_path / "damaged.npz"
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position])
        refused(lambda: runs(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", zipfile.ZipFile(tmp_path / "samples.npz").read("x.npy")[:-4])
    assert "it ends within a sample" in refused(lambda: runs(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x03\x00" + bytes(200))
    assert "it is of version 3.0 of NumPy's format" in refused(lambda: runs(path))


def test_default_samples_are_seeded() -> None:
    one, same, other = (list(default_samples([IMAGE, MASK], seed)) for seed in (1, 1, 2))
    assert len(one) == 32
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0]["x"], other[0]["x"])
    assert not np.array_equal(one[0]["x"], one[1]["x"])
    assert [run["x"].shape for run in default_samples([IMAGE], 0, 2)] == [(1, 3, 4)] * 2


@pytest.mark.parametrize("method", list(Method))
def test_an_observer_finds_a_range_for_each_tensor(method: Method) -> None:
    observer, fmt = Observer(), Int(8, signed=False)
    for run in default_samples([IMAGE], 0, 8):
        observer.observe("x", run["x"])
        observer.observe("relu", np.maximum(run["x"], 0))
        observer.observe("empty", np.zeros(0))
    found = observer.ranges(dict.fromkeys(("x", "relu", "empty"), method), fmt)
    values = np.concatenate([run["x"] for run in default_samples([IMAGE], 0, 8)])
    assert found.keys() == {"x", "relu", "empty"}
    assert found["empty"] == (0, 0)
    assert found["relu"][0] == 0
    assert values.min() <= found["x"][0] < 0 < found["x"][1] <= values.max()
    assert scale_and_zero(found["relu"], fmt)[1] == 0
    if method is Method.MINMAX:
        assert found["x"] == (values.min(), values.max())


def test_an_observer_names_the_tensor_that_is_not_finite() -> None:
    message = refused(lambda: Observer().observe("conv1", [1.0, np.nan]))
    assert message == "tensor 'conv1': the values hold a NaN or an infinity: they have no range, give finite ones"
