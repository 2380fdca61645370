"""Stochastic rounding in compiled networks: the oracle's bits at every step, and no bias."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

import lowprec
from lowprec import Fixed, Recipe, Rounding
from lowprec.artifact import Artifact, load
from lowprec.compilation import Options, compile_to, export_to
from lowprec.errors import Unsupported, UsageError
from lowprec.frontend import load_graph
from lowprec.frontend.randomness import drawn
from lowprec.oracle_promises import promised_tensors
from lowprec.precision import prepare
from lowprec.quantized_reference import evaluate
from lowprec.recipe import Rule
from lowprec.seen import Seen
from lowprec.targets import detect_features, parse_target
from lowprec.testing import assert_independent, assert_unbiased
from lowprec.testing.chances import ALARM, binomial
from lowprec.verification import verify
from tests.amounts import thinned
from tests.rounded import chain, random
from tests.tvm.test_mixed_formats import SAMPLES, images
from tests.tvm.test_mixed_formats import network as products

Floats = NDArray[np.float32]

STEPS = (0, 1, 7, 2**32 - 1)
FORMATS = ("int8", "q2.14", "q3.5", "bf16", "fp16")


def compiled(model: onnx.ModelProto, precision: str, **options: Any) -> Artifact:
    samples = {"calibration": list(SAMPLES[:, None])} if precision[0] in "iq" else {}
    return lowprec.compile(model, precision=precision, **{"rounding": "stochastic", "threads": 1, **samples, **options})


def network(art: Artifact, model: onnx.ModelProto, folder: Path) -> Any:
    """The graph that an artifact was compiled from."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    options = {**art.manifest.options, "ranges": art.manifest.options.get("ranges")}
    return prepare(load_graph(str(path)), options, lambda *_: Seen()).graph


@pytest.mark.parametrize("precision", thinned(FORMATS))
def test_every_step_is_the_oracles(precision: str, tmp_path: Path) -> None:
    model = images()
    art = compiled(model, precision, seed=11)
    graph = network(art, model, tmp_path)
    for step in STEPS:
        known = evaluate(graph, {"x": SAMPLES[:1]}, step=step)["y"]
        found = art(SAMPLES[:1], step=step)
        if precision[0] in "iq":
            assert np.array_equal(found, known)
        else:  # sums of floats have an order: a number near its draw may fall to the other side
            assert np.abs(found - known).max() <= 2e-2 * np.abs(known).max()
    assert np.array_equal(art(SAMPLES[:1]), art(SAMPLES[:1], step=0))
    assert len({art(SAMPLES[:1], step=step).tobytes() for step in range(8)}) == 8


