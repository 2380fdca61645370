"""Layers of several formats in one network: bf16 and fp16, and recipes that mix them with integers and signs."""

import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

import lowprec
from lowprec import Recipe
from lowprec.comparison import compare
from lowprec.compilation import Options, compile_to
from lowprec.errors import Unsupported, UsageError
from lowprec.frontend.binarization import binary_weights
from lowprec.frontend.graph import Node
from lowprec.recipe import Rule
from lowprec.seen import Seen
from lowprec.targets import native
from tests.rounded import chain, random

Floats = NDArray[np.float32]

DTYPES: dict[str, Any] = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}
TARGETS = ("native", "x86-64-v4", "x86-64-v3", "x86-64")
SAMPLES = np.random.default_rng(7).standard_normal((4, 3, 10, 10)).astype(np.float32)


def network(batch: int = 1) -> onnx.ModelProto:
    """Two products behind each other, the first one rectified."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    constants = {"w": random(70, 53, seed=1) * 0.1, "b": random(53, seed=2), "v": random(53, 33, seed=3) * 0.1}
    return chain(nodes, constants, [batch, 70], "y")


def images() -> onnx.ModelProto:
    """Convolutions that every algorithm fits, a residual and a Gemm."""
    nodes = [
        helper.make_node("Conv", ["x", "wa", "ba"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["ra"]),
        helper.make_node("Conv", ["ra", "wb"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "ra"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["rs"]),
        helper.make_node("Conv", ["rs", "wc"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "wg", "bg"], ["y"]),
    ]
    constants = {
        "wa": random(8, 3, 3, 3, seed=1) * 0.2,
        "ba": random(8, seed=2) * 0.1,
        "wb": random(8, 8, 3, 3, seed=3) * 0.1,
        "wc": random(12, 8, 3, 3, seed=4) * 0.1,
        "wg": random(768, 5, seed=5) * 0.1,
        "bg": random(5, seed=6) * 0.1,
    }
    return chain(nodes, constants, [1, 3, 10, 10], "y")


def rounded(values: NDArray[np.floating[Any]], precision: str) -> Floats:
    return np.asarray(values, np.float32).astype(DTYPES[precision]).astype(np.float32)


@pytest.mark.parametrize(
    ("precision", "target"),
    [
        *(("bf16", "native"), ("fp16", "native"), ("fp16", "x86-64"), ("bf16", "x86-64-v3")),
        *(pytest.param(p, t, marks=pytest.mark.slow) for p in DTYPES for t in TARGETS),
    ],
)
def test_products_are_of_rounded_numbers(precision: str, target: str) -> None:
    """As in NumPy, but for the order of sums: a number near a tie may fall to the other side, by one step."""
    model = network()
    w, b, v = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    x = random(1, 70, seed=9)
    art = lowprec.compile(model, precision=precision, target=target)
    hidden = rounded(x, precision).astype(np.float64) @ rounded(w, precision) + b
    wanted = rounded(rounded(np.maximum(hidden, 0), precision).astype(np.float64) @ rounded(v, precision), precision)
    step = 2.0 ** -(7 if precision == "bf16" else 10)
    np.testing.assert_allclose(art(x), wanted, rtol=2 * step, atol=step)
    assert np.mean(art(x) == wanted) > 0.7
    assert np.array_equal(rounded(art(x), precision), art(x))


@pytest.mark.parametrize("precision", DTYPES)
def test_few_rows_read_weights_of_half_the_size(precision: str) -> None:
    few, many = (lowprec.compile(network(batch), precision=precision, target="x86-64-v3") for batch in (1, 40))
    stored = {"bf16": "uint16", "fp16": "float16"}[precision]
    assert [spec.dtype for spec in few.manifest.weights].count(stored) == 2
    assert stored not in [spec.dtype for spec in many.manifest.weights]
    x = random(40, 70, seed=9)
    np.testing.assert_allclose(few(x[:1]), many(x)[:1], rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("precision", "algorithm"),
    [
        ("bf16", "winograd"),
        ("fp16", "fft"),
        *(
            pytest.param(precision, algorithm, marks=pytest.mark.slow)
            for precision in DTYPES
            for algorithm in ("direct", "winograd", "fft", "im2col")
        ),
    ],
)
def test_every_algorithm(tmp_path: Path, precision: str, algorithm: str) -> None:
    onnx.save(images(), tmp_path / "m.onnx")
    art = lowprec.compile(tmp_path / "m.onnx", precision=precision, algorithm=algorithm)
    formats = {str(choice.formats) for choice in art.plan.choices if choice.op in ("Conv", "Gemm")}
    assert formats == {f"{precision} x {precision} in fp32"}
    exact = lowprec.compile(tmp_path / "m.onnx")(SAMPLES[:1])
    errors = compare(exact, art(SAMPLES[:1]))
    assert {"bf16": 40, "fp16": 58}[precision] < errors.sqnr_db < {"bf16": 58, "fp16": 75}[precision]


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_verify_knows_their_bounds(tmp_path: Path, precision: str) -> None:
    onnx.save(images(), tmp_path / "m.onnx")
    report = lowprec.verify(lowprec.compile(tmp_path / "m.onnx", precision=precision), tmp_path / "m.onnx")
    assert report.passed
    assert str(report.bound) == {"bf16": "SQNR >= 30 dB", "fp16": "SQNR >= 45 dB"}[precision]


def test_not_a_number_and_infinity_pass() -> None:
    """Beyond the greatest number lies infinity, as IEEE 754 has it."""
    w = np.eye(4, dtype=np.float32)
    model = chain([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w}, [6, 4], "y")
    x = np.zeros((6, 4), np.float32)
    x[:, 0] = [7e4, -7e4, 65519.0, np.nan, 2.0**-24, 3.4e38]
    with np.errstate(over="ignore"):
        for precision in DTYPES:
            found = lowprec.compile(model, precision=precision)(x)
            wanted = rounded(x[:, 0], precision)
            row = np.isfinite(wanted)
            assert np.array_equal(found[row, 0], wanted[row])
            assert np.array_equal(np.isnan(found[:, 0]), ~row | np.isnan(wanted)) or np.isinf(found[~row, 0]).any()


def mixed(**formats: str) -> Recipe:
    return Recipe(rules=tuple(Rule(layer=layer, weights=fmt) for layer, fmt in formats.items()))


@pytest.mark.parametrize(
    "formats",
    [
        pytest.param({"a": "int8"}, marks=pytest.mark.slow),
        {"a": "bf16", "b": "int8", "c": "fp16"},
        pytest.param({"a": "int8", "b": "int8", "y": "bf16"}, marks=pytest.mark.slow),
        pytest.param({"a": "q2.14", "b": "bf16"}, marks=pytest.mark.slow),
        {"b": "binary", "c": "int8"},
    ],
    ids=str,
)
def test_a_recipe_mixes_formats(tmp_path: Path, formats: dict[str, str]) -> None:
    onnx.save(images(), tmp_path / "m.onnx")
    art = lowprec.compile(tmp_path / "m.onnx", recipe=mixed(**formats), calibration=SAMPLES)
    for layer, fmt in formats.items():
        word = {"q2.14": "int16"}.get(fmt, fmt)
        assert art.plan.choice(layer).formats.weights == word
    others = {choice.layer for choice in art.plan.choices if choice.op in ("Conv", "Gemm")} - formats.keys()
    assert all(str(art.plan.choice(layer).formats) == "fp32" for layer in others)
    report = lowprec.verify(art, tmp_path / "m.onnx")
    assert report.passed, str(report)


def test_a_layer_may_leave_the_format_of_all_others(tmp_path: Path) -> None:
    onnx.save(images(), tmp_path / "m.onnx")
    art = lowprec.compile(tmp_path / "m.onnx", precision="bf16", recipe=mixed(b="fp32"))
    assert str(art.plan.choice("b").formats) == "fp32"
    assert art.plan.choice("b").declined == ("bf16: it is to stay in float",)
    assert art.plan.choice("c").formats.weights == "bf16"


def test_binary_weights_with_real_activations(tmp_path: Path) -> None:
    model = images()
    onnx.save(model, tmp_path / "m.onnx")
    recipe = Recipe(rules=(Rule(layer="b", weights="binary", activations="fp32"),))
    art = lowprec.compile(tmp_path / "m.onnx", recipe=recipe)
    assert art.plan.choice("b").formats.weights == "binary"
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "wb")
    node = next(node for node in model.graph.node if node.output[0] == "b")
    layer = Node(op="Conv", inputs=tuple(node.input), outputs=("b",), layer="b", version=17)
    signs = binary_weights(onnx.numpy_helper.to_array(weights), layer)
    weights.CopyFrom(onnx.numpy_helper.from_array(signs, "wb"))
    x = SAMPLES[:1]
    np.testing.assert_allclose(art(x), lowprec.compile(model)(x), rtol=1e-5, atol=1e-5)


def test_two_formats_of_integers_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"int8 and q2\.14"):
        lowprec.compile(images(), recipe=mixed(a="int8", b="q2.14"), calibration=SAMPLES)


def test_weights_and_activations_of_two_formats_are_refused() -> None:
    recipe = Recipe(rules=(Rule(layer="b", weights="int8", activations="bf16"),))
    with pytest.raises(UsageError, match="'b' has weights in int8 and activations in bf16"):
        lowprec.compile(images(), recipe=recipe, calibration=SAMPLES)


def test_calibration_is_for_recipes_of_integers() -> None:
    with pytest.raises(UsageError, match="bf16 has no ranges"):
        lowprec.compile(images(), precision="bf16", calibration=SAMPLES)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lowprec.compile(images(), recipe=mixed(a="int8"))
    assert any("int8 without calibration" in str(entry.message) for entry in caught)


@pytest.mark.skipif(not native().has("amx_bf16"), reason="this CPU has no AMX for bfloat16")
def test_many_rows_are_multiplied_on_tiles() -> None:
    tiles, elsewhere = (
        lowprec.compile(network(40), precision="bf16", target=target) for target in ("native", "cascadelake")
    )
    families = [[call.family for call in art.manifest.calls] for art in (tiles, elsewhere)]
    assert [kinds.count("amx") for kinds in families] == [2, 0]
    x = random(40, 70, seed=9)
    np.testing.assert_allclose(tiles(x), elsewhere(x), rtol=2e-2, atol=1e-2)


def test_scale_none_keeps_fixed_point_literal() -> None:
    """With samples, e of equation 1 is 0 for the weights and results of the layers that a recipe names."""
    model, path = images(), "b"
    samples = [5 * sample[None] for sample in SAMPLES]
    options: dict[str, Any] = {"precision": "q2.6", "calibration": samples, "threads": 1}
    free = lowprec.compile(model, **options)
    kept = lowprec.compile(model, recipe=Recipe(rules=(Rule(layer=path, scale="none"),)), **options)
    whole = lowprec.compile(model, recipe=Recipe(rules=(Rule(layer="*", scale="none"),)), **options)
    literal = lowprec.compile(model, precision="q2.6", threads=1)
    x = samples[0]
    results = {art(x).tobytes() for art in (free, kept, whole)}
    assert len(results) == 3
    inside = np.clip(x, -2, 2 - 2.0**-6)
    assert np.array_equal(whole(inside), literal(inside))


@pytest.mark.parametrize(
    ("precision", "scale", "samples", "message"),
    [
        (
            "int8",
            "none",
            True,
            "scale is 'none', and the format int8, which takes 'minmax', 'percentile', 'mse', 'entropy'",
        ),
        ("q2.6", "mse", True, r"scale is 'mse', and the format q2\.6, which takes 'none', 'minmax', 'percentile'"),
        ("q2.6", "percentile", False, "scale 'percentile' is found on samples, and there are none: give calibration"),
    ],
)
def test_scales_are_for_formats(precision: str, scale: str, samples: bool, message: str) -> None:
    recipe = Recipe(rules=(Rule(op="Conv", scale=scale),))
    with pytest.raises(UsageError, match=message):
        lowprec.compile(images(), precision=precision, calibration=[SAMPLES[:1]] if samples else None, recipe=recipe)


def test_a_recipe_says_how_a_range_is_found() -> None:
    """Of what the layers give that it names, and of inputs."""

    def ranges(*rules: Rule) -> dict[str, tuple[float, float]]:
        samples = [sample[None] for sample in SAMPLES]
        art = lowprec.compile(images(), precision="int8", calibration=samples, recipe=Recipe(rules=rules), threads=1)
        assert lowprec.verify(art, images(), min_sqnr=5).passed
        seen = Seen.from_json(art.manifest.options)
        assert seen is not None
        return dict(seen.ranges)

    whole = Rule(layer="x", scale="minmax")
    found = {name: ranges(Rule(layer="b", scale=name), whole) for name in ("minmax", "percentile", "mse", "entropy")}
    (tensor,) = {name for name in found["mse"] if found["mse"][name] != found["minmax"][name]}
    assert found["mse"] == ranges() | {"x": found["minmax"]["x"]}
    assert len({seen[tensor] for seen in found.values()}) >= 3
    assert all(seen[tensor][1] <= found["minmax"][tensor][1] for seen in found.values())


def test_slow_work_says_how_far_it_is(tmp_path: Path) -> None:
    """Samples are counted while they are seen."""
    path, heard = tmp_path / "model.onnx", list[str]()
    path.write_bytes(images().SerializeToString())
    np.savez(tmp_path / "samples.npz", x=SAMPLES)
    options = Options(precision="int8", calibration=tmp_path / "samples.npz", threads=1)
    compile_to(str(tmp_path / "artifact"), path, options, command="", notify=heard.append)
    assert heard == ["calibration: 1 sample seen", *(f"calibration: {count} samples seen" for count in (2, 3, 4))]
