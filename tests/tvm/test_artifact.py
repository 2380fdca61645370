"""Artifacts run: right answers whatever the caller's memory and threads look like, which stay the caller's."""

import concurrent.futures
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm import relax

from lowprec import artifact as artifacts
from lowprec import runtime
from lowprec.artifact import Artifact, load
from lowprec.errors import EnvironmentMismatch, UsageError
from lowprec.layers import Cost
from lowprec.manifest import CallSpec, ProbeSpec, dtype_of
from lowprec.tensors import TensorSpec
from tests import toys
from tests.manifests import hand_made

Array = NDArray[np.generic]
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def linear(folder: Path) -> Path:
    return toys.linear(folder)


@pytest.fixture(scope="module")
def pair(folder: Path) -> Path:
    """Two inputs; outputs: their sum, the first input itself, and a probe in a padded, channels-last buffer."""
    shape = (2, 4, 4, 3)
    library = folder / "pair.so"
    toys.build_library(
        library,
        [("a", shape, "float32"), ("b.1", shape, "float32")],
        lambda bb, p: relax.Tuple([bb.emit(relax.op.add(p[0], p[1])), p[0], bb.emit(relax.op.multiply(p[0], p[1]))]),
    )
    specs = [TensorSpec(name=name, dtype="float32", shape=shape) for name in ("a", "b.1", "sum", "same")]
    probe = ProbeSpec(tensor="inner", layer="conv", axes=(0, 3, 1, 2), crop=((0, 2), (1, 2), (1, 3), (0, 3)))
    artifacts.write(folder / "pair", library, [], hand_made(specs[:2], specs[2:], probes=[probe]))
    return folder / "pair"


def expected(x: Floats) -> NDArray[np.float64]:
    w, b = toys.linear_weights()
    result: NDArray[np.float64] = x.astype(np.float64) @ w.astype(np.float64) + b
    return result


def data(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_one_output_is_an_array_and_a_dict_gives_a_dict(linear: Path) -> None:
    art, x = load(linear), data(3, 5)
    y = art(x)
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-6)
    named = art({"x": x})
    assert list(named) == ["y"]
    assert np.array_equal(named["y"], y)


def test_several_outputs_are_a_dict_in_the_models_order(pair: Path) -> None:
    art, a, b = load(pair), data(2, 4, 4, 3), data(2, 4, 4, 3, seed=1)
    for result in (art(a, b), art({"b.1": b, "a": a})):
        assert list(result) == ["sum", "same"]
        assert np.array_equal(result["sum"], a + b)
        assert np.array_equal(result["same"], a)


def test_what_it_says_of_itself(linear: Path) -> None:
    art = load(linear)
    assert [(spec.name, spec.dtype, spec.shape) for spec in art.inputs] == [("x", "float32", (3, 5))]
    assert [spec.name for spec in art.outputs] == ["y"]
    assert art.plan == art.manifest.plan
    assert art.plan.choice("y").op == "Gemm"
    assert str(linear) in repr(art)


@given(offset=st.integers(0, 70), order=st.permutations(range(4)), step=st.integers(1, 3), writable=st.booleans())
def test_any_memory_layout(pair: Path, offset: int, order: list[int], step: int, writable: bool) -> None:
    """Unaligned to a single byte, transposed, strided, read-only: all give the same answer."""
    art = cached(pair)
    a, b = data(2, 4, 4, 3), data(2, 4, 4, 3, seed=1)
    raw = np.empty(offset + a.nbytes, np.uint8)
    odd = raw[offset:].view(np.float32).reshape(a.shape)
    odd[:] = a
    odd.flags.writeable = writable
    strided = np.zeros((*(np.array(b.shape)[order] * step),), np.float32)[tuple([slice(None, None, step)] * 4)]
    turned = strided.transpose(np.argsort(order))
    turned[:] = b
    result = art(odd, turned)
    assert np.array_equal(result["sum"], a + b)


_cache: dict[Path, Artifact] = {}


def cached(path: Path) -> Artifact:
    if path not in _cache:
        _cache[path] = load(path)
    return _cache[path]


def test_results_belong_to_the_caller(pair: Path) -> None:
    """Writing into a result changes neither the inputs, which an output may be, nor other results."""
    art, a, b = load(pair), data(2, 4, 4, 3), data(2, 4, 4, 3, seed=1)
    before = a.copy()
    first = art(a, b)
    kept = first["sum"].copy()
    first["same"][:] = 0
    assert np.array_equal(a, before)
    for seed in range(5):
        art(data(2, 4, 4, 3, seed=seed), b)
    assert np.array_equal(first["sum"], kept)
    assert first["sum"].flags.writeable


