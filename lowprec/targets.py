"""What a machine has: a target is a name and the CPU flags that code for it may use.

Flags are Linux's names (`avx512_fp16`, `amx_int8`), read raw and never guessed from a model name: LLVM and archspec
both take a Sapphire Rapids for an older core and would lose AMX, AVX512-FP16 and AVX512-BF16. An artifact needs exactly
the flags of its target, whatever machine built it.
"""

import os
import platform
from dataclasses import dataclass

import archspec.cpu.detect

from lowprec.errors import EnvironmentMismatch, Unsupported
from lowprec.tile_permission import grants_tiles
from lowprec.vocabulary import Vocabulary

X86 = "x86_64"
ARM = "aarch64"

# Linux's flag -> LLVM's attribute, for every flag that may change the code LLVM emits or that a kernel may ask for.
LLVM_ATTRIBUTES: dict[str, dict[str, str]] = {
    X86: {
        "cx16": "cx16",
        "sse3": "sse3",
        "ssse3": "ssse3",
        "sse4_1": "sse4.1",
        "sse4_2": "sse4.2",
        "popcnt": "popcnt",
        "avx": "avx",
        "avx2": "avx2",
        "bmi1": "bmi",
        "bmi2": "bmi2",
        "f16c": "f16c",
        "fma": "fma",
        "abm": "lzcnt",
        "movbe": "movbe",
        "avx512f": "avx512f",
        "avx512bw": "avx512bw",
        "avx512cd": "avx512cd",
        "avx512dq": "avx512dq",
        "avx512vl": "avx512vl",
        "avx512ifma": "avx512ifma",
        "avx512vbmi": "avx512vbmi",
        "avx512_vbmi2": "avx512vbmi2",
        "avx512_bitalg": "avx512bitalg",
        "avx512_vpopcntdq": "avx512vpopcntdq",
        "avx512_vnni": "avx512vnni",
        "avx512_bf16": "avx512bf16",
        "avx512_fp16": "avx512fp16",
        "avx_vnni": "avxvnni",
        "amx_tile": "amx-tile",
        "amx_int8": "amx-int8",
        "amx_bf16": "amx-bf16",
    },
    ARM: {
        "asimd": "neon",
        "asimdhp": "fullfp16",
        "asimddp": "dotprod",
        "i8mm": "i8mm",
        "bf16": "bf16",
        "sve": "sve",
        "sve2": "sve2",
    },
}

