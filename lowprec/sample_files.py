"""`.npz` files of samples, read one sample at a time: arrays by input name, their first axis counts the samples.

An array is never read whole, so a file may be larger than memory. Nothing in it is unpickled.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lowprec.errors import UsageError

Array = NDArray[np.generic]
ADVICE = "write one with numpy.savez(path, **{input_name: samples})"
SUFFIX = ".npy"
UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_samples(path: Path, names: Sequence[str]) -> Iterator[dict[str, Array]]:
    """Each sample as a dict; the array of a model with one input may have any name."""
    if not path.is_file():
        raise UsageError(f"calibration {str(path)!r} does not exist: {ADVICE}")
    with ExitStack() as stack:
        with _readable(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            stored = {name: stack.enter_context(archive.open(name)) for name in archive.namelist()}
            members = {name.removesuffix(SUFFIX): _member(file) for name, file in stored.items()}
        if len(names) == len(members) == 1:
            members = dict(zip(names, members.values(), strict=True))
        for _ in range(_count(path, members)):
            with _readable(path):
                sample = {name: _next(member) for name, member in members.items()}
            yield sample


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """An array in the archive, its header read: what follows in the file are its samples."""

    file: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as problem:
        raise UsageError(f"calibration {str(path)!r} cannot be read as .npz ({problem}): {ADVICE}") from None


def _member(file: IO[bytes]) -> _Member:
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"it is of version {version[0]}.{version[1]} of NumPy's format")
    shape, fortran, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded")
    if not shape:
        raise ValueError("an array is one number, without an axis that counts samples")
    if fortran and len(shape) > 1:
        raise ValueError("an array is stored column by column: save numpy.ascontiguousarray of it")
    return _Member(file=file, shape=shape, dtype=dtype)


HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def _count(path: Path, members: Mapping[str, _Member]) -> int:
    counts = {name: member.shape[0] for name, member in members.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise UsageError(f"calibration {str(path)!r} holds {found}: give as many samples of each input")
    return next(iter(counts.values()), 0)


def _next(member: _Member) -> Array:
    """The member's next sample."""
    shape = member.shape[1:]
    size = math.prod(shape) * member.dtype.itemsize
    data = member.file.read(size)
    if len(data) != size:
        raise EOFError("it ends within a sample")
    return np.frombuffer(data, member.dtype).reshape(shape)
