"""Random small networks in every format, and in several at once, beside what the exported model means.

What an artifact found inside a network is what the rest of it is evaluated from (`tests.networks.replaying`), so a
rounding that fell to the other side is seen where it happens, and nowhere else. Integers must be equal, bit for bit,
where they are promised; of other tensors a few elements may be off by a rounding.

A failure names its number: `draw(number)` draws the same network and the same formats again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lowprec.artifact import load
from lowprec.calibration import Observer
from lowprec.compilation import Options
from lowprec.errors import InvalidModel
from lowprec.exactness import numbers
from lowprec.exporting import to_onnx
from lowprec.frontend import load_graph
from lowprec.frontend.graph import Graph
from lowprec.meanings import meanings_of
from lowprec.oracle_promises import promised_tensors
from lowprec.pipeline import compile_task
from lowprec.precision import Observe, prepare
from lowprec.quantized_reference import evaluate
from lowprec.recipe import Recipe, Rule
from lowprec.seen import Question, Seen
from tests.networks.drawing import LARGEST, Array, session_of
from tests.networks.random_graphs import random_graph
from tests.networks.replaying import cut

QUICK, ALL, SHARE = 10, 2000, 40
ONCE_WRONG = (565, 589, 1198, 1877)
"""Found by the many: a norm of magnitudes, a build that failed, a constant taken for a bias, an average of nothing."""
INTEGERS = ("int8", "q2.14", "q3.7")
MIXED = "mixed"
FORMATS = ("fp32", "bf16", "fp16", *INTEGERS, "binary", MIXED)
CHOICES = [(target, threads) for target in ("native", "x86-64", "x86-64-v3") for threads in (1, 2, 3)]
PRODUCTS = ("Conv", "Gemm", "MatMul")

NEAR = 1e-4
"""Of a tensor's largest magnitude: verify's default for fp32."""
FEW = 0.01
"""The share of a tensor's elements that may be off by a rounding; two may always be."""
OPERATORS_BEHIND = 4
"""How many times its step a rounding that nobody shows may be worth in the next tensor that is shown."""
STEPS = {"BFLOAT16": 2.0**-7, "FLOAT16": 2.0**-10}

Feeds = Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A network as the artifact has it, made of `model`, and what was found in it."""

    model: Graph
    network: Graph
    feeds: Feeds
    tensors: Feeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A tensor that is not as it should be: the share of its elements that are off, and by how much at most."""

    tensor: str
    what: str
    share: float
    most: float


def draw(number: int) -> tuple[onnx.ModelProto, Feeds, str]:
    """Every number has a network of its own; formats take turns."""
    model, feeds = random_graph(10_000 + number)
    return model, feeds, FORMATS[number % len(FORMATS)]


def mixture(number: int, graph: Graph) -> tuple[str, Recipe]:
    """A format for all, and others for most layers; one network has one format of integers."""
    rng = np.random.default_rng(number)
    names = [str(rng.choice(INTEGERS)), "bf16", "fp16", "binary", "fp32"]
    rules = []
    for layer in [node.layer for node in graph.nodes if node.op in PRODUCTS]:
        weights = str(rng.choice(names))
        activations = "fp32" if weights == "binary" and rng.random() < 0.5 else None
        rules += [Rule(layer=layer, weights=weights, activations=activations)] * int(rng.random() < 0.8)
    return str(rng.choice(names)), Recipe(rules=tuple(rules))


def observing(feeds: Feeds) -> Observe:
    """What is seen are the inputs that are tried."""

    def observe(graph: Graph, question: Question) -> Seen:
        watched = tuple(graph.types[name] for name in question.tensors if name not in feeds)
        values = {**feeds, **(by_onnxruntime(replace(graph, outputs=watched), feeds) if watched else {})}
        observer = Observer()
        for layer, (name, axis) in question.averages.items():
            observer.average(layer, values[name], axis)
        ranges = {name: (float(values[name].min()), float(values[name].max())) for name in question.methods}
        return Seen(ranges=ranges, means=observer.means())

    return observe


def by_onnxruntime(graph: Graph, feeds: Feeds) -> dict[str, Array]:
    """The outputs of the graph as `lowprec export` writes it."""
    session = session_of(to_onnx(graph))
    return dict(zip([spec.name for spec in graph.outputs], session.run(None, dict(feeds)), strict=True))