def test_outputs_in_the_same_memory_are_apart(folder: Path) -> None:
    """A weight, a result and its other shape: writing into one changes neither the others nor the next run."""
    library, weight = folder / "twins.so", data(2, 6, seed=2)
    toys.build_library(
        library,
        [("x", (2, 6), "float32"), ("w", (2, 6), "float32")],
        lambda bb, p: relax.Tuple([y := bb.emit(relax.op.add(p[0], p[1])), bb.emit(relax.op.reshape(y, (12,))), p[1]]),
    )
    outputs = [TensorSpec(name=n, dtype="float32", shape=s) for n, s in (("y", (2, 6)), ("flat", (12,)), ("w", (2, 6)))]
    artifacts.write(folder / "twins", library, [weight], hand_made([outputs[0]], outputs))
    art, x = load(folder / "twins"), data(2, 6)
    for _ in range(3):
        results = art({"y": x})
        expected = [x + weight, (x + weight).reshape(12), weight]
        assert all(map(np.array_equal, results.values(), expected))
        for array in results.values():
            assert np.count_nonzero(array) == array.size
            array[:] = 0


def test_results_outlive_their_artifact(linear: Path) -> None:
    x = data(3, 5)
    results = [load(linear)(x) for _ in range(20)]
    assert all(np.allclose(y, expected(x), rtol=1e-5, atol=1e-6) for y in results)


def test_refusals_are_one_line(linear: Path) -> None:
    art = load(linear)
    with pytest.raises(UsageError, match=r"input 'x' has shape \[5, 3\]: the model takes \[3, 5\]"):
        art(data(5, 3))
    with pytest.raises(UsageError, match="the model has no input 'X': it takes x"):
        art({"X": data(3, 5)})
    with pytest.raises(UsageError, match="step is -1"):
        art(data(3, 5), step=-1)
    assert np.array_equal(art(data(3, 5), step=3), art(data(3, 5)))


def test_threads_of_the_caller_share_one_artifact(linear: Path) -> None:
    art = load(linear, threads=2)
    barrier = threading.Barrier(4)

    def work(seed: int) -> bool:
        x = data(3, 5, seed=seed)
        barrier.wait()
        wanted = art(x)
        return all(np.array_equal(art(x), wanted) for _ in range(300))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_thread_counts_come_and_go(linear: Path) -> None:
    """TVM's pool cannot grow once made: the machine then moves to a thread of its own, and answers the same."""
    x = data(3, 5)
    answers = [load(linear, threads=count)(x) for count in (1, 2, 4, 1, 3)]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_the_pool_gets_the_size_asked_for(linear: Path) -> None:
    def sizes() -> Iterator[bool]:
        for count in (2, 1, 2, 3):
            yield runtime.set_threads(count)

    with concurrent.futures.ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(lambda: list(sizes())).result() == [True, True, True, False]


def test_the_caller_keeps_its_cores(linear: Path) -> None:
    before = os.sched_getaffinity(0)
    load(linear, threads=1)(data(3, 5))
    load(linear, threads=2)(data(3, 5))
    assert os.sched_getaffinity(0) == before


