"""Arrays in and out of `.npz` files."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from lowprec.archives import read_inputs, write_outputs
from lowprec.errors import UsageError
from lowprec.tensors import TensorSpec


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool", "uint8"])
def test_what_is_written_is_read_back(tmp_path: Path, dtype: str) -> None:
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    array = np.arange(6).reshape(2, 3).astype(numpy_dtype)
    path = str(tmp_path / "a.npz")
    write_outputs(path, {"a name/with:signs": array})
    read = read_inputs(path, [TensorSpec(name="a name/with:signs", dtype=dtype, shape=(2, 3))])
    np.testing.assert_array_equal(read["a name/with:signs"], array)
    assert read["a name/with:signs"].dtype == array.dtype


def test_not_a_number_in_any_float(tmp_path: Path) -> None:
    path = str(tmp_path / "a.npz")
    write_outputs(path, {"x": np.array([1.0, np.inf]).astype(ml_dtypes.bfloat16)})
    with pytest.raises(UsageError, match=r"input 'x' in .* holds NaN or infinity"):
        read_inputs(path, [TensorSpec(name="x", dtype="bfloat16", shape=(2,))])


def test_a_single_array_has_no_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(UsageError, match="one array without a name"):
        read_inputs(str(tmp_path / "a.npy"), [])


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match="cannot be read as"):
        read_inputs(str(tmp_path / "a.npz"), [])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_outputs(str(tmp_path / "none" / "a.npz"), {})
