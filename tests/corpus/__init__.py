"""Malformed models: what a stranger's file can be wrong in, one small change at a time."""

from tests.corpus import damaged, external, functions, headers, hostile, layers, operators, tensors
from tests.corpus.case import Case

PARTS = (damaged, headers, tensors, layers, operators, hostile, functions, external)


def all_cases() -> tuple[Case, ...]:
    """Every case, in order."""
    return tuple(case for part in PARTS for case in part.cases())
