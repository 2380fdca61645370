"""The house's rules that a machine can hold: who imports whom, what is shipped, what `import lowprec` costs."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import lowprec
from lowprec import doctor

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

PURE = {"errors", "vocabulary", "tensors", "strict_json", "convolution", "layers", "recipe", "plan", "targets"} | {
    "formats", "rounding", "philox", "encoding", "packing", "lossless", "qtensor", "quantizing", "winograd",
    "predicting", "choosing", "fourier", "predicting_fourier", "predicting_winograd", "predicting_planes", "phases",
    "histograms", "ranges", "tile_permission", "tiles", "files",
}  # fmt: skip
RUNNING = {"artifact", "storage", "runtime", "manifest", "arguments"}
COMMAND_LINE = {"cli", "verbs", "__main__", "bundles"}
NUMBERS = {"numpy", "ml_dtypes", "archspec"}


def sources() -> dict[str, Path]:
    """Every module of the package by the name it is imported as."""
    folders = {"lowprec": ROOT / "lowprec", "lowprec.passes": ROOT / "passes", "lowprec.schedules": ROOT / "schedules"}
    found = {}
    for package, folder in folders.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Every module named in an import statement, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports from the top"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names if module.startswith("lowprec"))


def level(module: str) -> int:
    """0 pure data, 1 schedules, 2 passes, 3 what works with models, 4 the command line."""
    name = module.partition(".")[2]
    if name.startswith("schedules"):
        return 1
    if name.startswith("passes"):
        return 2
    first = name.partition(".")[0]
    return 0 if first in PURE else 4 if first in COMMAND_LINE else 3


def forbidden(module: str) -> set[str]:
    """The libraries a module must not import, not even inside a function."""
    name = module.removeprefix("lowprec.")
    if level(module) == 0:
        return {"tvm", "tvm_ffi", "onnx", "torch", "onnxruntime"}
    if level(module) in (1, 2):
        return {"onnx", "torch", "onnxruntime"}
    if name in RUNNING:
        return {"tvm", "onnx", "torch"}
    if name.startswith("train"):
        return {"tvm", "tvm_ffi", "onnxruntime"}
    if name.startswith("testing"):
        return {"tvm", "tvm_ffi", "onnx", "torch", "onnxruntime"}
    relax = name.startswith(("frontend.convert", "frontend.converters"))
    return {"tvm", "torch"} if name.startswith("frontend") and not relax else set()


@pytest.mark.parametrize(("module", "path"), sources().items(), ids=sources())
def test_imports_point_downwards(module: str, path: Path) -> None:
    own = sources()
    for name in imports(path):
        if module == "lowprec" and name in own:
            continue  # the public names, loaded when asked for
        if name in own and name != "lowprec":
            assert level(name) <= level(module), f"{module} imports {name}, which stands above it"
        top = name.partition(".")[0]
        assert top not in forbidden(module), f"{module} imports {top}"
        if level(module) == 0:
            assert top in {*sys.stdlib_module_names, *NUMBERS, "lowprec"}, f"{module} imports {top}"


def test_every_package_on_disk_is_shipped() -> None:
    on_disk = {module for module, path in sources().items() if path.name == "__init__.py"}
    assert on_disk == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("folder", ["passes", "schedules"])
def test_passes_and_schedules_are_no_packages_of_their_own(folder: str) -> None:
    child = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert f"ImportError: import lowprec.{folder}" in child.stderr


def test_public_names() -> None:
    for name in lowprec.__all__:
        assert getattr(lowprec, name).__name__ == name
        assert f"lowprec.{name}" not in sources(), "a module named as a function would shadow it"
    with pytest.raises(AttributeError, match="no attribute 'compyle'"):
        _ = lowprec.compyle


@pytest.mark.parametrize("words", ["import lowprec", "from lowprec.cli import main; main(['--help'])"])
def test_what_is_asked_most_often_costs_nothing(words: str) -> None:
    """`import lowprec` and `lowprec --help` load no library at all: that is how they stay under 0.3 s."""
    heavy = ("numpy", "onnx", "tvm", "tvm_ffi", "torch", "onnxruntime", "archspec", "jinja2")
    code = f"import sys; {words}; print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stderr.strip() == "[]"


def test_pins_agree() -> None:
    pins = [f"{name}=={version}" for name, version in doctor.PINS.items()]
    assert set(pins) <= set(PROJECT["project"]["dependencies"])
    assert set(pins) <= set((ROOT / "constraints.txt").read_text().split())
    assert PROJECT["project"]["version"] == lowprec.__version__
