"""What this machine and installation can do, and what to do about each problem."""

import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version

from lowprec import runtime
from lowprec.errors import EnvironmentMismatch
from lowprec.targets import LLVM_ATTRIBUTES, available_cores, detect_features, machine_arch

PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
NEEDED = ("numpy", "ml_dtypes", "onnx", "archspec")
PEERS = ("onnxruntime", "openvino", "torch")
PROBE = (sys.executable, "-P", "-m", "lowprec.probing")
PROBE_SECONDS = 120

# Flags a user asks about, by the name they know.
NOTABLE = {
    "AVX2": ("avx2",),
    "FMA": ("fma",),
    "AVX-512": ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
    "VNNI": ("avx512_vnni",),
    "AVX-VNNI": ("avx_vnni",),
    "AVX512-BF16": ("avx512_bf16",),
    "AVX512-FP16": ("avx512_fp16",),
    "AMX": ("amx_tile", "amx_int8"),
    "AMX-BF16": ("amx_tile", "amx_bf16"),
    "NEON": ("asimd",),
    "SVE2": ("sve2",),
}


class Status(Enum):
    """`PROBLEM` makes lowprec unusable; with a `WARNING` something is slower or missing."""

    FINE = "fine"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at: what was found and, unless it is fine, what to do."""

    name: str
    found: str
    status: Status = Status.FINE
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "status": self.status.value, "found": self.found, "advice": self.advice}


def examine() -> tuple[Check, ...]:
    """Every check, in the order they are shown."""
    return (
        Check(name="python", found=f"{platform.python_version()} at {sys.executable}"),
        *(check_pin(name, pin) for name, pin in PINS.items()),
        check_ffi(PROBE),
        check_runtime(),
        *(check_needed(name) for name in NEEDED),
        *(check_peer(name) for name in PEERS),
        check_processor(),
        *check_features(detect_features()),
        check_amx_permission(detect_features()),
        check_cores(),
        check_compiler(),
        check_gpu(),
    )


def installed(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def check_pin(name: str, pin: str, find: Callable[[str], str | None] = installed) -> Check:
    """TVM and its FFI work together in these versions alone."""
    found = find(name)
    if found == pin:
        return Check(name=name, found=found)
    said = f"{found} is installed, {pin} is needed" if found else f"not installed, {pin} is needed"
    return Check(name=name, found=said, status=Status.PROBLEM, advice=f"pip install '{name}=={pin}'")


def check_ffi(command: Sequence[str], find: Callable[[str], str | None] = installed) -> Check:
    """A module saved and loaded in a child process; with an FFI that does not fit, the child crashes."""
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        outcome = _outcome(child)
    except subprocess.TimeoutExpired:
        outcome = f"did not end within {PROBE_SECONDS} s"
    except OSError as problem:
        outcome = f"could not be started ({problem})"
    if not outcome:
        return Check(name="TVM with its FFI", found="a module saved and loaded in a child process came back equal")
    pin = PINS["apache-tvm-ffi"]
    return Check(
        name="TVM with its FFI",
        found=f"with apache-tvm-ffi {find('apache-tvm-ffi')} saving and loading a module {outcome}",
        status=Status.PROBLEM,
        advice=f"pip install 'apache-tvm-ffi=={pin}': the version that fits apache-tvm {PINS['apache-tvm']}",
    )


def _outcome(child: "subprocess.CompletedProcess[str]") -> str:
    """What went wrong in the round trip, or nothing."""
    if child.returncode < 0:
        return f"crashes the process ({signal.Signals(-child.returncode).name})"
    if child.returncode == 0 and child.stdout.strip().endswith("fits"):
        return ""
    last = child.stderr.strip().splitlines()[-1:] or ["no message"]
    return f"fails: {last[0]}"


def check_runtime() -> Check:
    """The small library that runs artifacts."""
    try:
        return Check(name="TVM's runtime library", found=str(runtime.runtime_library()))
    except EnvironmentMismatch as problem:
        advice = f"pip install --force-reinstall 'apache-tvm=={PINS['apache-tvm']}'"
        return Check(name="TVM's runtime library", found=str(problem), status=Status.PROBLEM, advice=advice)


def check_needed(name: str) -> Check:
    found = installed(name)
    if found:
        return Check(name=name, found=found)
    return Check(name=name, found="not installed", status=Status.PROBLEM, advice=f"pip install {name}")


def check_peer(name: str) -> Check:
    """An engine to verify against or measure beside."""
    found = installed(name)
    if found:
        return Check(name=name, found=found)
    use = "verify and bench" if name == "onnxruntime" else "bench"
    return Check(
        name=name,
        found="not installed",
        status=Status.WARNING,
        advice=f"only {use} need it: pip install 'lowprec[bench]'",
    )


def check_processor() -> Check:
    arch = machine_arch()
    if arch in LLVM_ATTRIBUTES:
        return Check(name="processor", found=f"{arch}, {_processor_name()}")
    return Check(
        name="processor",
        found=arch,
        status=Status.PROBLEM,
        advice=f"run on {' or '.join(LLVM_ATTRIBUTES)}: lowprec generates code for these",
    )


def _processor_name() -> str:
    """What Linux calls it; for people alone, since the name says little about its flags."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        named = ""
    return named or "of unknown name"


