"""What the command line's words mean, and which cannot be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.errors import UsageError
from lowprec.options import gather_shapes, parse_names, parse_number, parse_shape, parse_whole


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [
        ("x:1x3x224x224", "x", (1, 3, 224, 224)),
        ("x:[1,3,224,224]", "x", (1, 3, 224, 224)),
        ("x:[ 1, 3 ,8]", "x", (1, 3, 8)),
        ("input:0:2x4", "input:0", (2, 4)),
        ("a b/c:7", "a b/c", (7,)),
    ],
)
def test_shapes(text: str, name: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == (name, shape)


@given(st.text(min_size=1), st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_any_name_with_any_shape(name: str, extents: list[int]) -> None:
    assert parse_shape(f"{name}:{'x'.join(map(str, extents))}") == (name, tuple(extents))
    assert parse_shape(f"{name}:[{','.join(map(str, extents))}]") == (name, tuple(extents))


@pytest.mark.parametrize(
    "text",
    ["", "x", ":1x2", "x:", "x:1x", "x:1,3", "x:[1x3]", "x:[1,3", "x:-1x3", "x:1.5", "x:\u0661x2", "x:0x3"],
)
def test_shapes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="input shape"):
        parse_shape(text)


def test_one_shape_an_input() -> None:
    assert gather_shapes([("x", (1,)), ("y", (2,))]) == {"x": (1,), "y": (2,)}
    with pytest.raises(UsageError, match="input 'x' is given two shapes"):
        gather_shapes([("x", (1,)), ("x", (1,))])


def test_numbers_and_names() -> None:
    assert parse_whole("12", "--threads") == 12
    assert parse_number("2.5", "--duration") == 2.5
    assert parse_number("-3", "--min-sqnr") == -3
    assert parse_names("a, b,a,") == ("a", "b")


@pytest.mark.parametrize("text", ["", "-1", "1.0", "1_000", "²", "0"])
def test_whole_numbers_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match=r"--threads is .*: give a whole number of 1 or more"):
        parse_whole(text, "--threads", least=1)


@pytest.mark.parametrize("text", ["", "nan", "inf", "1_0", "five"])
def test_numbers_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match=r"--duration is .*: give a number"):
        parse_number(text, "--duration")
