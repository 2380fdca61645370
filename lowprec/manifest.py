"""What an artifact says about itself, in `manifest.json`: enough to check it, run it, profile it and build it again.

A manifest carries the SHA-256 of the other files and of itself, so that damage anywhere is found before any code runs.
Everything here is data: reading one needs neither TVM nor onnx.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from math import prod

import numpy as np

from lowprec import lossless, strict_json
from lowprec.errors import EnvironmentMismatch
from lowprec.layers import Cost
from lowprec.plan import Plan
from lowprec.tensors import TensorSpec

SCHEMA = "lowprec.artifact/7"
_ALIGNED_SCHEMA = "lowprec.artifact/6"  # inputs were to be aligned as all else
_NEAREST_SCHEMA = "lowprec.artifact/5"  # nothing was stochastic
_UNPACKED_SCHEMA = "lowprec.artifact/4"  # weights had no packing: all are plain
FILE_NAME = "manifest.json"
LIBRARY = "model.so"
WEIGHTS = "weights.bin"
ALIGNMENT = 64  # kernels load whole vectors of 64 bytes, and nothing checks it at run time

NARROW_BITS = {
    **{"int2": 2, "uint2": 2, "int4": 4, "uint4": 4},
    **{"float4_e2m1fn": 4, "float8_e4m3fn": 8, "float8_e5m2": 8},
}
"""Types of few bits: ml_dtypes has each in a byte, and compiled code reads and writes bytes."""
DTYPES = frozenset(
    {"bool", "bfloat16", "float8_e8m0fnu", "float16", "float32", "float64", *NARROW_BITS}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_VERSIONED = ("lowprec", "apache-tvm", "apache-tvm-ffi", "numpy", "onnx")
_MAX_RANK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetNeeds:
    """What the machine must be: `features` are CPU flags by Linux's names."""

    name: str
    arch: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """A file beside the manifest."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSpec:
    """One array inside `weights.bin`; the library's `main` takes them after the inputs, in this order.

    `packing` is how its elements stand there, in the words of `lowprec.lossless`.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    packing: str = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpec:
    """One kernel call in execution order: the library's symbol, its family of kernels, the model's layer that it
    computes, and what that takes at least."""

    symbol: str
    layer: str
    op: str
    output: str
    family: str
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSpec:
    """An extra output of a probe build. Taking `crop` (begin, size) of each axis of the physical array, then
    transposing by `axes`, gives the ONNX tensor of that name."""

    tensor: str
    layer: str
    axes: tuple[int, ...]
    crop: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSpec:
    """What must hold of the inputs for the answer to be right: a Dropout in `layer` drops nothing, because the input
    `training` is false or its ratio (the input `ratio`, "" where it is a fixed number that is not 0) is 0."""

    layer: str
    training: str
    ratio: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the model came from."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`options` is the compile request as it was made; `threads` is what compile was given, if it was. Of `stochastic`
    artifacts the step of a call is the last argument of main.

    `files` and `weights` are filled in by `artifact.write`.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    plan: Plan
    options: dict[str, object]
    target: TargetNeeds
    versions: dict[str, str]
    calls: tuple[CallSpec, ...]
    model: ModelSource
    command: str
    seed: int = 0
    threads: int | None = None
    stochastic: bool = False
    input_alignment: int = ALIGNMENT
    probes: tuple[ProbeSpec, ...] = ()
    guards: tuple[GuardSpec, ...] = ()
    weights: tuple[WeightSpec, ...] = ()
    files: dict[str, FileSpec] = field(default_factory=dict)
    schema: str = SCHEMA


def to_text(manifest: Manifest) -> str:
    """The file's text: the fields, and last the SHA-256 of all of them."""
    body = strict_json.encode(manifest)
    return json.dumps({**body, "sha256": _digest(body)}, indent=1, allow_nan=False) + "\n"


def from_text(text: str | bytes) -> Manifest:
    """The manifest in `text`; EnvironmentMismatch names the first field that is not as it must be."""
    try:
        body = strict_json.loads(text)
        if not isinstance(body, dict):
            raise ValueError("the document is not an object")
        if body.get("schema") not in (SCHEMA, _ALIGNED_SCHEMA, _NEAREST_SCHEMA, _UNPACKED_SCHEMA):
            raise ValueError(f"schema is {body.get('schema')!r}, this lowprec reads {SCHEMA!r}")
        digest = body.pop("sha256", None)
        manifest = strict_json.decode(Manifest, _upgraded(body))
        if digest != _digest(body):
            raise ValueError("sha256 is not that of the other fields: the file was edited or damaged")
        _check(manifest)
    except ValueError as problem:
        raise EnvironmentMismatch(f"{FILE_NAME}: {problem}; compile the model again") from None
    return manifest


