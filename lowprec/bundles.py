"""What to attach to a report of a bug: the command, the versions, the machine, the traceback."""

import platform
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import distributions


def write_bundle(error: BaseException, words: Sequence[str]) -> str:
    """The path of a text file that says how the bug came about; nothing of the model is in it."""
    versions = sorted({f"{found.name}=={found.version}" for found in distributions()})
    parts = (
        shlex.join(["lowprec", *words]),
        f"{platform.platform()} python {platform.python_version()}",
        "".join(traceback.format_exception(error)),
        "\n".join(versions),
    )
    with tempfile.NamedTemporaryFile("w", prefix="lowprec-bug-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("\n\n".join(parts) + "\n")
    return file.name
