"""A file written whole or not at all: beside its place, flushed to the disk, and renamed."""

import os
import shutil
import tempfile
from pathlib import Path


def place(path: Path, content: bytes) -> None:
    """Put a file at `path` in one step: a reader finds the old one or the new one, never half of one. A link stays one,
    and what is no file, such as a terminal, is written to."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = Path(os.path.realpath(path))
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        fresh = Path(scratch) / path.name
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, fresh)
        os.replace(fresh, path)