@pytest.mark.parametrize("precision", thinned(["int8", "q2.14"]))
def test_verify_holds_it_against_the_oracle(precision: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(images(), path)
    report = verify(compiled(images(), precision), path)
    assert report.passed, str(report)
    checked = [layer.agreement for layer in report.layers if layer.agreement is not None]
    assert len(checked) > 3
    assert all(agreement.exact == 1 for agreement in checked)


@pytest.mark.parametrize(
    "precision", ["q2.14", pytest.param("int8", marks=pytest.mark.slow), pytest.param("q3.5", marks=pytest.mark.slow)]
)
def test_threads_and_targets_change_no_bit(precision: str) -> None:
    model = images()
    first = compiled(model, precision)
    for target in ("native", "cascadelake", "x86-64-v3", "x86-64"):
        if parse_target(target).features - detect_features():
            continue
        art = compiled(model, precision, target=target, threads=2 if target == "native" else 3)
        for step in STEPS[:2]:
            assert np.array_equal(art(SAMPLES[:1], step=step), first(SAMPLES[:1], step=step)), target


def test_seeds_and_names_draw_other_words() -> None:
    model = images()
    one, other = compiled(model, "q3.5", seed=1), compiled(model, "q3.5", seed=2)
    assert not np.array_equal(one(SAMPLES[:1]), other(SAMPLES[:1]))


@pytest.mark.parametrize("precision", ["int8", "q2.14"])
def test_products_of_many_rows_draw(precision: str, tmp_path: Path) -> None:
    """On tiles, where the CPU has them, whose kernels draw by themselves."""
    model, samples = products(40), random(8, 40, 70, seed=4)
    art = compiled(model, precision, calibration=list(samples))
    for step in STEPS[:2]:
        known = evaluate(network(art, model, tmp_path), {"x": samples[0]}, step=step)["y"]
        assert np.array_equal(art(samples[0], step=step), known)
    assert not np.array_equal(art(samples[0], step=0), art(samples[0], step=1))


PLACES = {
    "whole blocks at every tile": ((8, 8), 1, 1),
    "blocks that tiles cut": ((10, 10), 1, 1),
    "lines with borders between": ((12, 12), 3, 1),
    "planes of no whole blocks": ((7, 7), 3, 1),
    "strides": ((16, 24), 3, 2),
    "two images": ((9, 12), 1, 1),
}


@pytest.mark.parametrize("case", thinned(product(PLACES, ("int8", "q2.14")), step=3), ids="-".join)
def test_tiles_draw_the_words_of_their_places(case: tuple[str, str], tmp_path: Path) -> None:
    """Where the CPU has tiles."""
    name, precision = case
    size, kernel, stride = PLACES[name]
    shape = (2 if name == "two images" else 1, 64, *size)
    model, samples = tiled(shape, kernel, stride), random(2, *shape, seed=6)
    art = compiled(model, precision, calibration=list(samples))
    for step in STEPS[:2]:
        known = evaluate(network(art, model, tmp_path), {"x": samples[0]}, step=step)["y"]
        assert np.array_equal(art(samples[0], step=step), known)


PARTS = [((7, 7), 1, 1), ((10, 5), 3, 1), ((5, 11), 1, 2), ((13, 19), 3, 1), ((7, 7), 1, 2), ((3, 1), 1, 1)]


@pytest.mark.parametrize(("size", "kernel", "images"), PARTS)
@pytest.mark.parametrize("precision", thinned(["q2.14", "int8"], first=1))
def test_tiles_put_rows_together_from_parts_of_blocks(
    size: tuple[int, int], kernel: int, images: int, precision: str, tmp_path: Path
) -> None:
    """Planes of 1, 2 or 3 elements more than whole blocks, where vectors of channels are full; as the oracle has it."""
    shape = (images, 64, *size)
    model, samples = tiled(shape, kernel, 1, channels=48), random(2, *shape, seed=6)
    art = compiled(model, precision, calibration=list(samples))
    for step in STEPS[:2]:
        known = evaluate(network(art, model, tmp_path), {"x": samples[0]}, step=step)["y"]
        assert np.array_equal(art(samples[0], step=step), known)


def tiled(shape: tuple[int, ...], kernel: int, stride: int, *, channels: int = 40) -> onnx.ModelProto:
    """y = relu(conv(x) + conv(x)), of 64 channels and others: two tensors are drawn beside the sum."""
    weights = {name: random(channels, 64, kernel, kernel, seed=seed) / 24 for seed, name in enumerate("vw")}
    pads = [kernel // 2] * 4
    nodes = [helper.make_node("Conv", ["x", name], [f"{name}_y"], pads=pads, strides=[stride] * 2) for name in weights]
    nodes.append(helper.make_node("Add", ["v_y", "w_y"], ["s"]))
    nodes.append(helper.make_node("Relu", ["s"], ["y"]))
    return chain(nodes, weights, list(shape))


def test_batches_are_one_tensor() -> None:
    """The second image's words are not the first one's."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    model = chain(nodes, {"w": random(3, 3, 1, 1, seed=1) * 0.3}, [2, 3, 10, 10], "y")
    art = lowprec.compile(model, precision="q3.5", rounding="stochastic", threads=1)
    twice = np.repeat(SAMPLES[:1], 2, axis=0)
    first, second = art(twice)
    assert not np.array_equal(first, second)


def identity(shape: list[int]) -> onnx.ModelProto:
    """A layer that gives what it reads."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    return chain(nodes, {"w": np.eye(shape[1], dtype=np.float32).reshape(shape[1], shape[1], 1, 1)}, shape, "y")


@pytest.mark.parametrize("channels", thinned([1, 5, 64], first=1))
def test_rounding_in_a_network_is_unbiased(channels: int) -> None:
    """A network that rounds its input, and nothing else, as a quantizer that draws by its own steps."""
    shape = [1, channels, 48, 51]
    art = lowprec.compile(identity(shape), precision="q2.13", rounding="stochastic", threads=1)
    steps = iter(range(1 << 20))

    def quantizer(x: Floats, _bits: NDArray[np.uint32]) -> Floats:
        size = int(np.prod(shape))
        parts = np.zeros(x.size + -x.size % size, np.float32)
        parts[: x.size] = x.reshape(-1)
        rounded = [art(part.reshape(shape), step=next(steps)).reshape(-1) for part in parts.reshape(-1, size)]
        return np.concatenate(rounded)[: x.size].reshape(x.shape)

    assert_unbiased(quantizer, Fixed(2, 13))
    assert_independent(quantizer, Fixed(2, 13))


@pytest.mark.parametrize("padding", [0, 1])
def test_over_256_steps_a_layer_has_no_bias(padding: int, tmp_path: Path) -> None:
    """Of each number of a layer, how often it goes up: a binomial count, a right one accused once in 10^9."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[padding] * 4)]
    w = (np.random.default_rng(3).integers(-40, 40, (20, 6, 3, 3)) / 128).astype(np.float32)
    x = (np.random.default_rng(4).integers(-60, 60, (1, 6, 9, 9)) / 128).astype(np.float32)
    model = chain(nodes, {"w": w}, [1, 6, 9, 9], "y")
    art = lowprec.compile(model, precision="q9.7", rounding="stochastic", threads=1)
    onnx.save(model, tmp_path / "model.onnx")
    exact = evaluate(load_graph(str(tmp_path / "model.onnx")), {"x": x})["y"].astype(np.float64) * 128
    lower = np.floor(exact)
    found = np.stack([art(x, step=step) for step in range(256)]) * 128
    assert np.isin(found - lower, (0, 1)).all()
    ups = (found - lower).sum(axis=0).astype(int)
    chances = [binomial(up, 256, share) for up, share in zip(ups.flat, (exact - lower).flat, strict=True) if share]
    assert len(chances) > 500
    assert min(chances) * len(chances) > ALARM
    assert (ups[exact == lower] == 0).all()


def test_weights_are_drawn_once(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    w = random(64, 3, 1, 1, seed=1) * 0.3
    model = chain(nodes, {"w": w}, [1, 3, 10, 10], "y")
    art = lowprec.compile(model, precision="q3.5", rounding="stochastic", seed=5, threads=1)
    graph = network(art, model, tmp_path)
    (codes,) = (array for name, array in graph.constants.items() if name.startswith("w/codes"))
    assert np.array_equal(codes / 32, drawn(w, Fixed(3, 5), "w", 5))
    assert not np.array_equal(codes, np.rint(w * 32))


def test_a_recipe_draws_where_it_says(tmp_path: Path) -> None:
    model = images()
    rules = (Rule(layer="b", rounding="stochastic"),)
    art = compiled(model, "int8", rounding="nearest", recipe=Recipe(rules=rules))
    graph = network(art, model, tmp_path)
    assert {node.layer for node in graph.nodes if node.op == "RandomWords"} == {"b"}
    for step in (0, 3):
        assert np.array_equal(art(SAMPLES[:1], step=step), evaluate(graph, {"x": SAMPLES[:1]}, step=step)["y"])
    other = compiled(model, "int8", recipe=Recipe(rules=(Rule(layer="*", rounding="nearest"),)))
    assert not any(node.op == "RandomWords" for node in network(other, model, tmp_path).nodes)
    assert not other.manifest.stochastic


def test_saved_artifacts_draw_the_same(tmp_path: Path) -> None:
    art = compiled(images(), "q2.14")
    art.save(tmp_path / "a.lowprec")
    again = load(tmp_path / "a.lowprec")
    assert again.manifest.stochastic
    assert np.array_equal(again(SAMPLES[:1], step=9), art(SAMPLES[:1], step=9))
    assert art.profile([SAMPLES[:1]], repeats=1)


def test_probes_draw_as_the_artifact(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(images(), path)
    options = Options(precision="q2.14", rounding="stochastic", threads=1)
    compile_to(str(tmp_path / "probe.lowprec"), path, options, command="", probe=True)
    probe = load(tmp_path / "probe.lowprec")
    outputs, inner = probe.run_probes({"x": SAMPLES[:1]}, step=4)
    graph = prepare(load_graph(str(path)), options.to_json(), lambda *_: Seen()).graph
    assert np.array_equal(outputs["y"], evaluate(graph, {"x": SAMPLES[:1]}, step=4)["y"])
    assert len(inner) > 3
    assert {name for name in inner if name in graph.types} <= promised_tensors(graph)


@pytest.mark.parametrize("step", [-1, 2**32, 1.0, True, "1"])
def test_steps_that_are_none(step: Any) -> None:
    art = lowprec.compile(identity([1, 1, 4, 4]), precision="q2.14", rounding="stochastic", threads=1)
    with pytest.raises(UsageError, match=r"step is .*: give a whole number from 0 to 4294967295"):
        art(np.zeros((1, 1, 4, 4), np.float32), step=step)


@pytest.mark.parametrize("precision", ["fp32", "binary"])
def test_formats_that_do_not_round(precision: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"rounding 'stochastic' is for formats that round; {precision} takes"):
        lowprec.compile(identity([1, 1, 4, 4]), precision=precision, rounding="stochastic")


def test_it_has_no_form_in_onnx(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(images(), path)
    with pytest.raises(Unsupported, match="rounding 'stochastic' has no form in ONNX: export with 'nearest'"):
        export_to(tmp_path / "out.onnx", path, Options(precision="q2.14", rounding="stochastic"))
    assert not (tmp_path / "out.onnx").exists()


def test_rounding_is_the_tested_one() -> None:
    """The words of a tensor, by the public functions: the network's input as it is quantized."""
    art = lowprec.compile(identity([1, 3, 10, 10]), precision="q2.13", rounding="stochastic", seed=3, threads=1)
    words = lowprec.random_bits(3, "x", 300, step=5).reshape(1, 3, 10, 10)
    expected = lowprec.round_to(SAMPLES[:1], Fixed(2, 13), Rounding.STOCHASTIC, bits=words)
    assert np.array_equal(art(SAMPLES[:1], step=5), expected)


def test_a_rectified_layer_is_rounded_as_its_rule_says(tmp_path: Path) -> None:
    """Conv a is rounded behind its Relu, ra, which a rule need not name."""
    model = images()
    only = Recipe(rules=(Rule(layer="a", rounding="stochastic"),))
    but = Recipe(rules=(Rule(layer="*", rounding="stochastic"), Rule(layer="a", rounding="nearest")))
    for recipe, drawn_layers in ((only, {"ra"}), (but, {"b", "c", "rs", "y"})):
        art = compiled(model, "int8", rounding="nearest", recipe=recipe)
        graph = network(art, model, tmp_path)
        found = {node.layer for node in graph.nodes if node.op == "RandomWords"}
        assert found & {"ra", "b", "c", "rs", "y"} == drawn_layers
        assert np.array_equal(art(SAMPLES[:1], step=2), evaluate(graph, {"x": SAMPLES[:1]}, step=2)["y"])
