"""Arrays in `.npz` files: what `run` and `verify` read as inputs and write as outputs."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowprec.arguments import bind
from lowprec.errors import UsageError
from lowprec.manifest import dtype_of
from lowprec.tensors import TensorSpec

Array = NDArray[np.generic]
_NPZ = "write one with numpy.savez(path, **{input_name: array})"


def read_inputs(path: str, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The archive's arrays by name, fit to be passed to the model; a value that is not finite is refused."""
    arrays = {name: _typed(array, specs, name) for name, array in _read(Path(path)).items()}
    inputs = dict(zip([spec.name for spec in specs], bind(specs, (arrays,)), strict=True))
    for name, array in inputs.items():
        if array.dtype.kind in "fV" and not np.isfinite(array.astype(np.float64)).all():
            raise UsageError(f"input {name!r} in {path!r} holds NaN or infinity: give finite values")
    return inputs


def write_outputs(path: str, outputs: Mapping[str, Array]) -> None:
    """One array per output; bfloat16, which NumPy's files do not know, is read back as two-byte `V2`."""
    try:
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            for name, array in outputs.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    except OSError as problem:
        raise UsageError(f"{path!r} cannot be written ({problem.strerror or problem}): give another place") from None


def _read(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise UsageError(f"inputs {str(path)!r} do not exist: {_NPZ}")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UsageError(f"inputs {str(path)!r} are one array without a name: {_NPZ}")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as problem:
        raise UsageError(f"inputs {str(path)!r} cannot be read as .npz ({problem}): {_NPZ}") from None


def _typed(array: Array, specs: Sequence[TensorSpec], name: str) -> Array:
    """The array as its input's dtype where NumPy stored it as raw bytes of that width."""
    wanted = next((dtype_of(spec.dtype) for spec in specs if spec.name == name), None)
    if array.dtype.kind == "V" and wanted is not None and wanted.itemsize == array.dtype.itemsize:
        return array.view(wanted)
    return array