def test_after_a_fork(linear: Path) -> None:
    """The workers of a pool do not survive a fork; the child gets new ones instead of waiting for ever."""
    code = (
        "import os, sys, numpy as np; from lowprec import load\n"
        "art = load(sys.argv[1], threads=2); x = np.ones((3, 5), np.float32); y = art(x)\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(0 if np.array_equal(art(x), y) else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(linear)], check=True, timeout=60)


PRECEDENCE = [
    (3, "2", 4, 3),
    (None, "2", 4, 2),
    (None, "", 4, 4),
    (None, None, 4, 4),
    (None, None, None, len(os.sched_getaffinity(0))),
]


@pytest.mark.parametrize(("asked", "variable", "compiled", "chosen"), PRECEDENCE)
def test_who_decides_on_threads(
    asked: int | None, variable: str | None, compiled: int | None, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(artifacts.THREADS_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(artifacts.THREADS_VARIABLE, variable)
    assert artifacts.choose_threads(asked, hand_made(threads=compiled)) == chosen


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, "2", 10_000])
def test_a_wrong_number_of_threads(wrong: object, linear: Path) -> None:
    with pytest.raises(UsageError, match=r"threads is .*: give a whole number from 1 to 1024"):
        load(linear, threads=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5", "²"])
def test_a_wrong_environment_variable(wrong: str, linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(artifacts.THREADS_VARIABLE, wrong)
    with pytest.raises(UsageError, match="LOWPREC_NUM_THREADS is"):
        load(linear)


def test_saving(linear: Path, tmp_path: Path) -> None:
    art = load(linear)
    art.save(tmp_path / "copy")
    x = data(3, 5)
    assert np.array_equal(load(tmp_path / "copy")(x), art(x))


def test_one_that_replaces_another_runs_its_own_code(tmp_path: Path) -> None:
    """Though the other is still loaded, and from a file of the same name."""
    arts = []
    for rows in (3, 4, 5):
        toys.linear(tmp_path, rows=rows)
        arts.append(load(tmp_path / "linear.lowprec"))
    for rows, art in zip((3, 4, 5), arts, strict=True):
        assert art(data(rows, 5)).shape == (rows, 4)
    again = load(tmp_path / "linear.lowprec")
    assert np.array_equal(again(data(5, 5)), arts[-1](data(5, 5)))


def test_a_temporary_artifact_takes_its_directory_along(linear: Path, tmp_path: Path) -> None:
    load(linear).save(tmp_path / "passing")
    art = load(tmp_path / "passing", temporary=True)
    art(data(3, 5))
    del art
    assert not (tmp_path / "passing").exists()


def test_the_profile_names_every_call(linear: Path) -> None:
    art = load(linear)
    times = art.profile((data(3, 5),), repeats=3)
    assert [time.symbol for time in times] == ["matmul", "add"] * 3
    assert {time.layer for time in times} == {"y"}
    assert all(0 < time.seconds < 1 for time in times)
    assert art.profile({"x": data(3, 5)}, repeats=1)[0].op == "Gemm"


def test_a_profile_of_other_calls_is_refused(folder: Path, linear: Path) -> None:
    call = CallSpec(symbol="relu", layer="y", op="Relu", output="y", family="generic", cost=Cost())
    weights = toys.linear_weights()
    artifacts.write(folder / "wrong", linear / "model.so", weights, hand_made(calls=[call]))
    with pytest.raises(EnvironmentMismatch, match="calls is not what the library does"):
        load(folder / "wrong").profile((data(3, 5),), repeats=1)


def test_probes_are_cut_out_and_turned(pair: Path) -> None:
    a, b = data(2, 4, 4, 3), data(2, 4, 4, 3, seed=1)
    outputs, inner = load(pair).run_probes({"a": a, "b.1": b})
    assert list(outputs) == ["sum", "same"]
    assert np.array_equal(inner["inner"], (a * b)[:, 1:3, 1:4].transpose(0, 3, 1, 2))
    assert inner["inner"].flags.c_contiguous


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64", "bfloat16"]
)
def test_every_dtype_goes_in_and_out(dtype: str, folder: Path) -> None:
    library, shape = folder / f"{dtype}.so", (2, 3)
    toys.build_library(library, [("x", shape, dtype), ("w", shape, dtype)], lambda bb, p: relax.Tuple([p[0], p[1]]))
    specs = [TensorSpec(name=name, dtype=dtype, shape=shape) for name in ("x", "same", "weight")]
    weight = np.arange(6).reshape(shape).astype(dtype_of(dtype))
    artifacts.write(folder / dtype, library, [weight], hand_made(specs[:1], specs[1:]))
    x = np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype_of(dtype))
    result = load(folder / dtype)(x)
    for found, wanted in zip(result.values(), (x, weight), strict=True):
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)])
def test_scalars_and_empty_arrays(shape: tuple[int, ...], folder: Path) -> None:
    name = f"shape{len(shape)}"
    toys.build_library(folder / f"{name}.so", [("x", shape, "float32")], lambda bb, p: p[0])
    specs = [TensorSpec(name=name, dtype="float32", shape=shape) for name in ("x", "y")]
    artifacts.write(folder / name, folder / f"{name}.so", [], hand_made(specs[:1], specs[1:]))
    y = load(folder / name)(np.full(shape, 3, np.float32))
    assert isinstance(y, np.ndarray)
    assert y.shape == shape
    assert np.all(y == 3)


def test_nothing_heavy_is_loaded(linear: Path) -> None:
    """A fresh process answers without onnx, torch, TVM's Python package or its compiler library."""
    code = (
        "import sys, json, numpy as np; from lowprec import load\n"
        "art = load(sys.argv[1]); art(np.ones((3, 5), np.float32))\n"
        "heavy = [name for name in ('onnx', 'torch', 'tvm', 'onnxruntime') if name in sys.modules]\n"
        "print(json.dumps([heavy, 'libtvm_compiler' in open('/proc/self/maps').read(), 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(linear)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], False, False]


def test_damage_is_found_before_anything_is_opened(linear: Path, tmp_path: Path) -> None:
    load(linear).save(tmp_path / "damaged")
    library = tmp_path / "damaged" / "model.so"
    library.write_bytes(bytes(library.stat().st_size))
    with pytest.raises(EnvironmentMismatch, match=r"model\.so has SHA-256"):
        load(tmp_path / "damaged")


def test_a_library_that_is_none(folder: Path) -> None:
    """Hashes are right: whoever wrote this artifact wrote nonsense."""
    (folder / "text.so").write_text("no library")
    artifacts.write(folder / "text", folder / "text.so", [], hand_made())
    with pytest.raises(EnvironmentMismatch, match=r"model\.so cannot be opened") as caught:
        load(folder / "text")
    assert "\n" not in str(caught.value)


def test_a_missing_cpu_feature_is_named(folder: Path, linear: Path) -> None:
    artifacts.write(folder / "future", linear / "model.so", [], hand_made(features=["avx1024_fp4"]))
    with pytest.raises(EnvironmentMismatch, match="this CPU has no avx1024_fp4") as caught:
        load(folder / "future")
    assert caught.value.exit_code == 7
