"""Targets: flags in, LLVM's attributes out; nothing is guessed from a processor's name."""

import pytest

from lowprec.errors import Unsupported, UsageError
from lowprec.targets import ARM, LLVM_ATTRIBUTES, TARGETS, X86, Target, detect_features, native, parse_target

BY_NAME = {target.name: target for target in TARGETS}


def test_native_has_exactly_the_flags_of_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowprec.targets.grants_tiles", lambda: True)
    assert native().features == detect_features()
    assert parse_target("native") == native()
    assert hash(native()) == hash(parse_target("native")), "a set of flags would have no hash"


@pytest.mark.parametrize("granted", [True, False])
def test_native_has_no_tiles_where_linux_grants_none(monkeypatch: pytest.MonkeyPatch, granted: bool) -> None:
    flags = {"avx512f", "amx_tile", "amx_int8", "amx_bf16"}
    monkeypatch.setattr("lowprec.targets.detect_features", lambda: frozenset(flags))
    monkeypatch.setattr("lowprec.targets.grants_tiles", lambda: granted)
    assert native().features == (flags if granted else {"avx512f"})


def test_detection_keeps_the_flags_that_processor_names_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    class Info:
        features = frozenset({"avx512f", "avx512_fp16", "amx_int8", "hypervisor", "sse2"})

    monkeypatch.setattr("archspec.cpu.detect.detected_info", Info)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert detect_features() == {"avx512f", "avx512_fp16", "amx_int8"}


@pytest.mark.parametrize(
    ("name", "lanes", "registers"),
    [
        ("x86-64", 4, 16),
        ("x86-64-v3", 8, 16),
        ("x86-64-v4", 16, 32),
        ("cascadelake", 16, 32),
        ("sapphirerapids", 16, 32),
        ("aarch64", 4, 32),
    ],
)
def test_vector_shape(name: str, lanes: int, registers: int) -> None:
    assert (BY_NAME[name].lanes, BY_NAME[name].vector_registers) == (lanes, registers)


def test_a_processor_is_named_only_when_every_flag_is_there() -> None:
    full = BY_NAME["sapphirerapids"]
    assert full.tvm_target(2)["mcpu"] == "sapphirerapids"
    lacking = Target(name="native", arch=X86, features=full.features - {"amx_int8"})
    spelled = lacking.tvm_target(2)
    assert spelled["mcpu"] == "x86-64-v4"
    assert isinstance(spelled["mattr"], list)
    assert {"+avx512fp16", "+amx-tile", "+avx512vnni"} <= set(spelled["mattr"])
    assert "+amx-int8" not in spelled["mattr"]


def test_threads_and_triple_reach_tvm() -> None:
    assert BY_NAME["aarch64"].tvm_target(3) == {
        "kind": "llvm",
        "mtriple": "aarch64-unknown-linux-gnu",
        "mcpu": "generic",
        "num-cores": 3,
        "mattr": ["+neon"],
    }


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_an_artifact_needs_its_targets_flags(target: Target) -> None:
    assert set(target.required_features) == target.features <= LLVM_ATTRIBUTES[target.arch].keys()


def test_refusals() -> None:
    with pytest.raises(Unsupported, match=r"target 'cuda:sm_90' is not built yet"):
        parse_target("cuda:sm_90")
    with pytest.raises(UsageError, match=r"unknown target 'saphirerapids' \(did you mean 'sapphirerapids'\?\)"):
        parse_target("saphirerapids")
    with pytest.raises(ValueError, match="unknown x86_64 features"):
        Target(name="odd", arch=X86, features=frozenset({"asimd"}))
    with pytest.raises(ValueError, match="arch is 'vax'"):
        Target(name="odd", arch="vax", features=frozenset())


def test_a_machine_we_cannot_generate_code_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    with pytest.raises(Unsupported, match="this machine is s390x: name a target"):
        native()


def test_arm_knows_its_own_flags() -> None:
    target = Target(name="native", arch=ARM, features=frozenset({"asimd", "sve"}))
    assert target.tvm_target(1)["mattr"] == ["+neon", "+sve"]