def _upgraded(body: dict[str, object]) -> dict[str, object]:
    """The document in today's schema; what is not as it must be stays for `decode` to name."""
    if body["schema"] == SCHEMA:
        return body
    weights = body.get("weights")
    if body["schema"] == _UNPACKED_SCHEMA and isinstance(weights, list):
        weights = [{"packing": "plain", **spec} if isinstance(spec, dict) else spec for spec in weights]
    return {"stochastic": False, "input_alignment": ALIGNMENT, **body, "schema": SCHEMA, "weights": weights}


def current_versions() -> dict[str, str]:
    """The versions that a compile of now would record."""
    return {name: installed_version(name) for name in _VERSIONED}


def dtype_of(name: str) -> np.dtype[np.generic]:
    """The NumPy dtype of that name; bfloat16 and those of few bits are ml_dtypes'."""
    if name == "bfloat16" or name in NARROW_BITS:
        import ml_dtypes  # rarely needed, and costs a start of 20 ms

        found: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
        return found
    return np.dtype(name)


def weight_bytes(spec: WeightSpec) -> int:
    """The bytes one array takes in `weights.bin`."""
    return lossless.packed_size(lossless.parse(spec.packing), dtype_of(spec.dtype), prod(spec.shape))


def installed_version(name: str) -> str:
    """A package's version, or the words "not installed"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _digest(body: object) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _check(manifest: Manifest) -> None:
    """What types cannot say: known dtypes, sizes in range, weights inside their file. ValueError otherwise."""
    _check_ports("inputs", manifest.inputs)
    _check_ports("outputs", manifest.outputs)
    if set(manifest.files) != {LIBRARY, WEIGHTS}:
        raise ValueError(f"files lists {sorted(manifest.files)}, not {LIBRARY} and {WEIGHTS}")
    if manifest.threads is not None and manifest.threads < 1:
        raise ValueError(f"threads is {manifest.threads}, not 1 or more")
    for index, call in enumerate(manifest.calls):
        for name, value in asdict(call.cost).items():
            if value < 0:
                raise ValueError(f"calls[{index}].cost.{name} is {value}, not 0 or more")
    _check_weights(manifest.weights, manifest.files[WEIGHTS].bytes)


def _check_weights(weights: tuple[WeightSpec, ...], size: int) -> None:
    """Each array stands behind the one before it, in a packing that its type and size can have, and inside the file."""
    end = 0
    for index, spec in enumerate(weights):
        where = f"weights[{index}]"
        _check_array(where, spec.dtype, spec.shape)
        _check_packing(where, spec)
        if spec.offset < 0 or spec.offset % ALIGNMENT:
            raise ValueError(f"{where}.offset is {spec.offset}, not a multiple of {ALIGNMENT}")
        if spec.offset < end:
            raise ValueError(f"{where}.offset is {spec.offset}, inside of an array that ends at {end}")
        end = spec.offset + weight_bytes(spec)
        if end > size:
            raise ValueError(f"{where} ends outside {WEIGHTS}")


def _check_packing(where: str, spec: WeightSpec) -> None:
    try:
        lossless.require(lossless.parse(spec.packing), dtype_of(spec.dtype), prod(spec.shape))
    except ValueError as problem:
        raise ValueError(f"{where}.packing is {problem}") from None


def _check_ports(where: str, specs: tuple[TensorSpec, ...]) -> None:
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise ValueError(f"{where} names one tensor twice")
    for index, spec in enumerate(specs):
        _check_array(f"{where}[{index}]", spec.dtype, spec.shape)


def _check_array(where: str, dtype: str, shape: Iterable[int]) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"{where}.dtype is {dtype!r}, not one of {', '.join(sorted(DTYPES))}")
    extents = tuple(shape)
    if len(extents) > _MAX_RANK or any(extent < 0 for extent in extents):
        raise ValueError(f"{where}.shape is {list(extents)}, not up to {_MAX_RANK} sizes of 0 or more")


def with_files(manifest: Manifest, *, files: dict[str, FileSpec], weights: tuple[WeightSpec, ...]) -> Manifest:
    """The manifest of an artifact whose files are on disk."""
    return dataclasses.replace(manifest, files=files, weights=weights)