def found_by_artifact(number: int, folder: Path) -> Found:
    model, feeds, fmt = draw(number)
    path, directory = folder / "model.onnx", folder / "artifact"
    path.write_bytes(model.SerializeToString())
    graph = load_graph(path)
    precision, recipe = mixture(number, graph) if fmt == MIXED else (fmt, None)
    target, threads = CHOICES[number // len(FORMATS) % len(CHOICES)]
    request = Options(precision=precision, recipe=recipe, target=target, threads=threads).to_json()
    prepared = prepare(graph, request, observing(feeds))
    seen = {} if prepared.seen is None else prepared.seen.to_json()
    inner: dict[str, Any] = {"out": str(directory), "probe": True, "command": "", "model": str(path)}
    compile_task(request | seen | inner, graph)
    outputs, probes = load(directory).run_probes(feeds)
    return Found(model=graph, network=prepared.graph, feeds=feeds, tensors=probes | outputs)


def shown(found: Found) -> dict[str, Array]:
    """The tensors of the network that the artifact shows, codes as codes and numbers as numbers."""
    known = {}
    for name, meaning in meanings_of(found.network, found.model, list(found.tensors)).items():
        array = found.tensors[name]
        same = found.network.types[meaning.tensor].dtype == array.dtype.name
        known[meaning.tensor] = array if same else numbers(array, meaning)
    return known


def rounds_to_integers(graph: Graph) -> bool:
    return any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes)


def meant(graph: Graph, feeds: Feeds) -> dict[str, Array]:
    """What the graph means: by the oracle where integers are, by ONNX Runtime elsewhere."""
    return evaluate(graph, feeds) if rounds_to_integers(graph) else by_onnxruntime(graph, feeds)


def wrong_tensors(found: Found) -> Iterator[Wrong]:
    """What differs from the network evaluated piece by piece."""
    known, promised, step = shown(found), promised_tensors(found.network), largest_step(found.network)
    pieces, given = cut(found.network, known)
    for name, wanted in meant(pieces, {**found.feeds, **given}).items():
        problem = difference(known[name], wanted, step, exact=name in promised and rounds_to_integers(found.network))
        if problem is not None:
            yield replace(problem, tensor=name)


def difference(found: Array, wanted: Array, step: float, *, exact: bool) -> Wrong | None:
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return Wrong(tensor="", what=f"{found.dtype}{found.shape}, not {wanted.dtype}{wanted.shape}", share=1, most=0)
    off = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    largest = max(float(np.abs(wanted).max(initial=0)), 1e-3)
    codes = wanted.dtype.kind in "iu"
    differs = off > (0 if exact or codes else NEAR * largest)
    differs |= ~np.isfinite(off)
    share, most = float(differs.mean()), float(off.max(initial=0))
    if not share:
        return None
    if exact:
        return Wrong(tensor="", what="promised", share=share, most=most)
    few = differs.sum() <= 2 or share <= FEW
    bound = 1.0 if codes else OPERATORS_BEHIND * step
    return None if few and most <= bound else Wrong(tensor="", what="near", share=share, most=most)


def largest_step(graph: Graph) -> float:
    """What a rounding that falls to the other side may change a number by."""
    scales = [graph.constants[node.inputs[1]] for node in graph.nodes if node.op == "QuantizeLinear"]
    casts = {int(node.attributes["to"]) for node in graph.nodes if node.op == "Cast"}  # type: ignore[arg-type]
    floats = [step * LARGEST for name, step in STEPS.items() if onnx.TensorProto.DataType.Value(name) in casts]
    return max([0.0, *(float(scale.max()) for scale in scales), *floats])


def errs(graph: Graph) -> bool:
    """Whether onnx's evaluator, which the oracle asks, is known to be wrong: on grouped transposition."""
    nodes = [node for node in graph.nodes if node.op == "ConvTranspose"]
    return rounds_to_integers(graph) and any(node.attributes.get("group", 1) != 1 for node in nodes)


def wrong_of(number: int, folder: Path) -> list[Wrong]:
    """Nothing of the few networks that ONNX Runtime takes and ONNX does not, and that onnx's evaluator fails on."""
    try:
        found = found_by_artifact(number, folder)
    except InvalidModel:
        return []
    if errs(found.network):
        return []
    try:
        return list(wrong_tensors(found))
    except ValueError as error:
        if rounds_to_integers(found.network):
            return []
        raise AssertionError(number) from error


@pytest.mark.parametrize("number", [*range(QUICK), *ONCE_WRONG])
def test_a_random_network_means_what_is_exported(number: int, tmp_path: Path) -> None:
    assert wrong_of(number, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, ALL, SHARE))
def test_many_random_networks_mean_what_is_exported(first: int, tmp_path: Path) -> None:
    wrong = {}
    for number in range(first, min(first + SHARE, ALL)):
        folder = tmp_path / str(number)
        folder.mkdir()
        wrong[number] = wrong_of(number, folder)
    assert {number: tensors for number, tensors in wrong.items() if tensors} == {}
