"""The compiled pass: where it is built and kept, what happens where it cannot be, and that it writes nothing else."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import lowprec
from lowprec.formats import FP16, Binary, Fixed
from lowprec.rounding import Rounding
from lowprec.train import Draw, fused, round_to

X = torch.randn(500, generator=torch.Generator().manual_seed(1))
DRAW = Draw(seed=3, tensor_name="x", start=2)
EXPECTED = lowprec.round_to(
    X.numpy(), Fixed(2, 6), Rounding.STOCHASTIC, bits=lowprec.random_bits(3, "x", X.numel(), start=2)
)


def rounds() -> None:
    """Whichever way it goes, the bits are right."""
    found = round_to(X, Fixed(2, 6), Rounding.STOCHASTIC, bits=DRAW).numpy()
    np.testing.assert_array_equal(found.view(np.uint32), EXPECTED.view(np.uint32))


def runs() -> bool:
    rule = fused.rule_of(Fixed(2, 6), Rounding.STOCHASTIC, 32)
    assert rule is not None
    return fused.run(X, rule, DRAW) is not None


def without_it() -> str:
    """Rounds twice without the pass; the one warning that there may be."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rounds()
        assert not runs()
        rounds()
    assert [warning.category for warning in caught] == [RuntimeWarning]
    message = str(caught[0].message)
    assert message.startswith("rounding by torch's own operators, which is slower: ")
    assert "\n" not in message
    return message


