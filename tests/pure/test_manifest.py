"""Manifests survive the trip through JSON unchanged, and nothing else comes back from it."""

import contextlib
import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec import manifest as manifests
from lowprec import strict_json
from lowprec.errors import EnvironmentMismatch
from lowprec.layers import Cost
from lowprec.manifest import CallSpec, FileSpec, Manifest, ProbeSpec, WeightSpec, from_text, to_text
from lowprec.plan import Plan
from lowprec.tensors import TensorSpec
from tests.manifests import hand_made

FILES = {"model.so": FileSpec(sha256="a" * 64, bytes=10), "weights.bin": FileSpec(sha256="b" * 64, bytes=1000)}


def complete(**changes: Any) -> Manifest:
    """A manifest that may be read back, with every kind of field in use."""
    weights = (WeightSpec(dtype="bfloat16", shape=(2, 3), offset=0), WeightSpec(dtype="float32", shape=(), offset=64))
    probes = (ProbeSpec(tensor="t", layer="y", axes=(0, 3, 1, 2), crop=((0, 1), (1, 2), (1, 2), (0, 3))),)
    cost = Cost(macs=60, weight_bytes=80, tensor_bytes=108)
    calls = (CallSpec(symbol="k0", layer="y", op="Gemm", output="y", family="gemm", cost=cost),)
    plan = Plan(choices=(dataclasses.replace(hand_made().plan.choices[0], error=1.5e-6, milliseconds=0.25),))
    made = hand_made(calls=calls, probes=probes)
    return dataclasses.replace(made, plan=plan, files=FILES, weights=weights, **changes)


def signed(body: dict[str, Any]) -> str:
    """The text of a manifest with these fields and a digest that fits them."""
    return json.dumps({**body, "sha256": manifests._digest(body)})


def fields() -> dict[str, Any]:
    body: dict[str, Any] = strict_json.encode(complete())
    return body


def paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a JSON document."""
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [place for key, item in inner for place in [(*path, key), *paths(item, (*path, key))]]


# Free-form: any JSON is a value of `options`, which compile takes and reads strictly itself.
PLACES = [place for place in paths(fields()) if place[0] != "options" or len(place) == 1]


def replaced(place: tuple[str | int, ...], value: object) -> dict[str, Any]:
    body = fields()
    holder: Any = body
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return body


def test_round_trip() -> None:
    assert from_text(to_text(complete())) == complete()
    assert from_text(to_text(complete(threads=3))).threads == 3


names = st.text(min_size=1, max_size=20)
shapes = st.lists(st.integers(0, 2**40), max_size=6).map(tuple)


@given(names=st.lists(names, unique=True, max_size=4), shape=shapes, dtype=st.sampled_from(sorted(manifests.DTYPES)))
def test_round_trip_of_any_names_and_shapes(names: list[str], shape: tuple[int, ...], dtype: str) -> None:
    specs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name in names)
    manifest = complete(inputs=specs, outputs=specs, command="\n".join(names))
    assert from_text(to_text(manifest)) == manifest


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Manifest)])
def test_a_missing_field_is_named(name: str) -> None:
    body = fields()
    del body[name]
    with pytest.raises(EnvironmentMismatch, match=re.escape(name)) as caught:
        from_text(signed(body))
    assert caught.value.exit_code == 7


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(EnvironmentMismatch, match="colour is not a known field"):
        from_text(signed(fields() | {"colour": "red"}))
    with pytest.raises(EnvironmentMismatch, match=r"inputs\[0\]\.strides is not a known field"):
        from_text(signed(replaced(("inputs", 0), fields()["inputs"][0] | {"strides": [1]})))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: "/".join(map(str, place)))
def test_a_field_of_another_type_is_named(place: tuple[str | int, ...]) -> None:
    """Every place in the document, with a value that no field has."""
    with pytest.raises(EnvironmentMismatch) as caught:
        from_text(signed(replaced(place, [None])))
    assert str(place[0]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_true_is_no_number() -> None:
    with pytest.raises(EnvironmentMismatch, match=r"seed is True, not a whole number"):
        from_text(signed(replaced(("seed",), True)))


REFUSALS = [
    (("schema",), "lowprec.artifact/1", "schema is 'lowprec.artifact/1', this lowprec reads 'lowprec.artifact/7'"),
    (("calls", 0, "cost", "macs"), -1, "calls[0].cost.macs is -1, not 0 or more"),
    (("inputs", 0, "dtype"), "float31", "inputs[0].dtype is 'float31', not one of"),
    (("inputs", 0, "shape"), [3, -1], "inputs[0].shape is [3, -1]"),
    (("inputs", 0, "shape"), [1] * 33, "not up to 32 sizes"),
    (("outputs",), fields()["outputs"] * 2, "outputs names one tensor twice"),
    (("files",), {"model.so": {"sha256": "a", "bytes": 1}}, "files lists ['model.so'], not model.so and weights.bin"),
    (("files", "../evil"), {"sha256": "a", "bytes": 1}, "files lists ['../evil'"),
    (("threads",), 0, "threads is 0, not 1 or more"),
    (("weights", 1, "offset"), 65, "weights[1].offset is 65, not a multiple of 64"),
    (("weights", 1, "offset"), 1024, "weights[1] ends outside weights.bin"),
    (("weights", 1, "shape"), [2**62, 2**62], "weights[1] ends outside weights.bin"),
    (("weights", 1, "offset"), -64, "weights[1].offset is -64"),
    (("weights", 1, "offset"), 0, "weights[1].offset is 0, inside of an array that ends at 12"),
    (("weights", 1, "packing"), "bits:10", "weights[1].packing is bits:10 of float32, which takes integers of more"),
    (("weights", 0, "packing"), "float16", "weights[0].packing is float16 of bfloat16, which takes float32"),
    (("weights", 0, "packing"), "deflate:1000", "weights[1].offset is 64, inside of an array that ends at 1000"),
    (("weights", 1, "packing"), "deflate:1000", "weights[1] ends outside weights.bin"),
    (("weights", 1, "packing"), "zip", "weights[1].packing is 'zip', not plain, bits:1 to bits:16, signs, bfloat16,"),
    (("probes", 0, "crop"), [[0, 1, 2]], "probes[0].crop[0] has 3 items, not 2"),
]


@pytest.mark.parametrize(("place", "value", "words"), REFUSALS, ids=[words for _, _, words in REFUSALS])
def test_refusals(place: tuple[str | int, ...], value: object, words: str) -> None:
    with pytest.raises(EnvironmentMismatch, match=re.escape(words)):
        from_text(signed(replaced(place, value)))


def of_schema_6() -> dict[str, Any]:
    body = fields() | {"schema": "lowprec.artifact/6"}
    assert body.pop("input_alignment") == 64
    return body


def of_schema_5() -> dict[str, Any]:
    body = of_schema_6() | {"schema": "lowprec.artifact/5"}
    assert body.pop("stochastic") is False
    return body


def test_inputs_of_the_schema_before_are_aligned() -> None:
    assert from_text(signed(of_schema_6())) == complete()


def test_nothing_of_the_schema_before_that_is_stochastic() -> None:
    assert from_text(signed(of_schema_5())) == complete()


def of_schema_4() -> dict[str, Any]:
    body = of_schema_5() | {"schema": "lowprec.artifact/4"}
    for spec in body["weights"]:
        assert spec.pop("packing") == "plain"
    return body


def test_weights_of_schema_4_are_plain() -> None:
    """Artifacts made before arrays were packed are still read, and written again in today's schema."""
    assert from_text(signed(of_schema_4())) == complete()


@pytest.mark.parametrize("weights", [None, 3, {}, [3], [None], [{}], [[]]], ids=repr)
def test_weights_of_schema_4_are_checked_too(weights: object) -> None:
    with pytest.raises(EnvironmentMismatch, match=r"manifest\.json: weights"):
        from_text(signed(of_schema_4() | {"weights": weights}))


def test_an_edited_manifest_of_an_older_schema_is_refused() -> None:
    text = signed(of_schema_4())
    with pytest.raises(EnvironmentMismatch, match="sha256 is not that of the other fields"):
        from_text(text.replace('"seed": 0', '"seed": 1'))


def test_todays_weights_name_their_packing() -> None:
    body = fields()
    del body["weights"][0]["packing"]
    with pytest.raises(EnvironmentMismatch, match=r"weights\[0\]\.packing is missing"):
        from_text(signed(body))


def test_an_edited_manifest_is_refused() -> None:
    """A change that leaves every field plausible is still a change."""
    text = to_text(complete())
    assert '"seed": 0' in text
    with pytest.raises(EnvironmentMismatch, match="sha256 is not that of the other fields"):
        from_text(text.replace('"seed": 0', '"seed": 1'))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '{"schema": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, b"\xff\xfe"]
)
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(EnvironmentMismatch, match=r"manifest\.json"):
        from_text(text)


@given(position=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_one_changed_byte_never_passes_for_another_manifest(position: int, byte: int) -> None:
    whole = bytearray(to_text(complete()).encode())
    whole[position % len(whole)] = byte
    with contextlib.suppress(EnvironmentMismatch):
        assert from_text(bytes(whole)) == complete()  # white space, or the byte it already was
