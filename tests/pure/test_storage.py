"""An artifact's directory: replaced whole or not at all, refused when anything in it differs."""

import dataclasses
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lowprec import manifest as manifests
from lowprec import storage
from lowprec.errors import EnvironmentMismatch, UsageError
from lowprec.manifest import FILE_NAME, LIBRARY, WEIGHTS
from lowprec.targets import detect_features
from tests.manifests import hand_made

Array = NDArray[np.generic]
ARRAYS: list[Array] = [
    np.arange(15, dtype=np.float32).reshape(3, 5),
    np.array(7, np.int64),
    np.empty((0, 4), np.float32),
    np.random.default_rng(0).standard_normal(40_000),
    np.array([True, False]),
    np.arange(24, dtype=np.int8).reshape(2, 3, 4).transpose(2, 0, 1),
]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "built.so"
    path.write_bytes(b"not really a library")
    return path


@pytest.fixture
def artifact(tmp_path: Path, library: Path) -> Path:
    directory = tmp_path / "net.lowprec"
    storage.write(directory, library, ARRAYS, hand_made())
    return directory


def test_weights_come_back_equal_and_aligned(artifact: Path) -> None:
    manifest = storage.read(artifact)
    for array, wanted in zip(storage.load_weights(artifact, manifest), ARRAYS, strict=True):
        assert array.dtype == wanted.dtype
        assert array.ctypes.data % 64 == 0 or not array.size
        assert np.array_equal(array, wanted)
    assert manifest.weights[3].offset % 4096 == 0, "a large array starts a page"


def test_what_needs_few_bits_takes_few_bytes(tmp_path: Path, library: Path) -> None:
    """Each array comes back as it was and aligned, in memory of its own; the file has what their packings take."""
    rng = np.random.default_rng(0)
    arrays: list[Array] = [
        rng.integers(-512, 512, (7, 11, 13, 5), np.int16),
        rng.standard_normal((50, 41)).astype(manifests.dtype_of("bfloat16")).astype(np.float32),
        rng.standard_normal((9, 999)).astype(np.float16).astype(np.float32),
        np.full((1, 7, 7, 2048), 0.5, np.float32),
        rng.integers(-128, 128, 5000, np.int8),
    ]
    storage.write(tmp_path / "packed", library, arrays, hand_made())
    manifest = storage.read(tmp_path / "packed")
    packings = [spec.packing for spec in manifest.weights]
    assert packings[:3] == ["bits:10", "bfloat16", "float16"]
    assert packings[3].startswith("deflate:")
    assert packings[4] == "plain"
    for array, wanted in zip(storage.load_weights(tmp_path / "packed", manifest), arrays, strict=True):
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
        assert array.ctypes.data % 64 == 0
        assert array.tobytes() == wanted.tobytes()
        assert array.flags.writeable
    taken = 5 * 1001 * 10 // 8 + 2 * 50 * 41 + 2 * 9 * 999 + int(packings[3].partition(":")[2]) + 5000
    assert 0 <= manifest.files[WEIGHTS].bytes - taken < 64 * 5


@pytest.mark.parametrize("harm", [b"\xff", b"\0"], ids=["ones", "zeros"])
def test_an_array_that_cannot_be_unpacked(harm: bytes, tmp_path: Path, library: Path) -> None:
    """Its hash fits, so that somebody wrote it on purpose."""
    storage.write(tmp_path / "bad", library, [np.zeros(9999, np.float32)], hand_made())
    manifest = storage.read(tmp_path / "bad")
    (tmp_path / "bad" / WEIGHTS).write_bytes(harm * manifest.files[WEIGHTS].bytes)
    with pytest.raises(EnvironmentMismatch, match=r"bad: an array of weights.bin cannot be unpacked: zlib") as caught:
        storage.load_weights(tmp_path / "bad", manifest)
    assert "\n" not in str(caught.value)


