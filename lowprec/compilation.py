"""From a call to a compiled artifact: every argument checked, then the work done in a child process.

The caller's process stays small: neither ONNX nor TVM's compiler is imported into it.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lowprec import isolation, storage, targets
from lowprec.artifact import Artifact, load
from lowprec.calibration import COUNT
from lowprec.engines import save_sets
from lowprec.errors import Unsupported, UsageError
from lowprec.format_names import AUTO, UNROUNDED, formats_in, takes_ranges
from lowprec.formats import LONGEST_WORD, SHORTEST_WORD, Fixed, parse_format
from lowprec.isolation import Notify
from lowprec.recipe import Recipe
from lowprec.vocabulary import ALGORITHMS, NEAREST, PRECISIONS, ROUNDINGS

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every choice of one compilation, checked; it travels to the child process and into the manifest as JSON."""

    precision: str = "fp32"
    rounding: str = NEAREST
    algorithm: str = "auto"
    recipe: Recipe | None = None
    target: str = "native"
    threads: int | None = None
    seed: int = 0
    input_shapes: Shapes | None = None
    records: str | os.PathLike[str] | None = None
    calibration: str | os.PathLike[str] | None = None
    min_sqnr: float | None = None
    max_ms: float | None = None

    def __post_init__(self) -> None:
        PRECISIONS.check(self.precision)
        ROUNDINGS.check(self.rounding)
        ALGORITHMS.check(self.algorithm)
        targets.NAMES.check(self.target)
        if self.recipe is not None and not isinstance(self.recipe, Recipe):
            raise UsageError(f"recipe is a {type(self.recipe).__name__}: give a lowprec.Recipe or a TOML file's path")
        if self.rounding != NEAREST and self.precision != AUTO and not self.formats - UNROUNDED:
            raise UsageError(
                f"rounding {self.rounding!r} is for formats that round; {self.precision} takes {NEAREST!r}"
            )
        if self.threads is not None:
            _whole(self.threads, "threads", least=1, most=1024)
        _whole(self.seed, "seed", least=0, most=2**64 - 1)
        _check_shapes(self.input_shapes or {})
        if self.records is not None:
            if not isinstance(self.records, (str, os.PathLike)):
                raise UsageError(f"records is a {type(self.records).__name__}: give the path of a file")
            existing_file(self.records, "records")
        for name in filter(takes_ranges, self.formats):
            _check_word(name)
        for bound, what in ((self.min_sqnr, "min_sqnr"), (self.max_ms, "max_ms")):
            _check_bound(bound, what, self.precision)
        if self.calibration is not None and not self.takes_ranges:
            raise UsageError(f"calibration is for int8 and qI.F; {self.precision} has no ranges: leave it out")

    @property
    def formats(self) -> frozenset[str]:
        """The formats that layers may have."""
        return formats_in(self.precision, self.recipe)

    @property
    def takes_ranges(self) -> bool:
        """Whether anything depends on samples."""
        return self.precision == AUTO or any(map(takes_ranges, self.formats))

    def to_json(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "rounding": self.rounding,
            "algorithm": self.algorithm,
            "recipe": [] if self.recipe is None else self.recipe.to_json(),
            "target": self.target,
            "threads": None if self.threads is None else int(self.threads),
            "seed": int(self.seed),
            "input_shapes": {name: list(map(int, shape)) for name, shape in (self.input_shapes or {}).items()},
            "records": None if self.records is None else os.path.abspath(self.records),
            "calibration": None if self.calibration is None else os.path.abspath(self.calibration),
            "min_sqnr": None if self.min_sqnr is None else float(self.min_sqnr),
            "max_ms": None if self.max_ms is None else float(self.max_ms),
        }


