"""What a test asks of a call that should be refused."""

from collections.abc import Callable
from typing import Any

import pytest

from lowprec.errors import UsageError


def refused(call: Callable[[], object]) -> str:
    """The message of a `UsageError`, which is one line."""
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the one line with which it refuses."""
    try:
        return call()
    except UsageError as error:
        message = str(error)
    assert "\n" not in message
    return message
