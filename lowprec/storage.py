"""An artifact's directory on disk: written whole or not at all, read only after every byte has been checked.

Weights stand in as few bytes as their values need (`lowprec.lossless`) and are unpacked when they are loaded; where
that saves little they stand as they are in memory, and are mapped.

`write`: a scratch folder beside the target is filled, flushed to the disk and then exchanged with the target in one
system call, so that a reader, a crash or a full disk finds the old artifact or the new one, never half of one.
`read`: manifest, then file sizes, then SHA-256, all before anything is opened as code.
"""

import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowprec import lossless
from lowprec import manifest as manifests
from lowprec.errors import EnvironmentMismatch, UsageError
from lowprec.manifest import ALIGNMENT, FILE_NAME, LIBRARY, WEIGHTS, FileSpec, Manifest, WeightSpec, dtype_of
from lowprec.runtime import aligned_empty
from lowprec.targets import detect_features, machine_arch

Array = NDArray[np.generic]

_MAX_MANIFEST = 64 << 20
_RUNTIME_PARTS = ("apache-tvm", "apache-tvm-ffi")  # whose versions must be those the library was built with
_AGAIN = "copy it again or compile the model again"
_PAGE = 4096
_LARGE = 64 * _PAGE  # of at least so many bytes, so that gaps are less than a 64th of the file
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write(directory: str | os.PathLike[str], library: Path, weights: Sequence[Array], manifest: Manifest) -> None:
    """Make `directory` the artifact of this library, these weights and this manifest, whose files it fills in."""

    def fill(folder: Path) -> None:
        shutil.copyfile(library, folder / LIBRARY)
        specs = _write_weights(folder / WEIGHTS, weights)
        files = {name: _describe(folder / name) for name in (LIBRARY, WEIGHTS)}
        text = manifests.to_text(manifests.with_files(manifest, files=files, weights=specs))
        manifests.from_text(text)  # what could not be loaded is not written
        (folder / FILE_NAME).write_text(text, encoding="utf-8")

    _place(Path(directory), fill)


def copy(source: Path, directory: Path, manifest: Manifest) -> None:
    """Make `directory` a copy of the artifact at `source`, checked again on the way."""
    if directory.exists() and directory.resolve() == source.resolve():
        return

    def fill(folder: Path) -> None:
        for name in (LIBRARY, WEIGHTS):
            shutil.copyfile(source / name, folder / name)
        (folder / FILE_NAME).write_text(manifests.to_text(manifest), encoding="utf-8")
        read(folder)

    _place(directory, fill)


def read(directory: Path) -> Manifest:
    """The manifest of an artifact whose files are all there and as they were written; EnvironmentMismatch otherwise."""
    try:
        return _read(directory)
    except OSError as problem:
        raise UsageError(f"{directory} cannot be read ({problem.strerror or problem}): mind its permissions") from None


def _read(directory: Path) -> Manifest:
    if not directory.exists():
        raise UsageError(
            f"{directory} does not exist: give the directory of an artifact, as `lowprec compile -o` makes"
        )
    if not (directory / FILE_NAME).is_file():
        raise EnvironmentMismatch(f"{directory} is not an artifact: it has no {FILE_NAME}; compile a model with -o")
    for entry in os.scandir(directory):
        if entry.is_symlink():
            raise EnvironmentMismatch(f"{directory}: {entry.name} is a link: an artifact holds its own files; {_AGAIN}")
    manifest = _read_manifest(directory)
    for name, spec in manifest.files.items():
        _check_file(directory, name, spec)
    return manifest


def check_machine(manifest: Manifest) -> None:
    """This machine and installation can run the artifact; EnvironmentMismatch names the first thing that differs."""
    target = manifest.target
    if target.arch != machine_arch():
        raise EnvironmentMismatch(
            f"the artifact is for {target.arch} and this machine is {machine_arch()}: compile the model here"
        )
    missing = sorted(set(target.features) - detect_features())
    if missing:
        raise EnvironmentMismatch(
            f"this CPU has no {', '.join(missing)}, which the artifact for {target.name!r} needs:"
            " compile the model with a --target that this CPU has"
        )
    versions = manifests.current_versions()
    for name in _RUNTIME_PARTS:
        if manifest.versions.get(name) != versions[name]:
            raise EnvironmentMismatch(
                f"the artifact was built with {name} {manifest.versions.get(name, 'unknown')} and {versions[name]} is"
                " installed: install that version, or compile the model again"
            )