def check_features(features: frozenset[str]) -> tuple[Check, ...]:
    """What the CPU's raw flags say; a feature that is not there is no problem, only slower."""
    known = LLVM_ATTRIBUTES.get(machine_arch(), {})
    checks = []
    for name, flags in NOTABLE.items():
        if not known.keys() >= set(flags):
            continue
        missing = [flag for flag in flags if flag not in features]
        found = f"no (without {', '.join(missing)})" if missing else f"yes ({', '.join(flags)})"
        checks.append(Check(name=name, found=found))
    return tuple(checks)


def check_amx_permission(features: frozenset[str]) -> Check:
    """Linux lends the AMX tiles to processes that ask."""
    if "amx_tile" not in features:
        return Check(name="AMX permission", found="not needed: this CPU has no AMX")
    try:
        runtime.allow_amx()
    except EnvironmentMismatch as problem:
        advice = "update Linux, or compile with --target x86-64-v4"
        return Check(name="AMX permission", found=str(problem), status=Status.WARNING, advice=advice)
    return Check(name="AMX permission", found="granted")


def check_cores() -> Check:
    allowed, everywhere = available_cores(), os.cpu_count() or 1
    asked = os.environ.get("LOWPREC_NUM_THREADS", "")
    found = f"{allowed} allowed of {everywhere}" + (f", LOWPREC_NUM_THREADS={asked}" if asked else "")
    if asked and not (asked.isascii() and asked.isdigit() and int(asked) > 0):
        advice = "set LOWPREC_NUM_THREADS to a whole number, or unset it"
        return Check(name="cores", found=found, status=Status.PROBLEM, advice=advice)
    if asked and int(asked) > allowed:
        advice = f"set LOWPREC_NUM_THREADS to {allowed} or less: more threads than cores wait for each other"
        return Check(name="cores", found=found, status=Status.WARNING, advice=advice)
    return Check(name="cores", found=found)


def check_compiler() -> Check:
    """`compile` links its kernels with the system's C++ compiler."""
    paths = [path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))]
    if paths:
        return Check(name="compiler", found=", ".join(paths))
    return Check(
        name="compiler",
        found="no g++, clang++ or c++ on PATH",
        status=Status.WARNING,
        advice="`lowprec compile` needs one to link: apt-get install g++",
    )


def check_gpu() -> Check:
    seen = "NVIDIA's driver is installed" if shutil.which("nvidia-smi") else "none seen"
    return Check(name="GPU", found=f"{seen}; lowprec has no target for GPUs yet")
