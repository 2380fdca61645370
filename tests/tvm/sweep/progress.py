"""Which shares have passed with the sources as they are: an interrupted sweep goes on where it was.

A line of the file is a digest and a share's number. The digest is of everything that decides what is drawn, built and
checked, so that a change of any of it forgets what has passed.
"""

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import lowprec.building
import lowprec.choosing
import lowprec.convolution
import lowprec.fourier
import lowprec.passes
import lowprec.phases
import lowprec.predicting
import lowprec.predicting_fourier
import lowprec.predicting_winograd
import lowprec.runtime
import lowprec.schedules
import lowprec.targets
import lowprec.winograd
import tests.intervals
import tests.oracle
import tests.tvm.kernels

FILE = Path(__file__).parents[3] / "build" / "sweep.txt"
FOLDERS = (Path(lowprec.schedules.__file__).parent, Path(lowprec.passes.__file__).parent, Path(__file__).parent)
MODULES = (
    lowprec.building,
    lowprec.choosing,
    lowprec.convolution,
    lowprec.fourier,
    lowprec.phases,
    lowprec.predicting,
    lowprec.predicting_fourier,
    lowprec.predicting_winograd,
    lowprec.runtime,
    lowprec.targets,
    lowprec.winograd,
    tests.intervals,
    tests.oracle,
    tests.tvm.kernels,
)
PACKAGES = ("apache-tvm", "hypothesis", "numpy")


def digest() -> str:
    """Of the sources, the packages that draw and compile, and the CPU."""
    parts = [*(version(package) for package in PACKAGES), *sorted(lowprec.targets.detect_features())]
    contents = hashlib.sha256("\n".join(parts).encode())
    for path in _sources():
        contents.update(path.name.encode() + b"\n" + path.read_bytes())
    return contents.hexdigest()


def _sources() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted(folder.glob("*.py"))
    yield from (Path(str(module.__file__)) for module in MODULES)


def has_passed(share: int, sources: str) -> bool:
    return FILE.is_file() and f"{sources} {share}" in FILE.read_text().splitlines()


def remember(share: int, sources: str) -> None:
    """One short line, which the system appends whole: several processes may write."""
    FILE.parent.mkdir(exist_ok=True)
    with FILE.open("a") as file:
        file.write(f"{sources} {share}\n")