_V2 = frozenset({"cx16", "sse3", "ssse3", "sse4_1", "sse4_2", "popcnt"})
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_CASCADE_LAKE = _V4 | {"avx512_vnni"}
_ICE_LAKE = _CASCADE_LAKE | {"avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_bitalg", "avx512_vpopcntdq"}
_SAPPHIRE_RAPIDS = _ICE_LAKE | {"avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}

# LLVM's processors, best first: the first whose every flag the target has is named; the rest are spelled as attributes.
_PROCESSORS: dict[str, tuple[tuple[str, frozenset[str]], ...]] = {
    X86: (
        ("sapphirerapids", _SAPPHIRE_RAPIDS),
        ("x86-64-v4", _V4),
        ("x86-64-v3", _V3),
        ("x86-64-v2", _V2),
        ("x86-64", frozenset()),
    ),
    ARM: (("generic", frozenset()),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A machine to compile for: `features` are the flags that code may use, and that whoever runs it must have."""

    name: str
    arch: str
    features: frozenset[str]

    def __post_init__(self) -> None:
        known = LLVM_ATTRIBUTES.get(self.arch)
        if known is None:
            raise ValueError(f"arch is {self.arch!r}; allowed are {', '.join(LLVM_ATTRIBUTES)}")
        unknown = self.features - known.keys()
        if unknown:
            raise ValueError(f"unknown {self.arch} features {sorted(unknown)}; allowed are {', '.join(known)}")

    def has(self, feature: str) -> bool:
        """Whether code may use `feature`; asking for a flag nobody knows is a bug of ours."""
        assert any(feature in flags for flags in LLVM_ATTRIBUTES.values()), feature
        return feature in self.features

    @property
    def lanes(self) -> int:
        """fp32 values in one vector register."""
        if self.has("avx512f"):
            return 16
        return 8 if self.has("avx2") and self.has("fma") else 4

    @property
    def folds_broadcasts(self) -> bool:
        """Whether one element, taken for all lanes, can be an operand of an instruction."""
        return self.has("avx512f")

    @property
    def vector_registers(self) -> int:
        return 32 if self.arch == ARM or self.has("avx512f") else 16

    @property
    def required_features(self) -> tuple[str, ...]:
        """What a machine must have to run an artifact of this target."""
        return tuple(sorted(self.features))

    def tvm_target(self, threads: int) -> dict[str, object]:
        """The dictionary that `tvm.target.Target` takes."""
        processor, implied = next(entry for entry in _PROCESSORS[self.arch] if entry[1] <= self.features)
        attributes = sorted(LLVM_ATTRIBUTES[self.arch][flag] for flag in self.features - implied)
        attributes += [FAST_DOTS] if self.features & {"avx512_vnni", "avx_vnni"} else []
        target: dict[str, object] = {
            "kind": "llvm",
            "mtriple": f"{self.arch}-unknown-linux-gnu",
            "mcpu": processor,
            "num-cores": threads,
        }
        return target | ({"mattr": [f"+{name}" for name in attributes]} if attributes else {})


FAST_DOTS = "fast-dpwssd"
"""An attribute that no flag tells: without it LLVM puts two instructions in the place of most `vpdpwssd`."""

TARGETS: tuple[Target, ...] = (
    Target(name="x86-64", arch=X86, features=frozenset()),
    Target(name="x86-64-v3", arch=X86, features=_V3),
    Target(name="x86-64-v4", arch=X86, features=_V4),
    Target(name="cascadelake", arch=X86, features=_CASCADE_LAKE),
    Target(name="sapphirerapids", arch=X86, features=_SAPPHIRE_RAPIDS),
    Target(name="aarch64", arch=ARM, features=frozenset({"asimd"})),
)

NAMES = Vocabulary(
    kind="target",
    built=("native", *(target.name for target in TARGETS)),
    planned=("cuda:sm_80", "cuda:sm_90"),
    planned_pattern=r"cuda(:.*)?",
)


def machine_arch() -> str:
    """This machine's architecture, in the names of `Target.arch`."""
    machine = platform.machine().lower()
    return {"amd64": X86, "arm64": ARM}.get(machine, machine)


def detect_features() -> frozenset[str]:
    """The flags of this CPU as Linux shows them, those of `LLVM_ATTRIBUTES` alone."""
    raw = archspec.cpu.detect.detected_info().features
    return frozenset(raw) & frozenset(LLVM_ATTRIBUTES.get(machine_arch(), {}))


def native() -> Target:
    """What this CPU really has, without the tiles that Linux does not let anybody use."""
    if machine_arch() not in LLVM_ATTRIBUTES:
        raise Unsupported(f"this machine is {machine_arch()}: name a target, one of {', '.join(NAMES.built[1:])}")
    features = detect_features()
    if any(map(_is_of_tiles, features)) and not grants_tiles():
        features = frozenset(feature for feature in features if not _is_of_tiles(feature))
    return Target(name="native", arch=machine_arch(), features=features)


def _is_of_tiles(feature: str) -> bool:
    return feature.startswith("amx")


def parse_target(name: str) -> Target:
    """The target of that name; `native` is this machine."""
    if NAMES.check(name) == "native":
        return native()
    return next(target for target in TARGETS if target.name == name)


def runnable(target: Target) -> Target:
    """The target, if what is built for it can be timed here; EnvironmentMismatch otherwise."""
    missing = sorted(target.features - native().features) if target.arch == native().arch else [target.arch]
    if missing:
        raise EnvironmentMismatch(
            f"{target.name} needs {missing[0]}, which this machine lacks: measure on one that has it"
        )
    return target


def available_cores() -> int:
    """The cores this process may run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0))