def with_it() -> None:
    """Rounds by the pass, and nobody is warned."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runs()
        rounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A program that stands for the compiler: it notes that it was called, and copies what was compiled before."""

    path: Path
    log: Path

    @property
    def calls(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def does(self, action: str) -> None:
        before = os.stat(self.path).st_mtime_ns if self.path.exists() else None
        lines = [
            "#!/bin/sh",
            'for word in "$@"; do [ "$before" = -o ] && out=$word; before=$word; done',
            f"echo called >> {self.log}",
            action,
        ]
        self.path.write_text("\n".join(lines) + "\n")
        self.path.chmod(0o755)
        if before is not None:
            os.utime(self.path, ns=(before, before))


@pytest.fixture(scope="module")
def compiled() -> Path:
    """The library that every user of this machine has."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    fused._function.cache_clear()
    library = fused._library()
    assert library is not None
    return library


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder and the usual compiler; afterwards everything is as before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    fused._function.cache_clear()
    yield tmp_path / "cache" / "lowprec"
    fused._function.cache_clear()


@pytest.fixture
def compiler(compiled: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    result = Compiler(path=tmp_path / "fakecc", log=tmp_path / "log")
    result.does(f'cp {compiled} "$out"')
    monkeypatch.setenv("CC", str(result.path))
    return result


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_is_built_and_kept(compiled: Path, cache: Path) -> None:
    with_it()
    assert kept(cache) == [compiled.name]
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_kept_library_needs_no_compiler(compiler: Compiler, cache: Path) -> None:
    with_it()
    assert compiler.calls == 1
    compiler.does("exit 1")
    fused._function.cache_clear()
    with_it()
    assert compiler.calls == 1
    assert len(kept(cache)) == 1


def test_another_compiler_makes_another_library(compiler: Compiler, cache: Path, tmp_path: Path) -> None:
    with_it()
    os.utime(compiler.path, ns=(1, 1))
    fused._function.cache_clear()
    with_it()
    assert compiler.calls == 2
    assert len(kept(cache)) == 2


@pytest.mark.parametrize("name", ["WIDE", "FLAGS"])
def test_other_flags_make_another_library(
    name: str, compiler: Compiler, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it()
    monkeypatch.setattr(fused, name, (*getattr(fused, name), "-DOTHER"))
    fused._function.cache_clear()
    with_it()
    assert compiler.calls == len(kept(cache)) == 2


def test_another_cpu_makes_another_library(compiler: Compiler, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it()
    monkeypatch.setattr(fused, "_cpu", lambda: "flags: other")
    fused._function.cache_clear()
    with_it()
    assert compiler.calls == len(kept(cache)) == 2


def test_is_built_once_in_a_process(compiler: Compiler) -> None:
    for _ in range(3):
        with_it()
    assert compiler.calls == 1


CHILD = """
import warnings
warnings.simplefilter("error")
import torch
from lowprec import Fixed, Rounding
from lowprec.train import Draw, fused, round_to
x = torch.linspace(-3, 3, 100)
y = round_to(x, Fixed(2, 6), Rounding.STOCHASTIC, bits=Draw(seed=3, tensor_name="x"))
assert fused._function() is not None
print(y.tolist())
"""


def test_two_processes_build_at_the_same_time(compiler: Compiler, compiled: Path, cache: Path) -> None:
    """Neither compiler ends before both have begun."""
    both = f'for i in $(seq 300); do [ "$(wc -l < {compiler.log})" -ge 2 ] && break; sleep 0.1; done'
    compiler.does(f'{both}\ncp {compiled} "$out"')
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [(*child.communicate(timeout=60), child.returncode) for child in children]
    expected = lowprec.round_to(
        torch.linspace(-3, 3, 100).numpy(), Fixed(2, 6), Rounding.STOCHASTIC, bits=lowprec.random_bits(3, "x", 100)
    )
    for output, errors, status in ends:
        assert status == 0, errors
        assert output.strip() == str(expected.tolist())
    assert compiler.calls == 2
    assert len(kept(cache)) == 1


def test_without_a_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler-anywhere")
    assert "there is no C compiler" in without_it()


def test_with_a_compiler_that_fails(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/bin/false")
    assert "/bin/false made no library" in without_it()
    assert kept(cache) == []


def test_with_a_compiler_that_makes_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/bin/true")
    without_it()
    assert kept(cache) == []


def test_with_a_compiler_that_is_none(compiler: Compiler, cache: Path) -> None:
    compiler.path.write_bytes(b"\x7fELF no program")
    without_it()
    assert kept(cache) == []


def test_with_a_compiler_that_does_not_end(compiler: Compiler, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.does("exec sleep 20")
    monkeypatch.setattr(fused, "COMPILER_SECONDS", 0.3)
    assert "TimeoutExpired" in without_it()
    assert kept(cache) == []


def test_with_a_library_that_cannot_be_loaded(compiler: Compiler, cache: Path) -> None:
    """Such as where the cache is mounted without the right to run things."""
    compiler.does('echo "no library" > "$out"')
    without_it()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o720, 0o702])
def test_a_folder_that_others_can_write_to_is_not_used(compiler: Compiler, cache: Path, mode: int) -> None:
    with_it()
    cache.chmod(mode)
    fused._function.cache_clear()
    assert "belongs to others" in without_it()
    cache.chmod(0o755)
    fused._function.cache_clear()
    with_it()
    assert compiler.calls == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_used(compiler: Compiler, cache: Path) -> None:
    with_it()
    os.chown(cache, 12345, -1)
    fused._function.cache_clear()
    assert "belongs to others" in without_it()


def test_a_folder_that_cannot_be_made(cache: Path) -> None:
    cache.parent.write_text("a file where a folder should be")
    assert "the cache folder cannot be made" in without_it()


def test_a_file_where_the_folder_should_be(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file")
    without_it()


@pytest.mark.skipif(os.getuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written(compiler: Compiler, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    without_it()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_folder_that_nobody_can_write(compiler: Compiler, cache: Path) -> None:
    """/proc is a folder of root's own, in which root can make nothing: as a file system mounted read-only."""
    cache.parent.mkdir()
    cache.symlink_to("/proc")
    without_it()


def test_a_user_without_a_home(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user is in no list."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    without_it()


def test_the_folder_in_the_home(compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for unset in (None, ""):
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        if unset is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        fused._function.cache_clear()
        with_it()
        assert len(kept(tmp_path / "home" / ".cache" / "lowprec")) == 1
    assert compiler.calls == 1


@pytest.mark.parametrize("fmt", [Fixed(2, 6), FP16, Binary()], ids=str)
@pytest.mark.parametrize("rounding", [Rounding.NEAREST_EVEN, Rounding.STOCHASTIC])
def test_the_pass_writes_what_it_owns_and_nothing_else(
    fmt: lowprec.Fixed | lowprec.Float | lowprec.Binary, rounding: Rounding, compiled: Path
) -> None:
    """Into a buffer of NaN, from the middle of it, and from values and bits that end where it ends."""
    function = fused._function()
    rule = fused.rule_of(fmt, rounding, 32)
    assert function is not None
    assert rule is not None
    (rule.key0, rule.key1), rule.at = DRAW.key, DRAW.step
    for count in (0, 1, 3, 4, 5, 63, 64, 65, 127, 128, 129, 200):
        x = np.random.default_rng(count).normal(size=count).astype(np.float32)
        for start in (0, 1, 2, 3, 63, 2**34 - 61):
            draws = lowprec.random_bits(3, "x", count, start=start)
            expected = lowprec.round_to(x, fmt, rounding, bits=draws)
            for bits in (None, draws):
                y = np.full(count + 256, np.nan, np.float32)
                begin = y.ctypes.data + 4 * 128
                function(
                    x.ctypes.data, begin, count, start, None if bits is None else bits.ctypes.data, ctypes.byref(rule)
                )
                np.testing.assert_array_equal(y[128 : 128 + count], expected)
                assert np.isnan(y[:128]).all()
                assert np.isnan(y[128 + count :]).all()


def test_the_structure_is_that_of_the_source() -> None:
    """Field by field, in the same order and of the same width."""
    source = Path(fused.__file__).with_name("fused.c").read_text()
    body = source[source.index("typedef struct {") : source.index("} Rule;")]
    types = {"int32_t": ctypes.c_int32, "uint32_t": ctypes.c_uint32, "float": ctypes.c_float}
    written: list[tuple[str, Callable[..., object]]] = []
    for line in body.splitlines()[1:]:
        kind, _, names = line.partition(";")[0].strip().partition(" ")
        written += [(name.strip(), types[kind]) for name in names.split(",") if name.strip()]
    assert [(field[0], field[1]) for field in fused.Rule._fields_] == written