def compile(
    model: Any,
    *,
    precision: str = "fp32",
    recipe: Recipe | str | os.PathLike[str] | None = None,
    target: str = "native",
    algorithm: str = "auto",
    calibration: Any = None,
    records: Any = None,
    input_shapes: Shapes | None = None,
    threads: int | None = None,
    rounding: str = NEAREST,
    seed: int = 0,
    min_sqnr: float | None = None,
    max_ms: float | None = None,
) -> Artifact:
    """Compile an ONNX model (a path, bytes or an `onnx.ModelProto`) to an artifact.

    The artifact lies in a temporary directory until `save` copies it.
    """
    options = Options(
        precision=precision,
        rounding=rounding,
        algorithm=algorithm,
        recipe=as_recipe(recipe),
        target=target,
        threads=threads,
        seed=seed,
        input_shapes=input_shapes,
        records=records,
        min_sqnr=min_sqnr,
        max_ms=max_ms,
    )
    with model_file(model) as path, sample_files(calibration) as samples:
        options = replace(options, calibration=samples)
        directory = tempfile.mkdtemp(prefix="lowprec-")
        try:
            compile_to(directory, path, options, command=_call_text(model, options))
            return load(directory, temporary=True)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise


def compile_to(
    directory: str, model: Path, options: Options, *, command: str, probe: bool = False, notify: Notify | None = None
) -> dict[str, Any]:
    """Compile the model's file into `directory` and answer what the child process says of it; `notify` hears how far
    it is."""
    storage.check_replaceable(Path(directory))
    _warn_of_default_samples(options)
    request = options.to_json() | {"out": os.path.abspath(directory), "probe": probe, "command": command}
    done = run_on_model("compile", model, request, notify)
    if done.get("warning"):
        _warn(done["warning"])
    return done


def export_to(
    path: str | os.PathLike[str], model: Path, options: Options, *, notify: Notify | None = None
) -> dict[str, Any]:
    """Write the quantized model as standard ONNX and answer what the child process says of it."""
    if options.rounding != NEAREST:
        raise Unsupported(f"rounding {options.rounding!r} has no form in ONNX: export with {NEAREST!r}")
    if options.formats == {"fp32"}:
        raise UsageError("fp32 leaves the model as it is, so there is nothing to export: use another precision")
    out = replaceable_file(path, model)
    _warn_of_default_samples(options)
    return run_on_model("export", model, options.to_json() | {"out": str(out)}, notify)


def refuse_auto(options: Options, verb: str) -> None:
    """What neither builds nor measures cannot search."""
    if options.precision == AUTO:
        raise Unsupported(
            f"{verb} measures nothing, and precision {AUTO!r} is found by measuring: compile with --write-recipe, and "
            f"{verb} by that recipe"
        )


def replaceable_file(path: str | os.PathLike[str], model: Path) -> Path:
    """The absolute path of a file that may be written: a new one in a folder, or one that is not the model."""
    out = Path(os.path.abspath(path))
    if out.is_dir() or (out.exists() and not out.is_file()):
        raise UsageError(f"{str(path)!r} is not a file: give the path of a file to write")
    if not out.parent.is_dir():
        raise UsageError(f"{str(path)!r} cannot be written: there is no folder {str(out.parent)!r}, make it first")
    if out.exists() and out.samefile(model):
        raise UsageError(f"{str(path)!r} is the model itself: give another place")
    return out


def _warn_of_default_samples(options: Options) -> None:
    if {"int8", AUTO} & {*options.formats, options.precision} and options.calibration is None:
        samples = f"{COUNT} samples of N(0, 1), seed {options.seed}"
        _warn(f"int8 without calibration: the ranges of tensors are seen on {samples}")


def run_on_model(task: str, model: Path, request: Mapping[str, Any], notify: Notify | None = None) -> dict[str, Any]:
    """One task of the child process on a model's file."""
    full = {"model": str(model.absolute()), **request}
    return isolation.run(task, full, model_bytes=model.stat().st_size, notify=notify)


def _warn(notice: str) -> None:
    warnings.warn(notice, stacklevel=2)


def as_recipe(recipe: Recipe | str | os.PathLike[str] | None) -> Recipe | None:
    """A recipe, read from its file where a path is given."""
    return Recipe.load(Path(recipe)) if isinstance(recipe, (str, os.PathLike)) else recipe