def load_weights(directory: Path, manifest: Manifest) -> list[Array]:
    """The weights, each at a multiple of 64 bytes. Those that stand plain in the file are views of it in memory: pages
    are read when first used and shared between processes. The others are unpacked, once, to memory of their own."""
    if not manifest.files[WEIGHTS].bytes:
        whole: Array = np.empty(0, np.uint8)
    else:
        # Private and writable, because NumPy hands no read-only array to DLPack; nothing is ever written.
        whole = np.memmap(directory / WEIGHTS, np.uint8, "c").view(np.ndarray)
    try:
        return [_load(whole, spec) for spec in manifest.weights]
    except ValueError as problem:
        raise EnvironmentMismatch(
            f"{directory}: an array of {WEIGHTS} cannot be unpacked: {problem}; {_AGAIN}"
        ) from None


def _load(whole: Array, spec: WeightSpec) -> Array:
    packing, dtype = lossless.parse(spec.packing), dtype_of(spec.dtype)
    piece = whole[spec.offset : spec.offset + manifests.weight_bytes(spec)]
    if packing == lossless.Plain():
        return piece.view(dtype).reshape(spec.shape)
    array = aligned_empty(spec.shape, dtype)
    lossless.unpack_into(array.reshape(-1), piece.view(np.uint8), packing)
    return array


def _write_weights(path: Path, weights: Sequence[Array]) -> tuple[WeightSpec, ...]:
    """Write the arrays one behind the other, each at a multiple of 64 bytes; a large one starts a page."""
    specs = []
    with path.open("wb") as file:
        for array in weights:
            packing, data = lossless.packed(array)
            step = _PAGE if data.size >= _LARGE else ALIGNMENT
            file.write(bytes(-file.tell() % step))
            specs.append(
                WeightSpec(dtype=array.dtype.name, shape=array.shape, offset=file.tell(), packing=str(packing))
            )
            file.write(data.data)
    return tuple(specs)


def _describe(path: Path) -> FileSpec:
    return FileSpec(sha256=sha256(path), bytes=path.stat().st_size)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, read piece by piece: it may be larger than memory should hold."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(directory: Path) -> Manifest:
    path = directory / FILE_NAME
    size = path.stat().st_size
    if size > _MAX_MANIFEST:
        raise EnvironmentMismatch(f"{path} has {size} bytes: at most {_MAX_MANIFEST} are allowed; {_AGAIN}")
    try:
        return manifests.from_text(path.read_bytes())
    except EnvironmentMismatch as problem:
        raise EnvironmentMismatch(f"{directory}: {problem}") from None


def _check_file(directory: Path, name: str, spec: FileSpec) -> None:
    path = directory / name
    if not path.is_file():
        raise EnvironmentMismatch(f"{directory}: {name} is missing; {_AGAIN}")
    size = path.stat().st_size
    if size != spec.bytes:
        raise EnvironmentMismatch(f"{directory}: {name} has {size} bytes, the manifest says {spec.bytes}; {_AGAIN}")
    found = sha256(path)
    if found != spec.sha256:
        raise EnvironmentMismatch(
            f"{directory}: {name} has SHA-256 {found[:12]}..., the manifest says {spec.sha256[:12]}...: it is damaged"
            f" or was changed; {_AGAIN}"
        )


def _place(directory: Path, fill: Callable[[Path], None]) -> None:
    """Have `fill` make the contents in a scratch folder, then put them at `directory` in one step."""
    check_replaceable(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
            fresh = Path(scratch) / "new"
            fresh.mkdir()
            fill(fresh)
            _flush(fresh)
            _exchange(fresh, directory)  # what was there before is now in the scratch folder, and goes with it
            _flush_entry(directory.parent)
    except OSError as problem:
        raise UsageError(f"{directory} cannot be written ({problem.strerror or problem}): give another place") from None


def check_replaceable(directory: Path) -> None:
    """Only an artifact or an empty directory may be replaced: never a folder of somebody's files."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise UsageError(f"{directory} is not a directory: give a new place or an artifact to replace")
    if not directory.exists():
        return
    names = {entry.name for entry in os.scandir(directory)}
    if names and not (FILE_NAME in names and names <= {FILE_NAME, LIBRARY, WEIGHTS}):
        raise UsageError(f"{directory} holds other files than an artifact's and stays as it is: give a new place")


def _exchange(fresh: Path, directory: Path) -> None:
    """Put `fresh` at `directory`; what was there, if anything, ends beside `fresh`."""
    if not directory.exists():
        os.rename(fresh, directory)
        return
    if _rename_exchange(fresh, directory):
        return
    old = fresh.with_name("old")  # a file system without exchange: two renames, undone if the second fails
    os.rename(directory, old)
    try:
        os.rename(fresh, directory)
    except OSError:
        os.rename(old, directory)
        raise


def _rename_exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically (Linux's renameat2); False where the file system or libc cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    status: int = rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    return status == 0


def _flush(folder: Path) -> None:
    for entry in folder.iterdir():
        _flush_entry(entry)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
