"""What docs/numerics.md shows is what the code does: every Python block runs, and prints the text block under it."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from lowprec.formats import limits, parse_format

ROOT = Path(__file__).parents[2]
NUMERICS = (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", NUMERICS, re.MULTILINE | re.DOTALL)
ROWS = re.findall(r"^\| (\S+) \| (\d+) \| (\S+)(?: to (\S+))? \| .*\|$", NUMERICS, re.MULTILINE)
CITED = re.compile(r"\bequations? (\d+)(?: (?:and|to) (\d+))?", re.IGNORECASE)


def test_every_block_has_its_output() -> None:
    assert len(BLOCKS) == NUMERICS.count("```python\n") == NUMERICS.count("```text\n") > 0


@pytest.mark.parametrize(("code", "expected"), BLOCKS)
def test_blocks_print_what_stands_under_them(code: str, expected: str) -> None:
    printed = io.StringIO()
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "numerics.md", "exec"), names)
    assert printed.getvalue() == expected


@pytest.mark.parametrize(("name", "bits", "low", "high"), ROWS)
def test_the_table_of_formats(name: str, bits: str, low: str, high: str) -> None:
    fmt = parse_format(name)
    ends = (float(low), float(high)) if high else (-float(low[2:]), float(low[2:]))
    assert (str(fmt), fmt.bits, limits(fmt)) == (name, int(bits), ends)


def test_equations_are_numbered_in_full() -> None:
    found = {int(number) for number in re.findall(r"^    .*\((\d+)\)$", NUMERICS, re.MULTILINE)}
    assert found == set(range(1, 24))
    assert {int(number) for pair in CITED.findall(NUMERICS) for number in pair if number} <= found
