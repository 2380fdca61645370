"""The doctor: each check against an installation or a machine that is not as it should be."""

import sys

import pytest

from lowprec import doctor
from lowprec.doctor import PINS, Status, check_amx_permission, check_features, check_ffi, check_pin

NEWER = "0.1.15"


def child(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_the_pinned_versions_are_fine() -> None:
    for name, pin in PINS.items():
        assert check_pin(name, pin).status is Status.FINE


@pytest.mark.parametrize(("found", "said"), [(NEWER, "0.1.15 is installed"), (None, "not installed")])
def test_another_version_is_a_problem_with_its_remedy(found: str | None, said: str) -> None:
    check = check_pin("apache-tvm-ffi", PINS["apache-tvm-ffi"], lambda _name: found)
    assert check.status is Status.PROBLEM
    assert said in check.found
    assert check.advice == "pip install 'apache-tvm-ffi==0.1.14.post1'"


def test_an_ffi_that_fits() -> None:
    assert check_ffi(child("print('fits')")).status is Status.FINE


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "crashes the process (SIGSEGV)"),
        ("raise RuntimeError('no such symbol')", "fails: RuntimeError: no such symbol"),
        ("pass", "fails: no message"),
    ],
)
def test_an_ffi_that_does_not_fit_names_the_pin(code: str, said: str) -> None:
    check = check_ffi(child(code), lambda _name: NEWER)
    assert check.status is Status.PROBLEM
    assert check.found == f"with apache-tvm-ffi {NEWER} saving and loading a module {said}"
    assert "pip install 'apache-tvm-ffi==0.1.14.post1'" in check.advice


def test_a_round_trip_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.2)
    assert "did not end within 0.2 s" in check_ffi(child("import time; time.sleep(60)")).found


def test_features_are_named_by_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    found = {check.name: check.found for check in check_features(frozenset({"avx512_vnni", "amx_tile", "amx_int8"}))}
    assert found["VNNI"] == "yes (avx512_vnni)"
    assert found["AMX"] == "yes (amx_tile, amx_int8)"
    assert found["AMX-BF16"] == "no (without amx_bf16)"
    assert found["AVX512-FP16"] == "no (without avx512_fp16)"
    assert "SVE2" not in found


def test_amx_permission_is_asked_for_where_there_is_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_amx_permission(frozenset()).found == "not needed: this CPU has no AMX"
    asked = []
    monkeypatch.setattr("lowprec.runtime.allow_amx", lambda: asked.append(True))
    assert check_amx_permission(frozenset({"amx_tile"})).found == "granted"
    assert asked


@pytest.mark.parametrize(
    ("threads", "status"), [("", Status.FINE), ("1", Status.FINE), ("4096", Status.WARNING), ("two", Status.PROBLEM)]
)
def test_threads_variable(monkeypatch: pytest.MonkeyPatch, threads: str, status: Status) -> None:
    monkeypatch.setenv("LOWPREC_NUM_THREADS", threads)
    assert doctor.check_cores().status is status


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    check = doctor.check_compiler()
    assert check.status is Status.WARNING
    assert "apt-get install g++" in check.advice


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda _name: None)
    assert doctor.check_needed("onnx").status is Status.PROBLEM
    assert doctor.check_peer("onnxruntime").advice == "only verify and bench need it: pip install 'lowprec[bench]'"


def test_a_processor_without_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    assert doctor.check_processor().status is Status.PROBLEM