def test_bfloat16_weights(tmp_path: Path, library: Path) -> None:
    bfloat16 = manifests.dtype_of("bfloat16")
    wanted = np.arange(10).astype(bfloat16)
    storage.write(tmp_path / "b", library, [wanted], hand_made())
    (found,) = storage.load_weights(tmp_path / "b", storage.read(tmp_path / "b"))
    assert found.dtype == bfloat16
    assert np.array_equal(found, wanted)


def test_an_artifact_without_weights(tmp_path: Path, library: Path) -> None:
    storage.write(tmp_path / "none", library, [], hand_made())
    assert storage.load_weights(tmp_path / "none", storage.read(tmp_path / "none")) == []


def test_nothing_but_the_three_files_is_left(artifact: Path, tmp_path: Path) -> None:
    assert {path.name for path in artifact.iterdir()} == {LIBRARY, WEIGHTS, FILE_NAME}
    assert {path.name for path in tmp_path.iterdir()} == {"net.lowprec", "built.so"}
    assert stat.S_IMODE(artifact.stat().st_mode) & 0o700 == 0o700


@pytest.mark.parametrize("exchange", [True, False], ids=["renameat2", "two renames"])
def test_replacing(artifact: Path, library: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(storage, "_rename_exchange", lambda *_: False)
    storage.write(artifact, library, [np.ones(3, np.float32)], hand_made(threads=2))
    assert storage.read(artifact).threads == 2
    assert [path.name for path in artifact.parent.iterdir() if path.name.startswith(".")] == []


def test_an_empty_directory_is_taken(tmp_path: Path, library: Path) -> None:
    (tmp_path / "empty").mkdir()
    storage.write(tmp_path / "empty", library, ARRAYS, hand_made())
    storage.read(tmp_path / "empty")


def test_missing_parents_are_made(tmp_path: Path, library: Path) -> None:
    storage.write(tmp_path / "a" / "b" / "net", library, ARRAYS, hand_made())
    storage.read(tmp_path / "a" / "b" / "net")


@pytest.mark.parametrize("kind", ["file", "link", "folder", "artifact with a guest"])
def test_what_is_no_artifact_is_never_replaced(kind: str, artifact: Path, library: Path) -> None:
    place = artifact.parent / "mine"
    match kind:
        case "file":
            place.write_text("precious")
        case "link":
            place.symlink_to(artifact)
        case "folder":
            place.mkdir()
            (place / "thesis.txt").write_text("precious")
        case _:
            place = artifact
            (place / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=re.escape(str(place))):
        storage.write(place, library, ARRAYS, hand_made())
    precious = place if kind == "file" else place / "thesis.txt"
    assert kind == "link" or precious.read_text() == "precious"


class Stopped(BaseException):
    """Stands for whatever ends a process in the middle."""


STEPS = ["shutil.copyfile", "_write_weights", "manifests.to_text", "_flush", "_exchange"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [Stopped, OSError], ids=lambda kind: kind.__name__)
def test_an_interrupted_write_leaves_the_old_artifact(
    step: str, error: type[BaseException], artifact: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = storage.read(artifact)

    def stop(*_: object) -> None:
        raise error(28, "No space left on device")

    owner, _, name = f"lowprec.storage.{step}".rpartition(".")
    monkeypatch.setattr(f"{owner}.{name}", stop)
    with pytest.raises((Stopped, UsageError)):
        storage.write(artifact, library, [np.ones(3, np.float32)], hand_made(threads=2))
    monkeypatch.undo()
    assert storage.read(artifact) == before
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["built.so", "net.lowprec"]


def test_a_failed_second_rename_is_undone(artifact: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, renames, rename = storage.read(artifact), iter(range(9)), os.rename

    def second_fails(source: Path, target: Path) -> None:
        if next(renames) == 1:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(storage, "_rename_exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(UsageError, match="Input/output error"):
        storage.write(artifact, library, [np.ones(3, np.float32)], hand_made(threads=2))
    monkeypatch.undo()
    assert storage.read(artifact) == before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def to_link(path: Path) -> None:
    os.rename(path, path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    (LIBRARY, flip, "model.so has SHA-256"),
    (WEIGHTS, flip, "weights.bin has SHA-256"),
    (FILE_NAME, flip, "manifest.json"),
    (LIBRARY, grow, "model.so has 21 bytes, the manifest says 20"),
    (WEIGHTS, grow, "weights.bin has"),
    (LIBRARY, Path.unlink, "model.so is missing"),
    (WEIGHTS, Path.unlink, "weights.bin is missing"),
    (FILE_NAME, Path.unlink, "it has no manifest.json"),
    (LIBRARY, to_link, "model.so is a link"),
    (WEIGHTS, to_link, "weights.bin is a link"),
    (FILE_NAME, to_link, "manifest.json is a link"),
    (LIBRARY, to_folder, "model.so is missing"),
    (FILE_NAME, to_folder, "it has no manifest.json"),
]


@pytest.mark.parametrize(("name", "harm", "words"), DAMAGE, ids=[f"{n} {h.__name__}" for n, h, _ in DAMAGE])
def test_damage_is_named(name: str, harm: Callable[[Path], None], words: str, artifact: Path) -> None:
    harm(artifact / name)
    with pytest.raises(EnvironmentMismatch, match=re.escape(words)) as caught:
        storage.read(artifact)
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)


def test_a_link_beside_the_files_is_refused(artifact: Path) -> None:
    (artifact / "extra").symlink_to("/etc/passwd")
    with pytest.raises(EnvironmentMismatch, match="extra is a link"):
        storage.read(artifact)


def test_a_huge_manifest_is_not_read(artifact: Path) -> None:
    os.truncate(artifact / FILE_NAME, 1 << 30)
    with pytest.raises(EnvironmentMismatch, match="at most"):
        storage.read(artifact)


def test_foreign_directories(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        storage.read(tmp_path / "nowhere")
    assert caught.value.exit_code == 2
    with pytest.raises(EnvironmentMismatch, match="is not an artifact"):
        storage.read(tmp_path)
    (tmp_path / FILE_NAME).write_text('{"name": "my-app", "version": "1.0.0"}')
    with pytest.raises(EnvironmentMismatch, match="schema is None"):
        storage.read(tmp_path)


def test_a_directory_that_may_not_be_read(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage, "sha256", refuse)
    with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\)"):
        storage.read(artifact)


def test_the_machine_is_checked() -> None:
    manifest = hand_made(features=sorted(detect_features()))
    storage.check_machine(manifest)
    with pytest.raises(EnvironmentMismatch, match="this CPU has no avx1024, which the artifact for 'toy' needs"):
        storage.check_machine(hand_made(features=["avx1024"]))
    other = dataclasses.replace(manifest, target=dataclasses.replace(manifest.target, arch="riscv64"))
    with pytest.raises(EnvironmentMismatch, match="the artifact is for riscv64"):
        storage.check_machine(other)


@pytest.mark.parametrize("name", ["apache-tvm", "apache-tvm-ffi"])
def test_the_runtime_must_be_the_one_built_with(name: str) -> None:
    manifest = hand_made()
    old = dataclasses.replace(manifest, versions=manifest.versions | {name: "0.1"})
    with pytest.raises(EnvironmentMismatch, match=f"built with {name} 0.1 and .* is installed"):
        storage.check_machine(old)
    versions = {key: value for key, value in manifest.versions.items() if key != name}
    with pytest.raises(EnvironmentMismatch, match=f"built with {name} unknown"):
        storage.check_machine(dataclasses.replace(manifest, versions=versions))


def test_copying_checks_and_replaces(artifact: Path, tmp_path: Path) -> None:
    manifest = storage.read(artifact)
    storage.copy(artifact, tmp_path / "copy", manifest)
    assert storage.read(tmp_path / "copy") == manifest
    storage.copy(artifact, artifact, manifest)
    flip(artifact / WEIGHTS)
    with pytest.raises(EnvironmentMismatch, match="SHA-256"):
        storage.copy(artifact, tmp_path / "copy", manifest)
    assert storage.read(tmp_path / "copy") == manifest