@contextmanager
def model_file(model: object) -> Iterator[Path]:
    """The model as a file: its own, or a temporary one for bytes and `onnx.ModelProto`."""
    if isinstance(model, (str, os.PathLike)):
        yield existing_file(model, "model")
        return
    content = _serialized(model)
    with tempfile.TemporaryDirectory(prefix="lowprec-model-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        yield path


def existing_file(path: str | os.PathLike[str], kind: str) -> Path:
    """The path of a regular file, or UsageError."""
    found = Path(path)
    if not found.exists():
        raise UsageError(f"{kind} {str(found)!r} does not exist: give the path of a file")
    if not found.is_file():
        raise UsageError(f"{kind} {str(found)!r} is not a file: give the path of a file")
    return found


@contextmanager
def sample_files(samples: Any) -> Iterator[str | os.PathLike[str] | None]:
    """Calibration samples as the child process takes them: an `.npz`, or a folder with a file for each sample."""
    if samples is None or isinstance(samples, (str, os.PathLike)):
        yield None if samples is None else existing_file(samples, "calibration")
        return
    if isinstance(samples, (Mapping, bytes)) or not isinstance(samples, Iterable):
        raise UsageError(
            f"calibration is a {type(samples).__name__}: give the path of an .npz, or an iterable of arrays or dicts"
        )
    with tempfile.TemporaryDirectory(prefix="lowprec-samples-") as folder:
        for index, sample in enumerate(samples):
            named = sample if isinstance(sample, Mapping) else {"": sample}
            arrays = {str(name): _plain(index, value) for name, value in named.items()}
            save_sets(Path(folder) / f"{index:06}.npz", [arrays])
        yield folder


def _plain(index: int, value: object) -> Any:
    array = np.asarray(value)
    if array.dtype == object:
        raise UsageError(f"calibration sample {index} is a {type(value).__name__}: give an array, or a dict of arrays")
    return array


def _serialized(model: object) -> bytes:
    if isinstance(model, (bytes, bytearray, memoryview)):
        return bytes(model)
    serialize = getattr(model, "SerializeToString", None)  # onnx.ModelProto, without importing onnx
    if not callable(serialize):
        raise UsageError(f"model is a {type(model).__name__}: give a path, bytes or an onnx.ModelProto")
    content: bytes = serialize()
    return content


def _check_word(precision: str) -> None:
    """Fixed point of at most 16 bits."""
    fmt = None if precision == "int8" else parse_format(precision)
    if isinstance(fmt, Fixed) and not SHORTEST_WORD <= fmt.bits <= LONGEST_WORD:
        allowed = f"{SHORTEST_WORD} to {LONGEST_WORD} bits"
        raise Unsupported(f"precision {precision!r} is a word of {fmt.bits} bits: layers are computed with {allowed}")


def _check_bound(value: object, name: str, precision: str) -> None:
    if value is None:
        return
    if precision != AUTO:
        raise UsageError(f"{name} is for precision {AUTO!r}, and the precision is {precision}: leave it out")
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not 0 < float(value) < float("inf"):  # type: ignore[arg-type]
        raise UsageError(f"{name} is {value!r}: give a number above 0")


def _check_shapes(shapes: object) -> None:
    if not isinstance(shapes, Mapping):
        raise UsageError(f"input_shapes is a {type(shapes).__name__}: give a dict of names and shapes")
    for name, shape in shapes.items():
        if not isinstance(shape, (tuple, list)):
            raise UsageError(f"the shape of input {name!r} is {shape!r}: give a tuple of whole numbers")
        for extent in shape:
            _whole(extent, f"an extent of input {name!r}", least=1, most=2**31 - 1)


def _whole(value: object, name: str, *, least: int, most: int) -> None:
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or not least <= int(value) <= most:  # type: ignore[call-overload]
        raise UsageError(f"{name} is {value!r}: give a whole number from {least} to {most}")


def _call_text(model: object, options: Options) -> str:
    """The Python call that makes the same artifact, with what differs from the defaults."""
    shown = repr(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else f"<{type(model).__name__}>"
    defaults = Options().to_json()
    changed = {name: value for name, value in options.to_json().items() if value != defaults[name]}
    return f"lowprec.compile({', '.join([shown, *(f'{name}={value!r}' for name, value in changed.items())])})"
