"""The errors a user can meet: one line each, and the exit code of the command that meets it.

A message says what was found, what is allowed and what to do. Anything else that escapes is a bug of ours (exit 70).
"""

from typing import ClassVar


class LowprecError(Exception):
    """The root of all; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 70


class UsageError(LowprecError):
    """The call or command line is wrong: a missing file, an unknown name, a shape that cannot be parsed."""

    exit_code = 2


class InvalidModel(LowprecError):
    """The model is malformed or hostile."""

    exit_code = 3


class Unsupported(LowprecError):
    """The request is valid, and something in it is not built."""

    exit_code = 4


class OutOfBounds(LowprecError):
    """A verification ended outside its bound."""

    exit_code = 5


class BuildFailed(LowprecError):
    """Compiling or tuning failed."""

    exit_code = 6


class EnvironmentMismatch(LowprecError):
    """This machine or installation cannot do it: a missing CPU feature, wrong versions, a damaged artifact."""

    exit_code = 7


def is_integer(value: object) -> bool:
    """Whether an argument is an integer, Python's or NumPy's; True and False are none."""
    return not isinstance(value, bool) and hasattr(type(value), "__index__") and not hasattr(value, "__len__")


def shown(value: object) -> str:
    """A value as an error shows it: on one line, and no longer than what helps."""
    try:
        words = " ".join(repr(value).split())
    except ValueError:  # Python writes no integers of more than 4300 digits
        return f"a {type(value).__name__} too long to be written"
    return words if len(words) <= SHOWN else f"{words[:SHOWN]} ..."


SHOWN = 60

BY_EXIT_CODE: dict[int, type[LowprecError]] = {
    kind.exit_code: kind
    for kind in (LowprecError, UsageError, InvalidModel, Unsupported, OutOfBounds, BuildFailed, EnvironmentMismatch)
}
