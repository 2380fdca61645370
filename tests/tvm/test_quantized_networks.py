"""Quantized networks, compiled: the oracle's bits, on every target and number of threads.

A failure names its seed: `quantized_graph(seed)` and `random_graph(seed)` draw the same networks again.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from lowprec.artifact import Artifact, load
from lowprec.compilation import Options
from lowprec.convolution import Conv
from lowprec.frontend import load_graph
from lowprec.frontend.graph import Graph
from lowprec.pipeline import compile_task
from lowprec.precision import prepare
from lowprec.quantized_reference import evaluate
from lowprec.seen import Seen
from lowprec.targets import native, parse_target
from tests.integer_layers import Case, conv_layer
from tests.networks.builder import Builder, Size
from tests.networks.classifiers import shufflenet_v2
from tests.quantized import Array, Network
from tests.quantized_graphs import quantized_graph

QUICK, ALL = 10, 400
NAMES = ("native", "cascadelake", "x86-64-v4", "x86-64-v3", "x86-64")
HERE = [name for name in NAMES if parse_target(name).features <= native().features]
CHOICES = [(target, threads) for threads in (1, 2, 3) for target in HERE]

Feeds = Mapping[str, Array]


def compiled(
    model: onnx.ModelProto,
    folder: Path,
    *,
    target: str = "native",
    threads: int = 1,
    probe: bool = False,
    **options: object,
) -> tuple[Artifact, Graph]:
    """The artifact, and the graph that it computes: the model's, or what was made of it."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    asked = Options(target=target, threads=threads).to_json() | options
    inner = {"out": str(folder / "artifact"), "probe": probe, "command": "", "model": str(path)}
    graph = load_graph(path)
    compile_task(asked | inner, graph)
    artifact = load(folder / "artifact")
    request = {**asked, **{name: artifact.manifest.options.get(name) for name in ("ranges", "means")}}
    return artifact, prepare(graph, request, lambda *_: Seen()).graph


def assert_equal(artifact: Artifact, graph: Graph, feeds: Feeds) -> None:
    """Twice with other numbers, so that a border or an output left over from the first would show."""
    for given in (feeds, mixed(feeds), feeds):
        found, _ = artifact.run_probes(dict(given))
        for name, expected in evaluate(graph, given).items():
            assert found[name].dtype == expected.dtype
            assert np.array_equal(found[name], expected), name


def mixed(feeds: Feeds) -> dict[str, Array]:
    """The same inputs with their elements in another order."""
    rng = np.random.default_rng(0)
    return {name: rng.permutation(array.ravel()).reshape(array.shape) for name, array in feeds.items()}


@pytest.mark.parametrize(
    "seed", [*range(QUICK), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(QUICK, ALL))]
)
def test_a_random_network_has_the_oracle_s_bits(seed: int, tmp_path: Path) -> None:
    net, outputs = quantized_graph(seed)
    target, threads = CHOICES[seed % len(CHOICES)]
    artifact, _ = compiled(net.model(*outputs), tmp_path, target=target, threads=threads, probe=seed % 2 == 1)
    assert_equal(artifact, net.graph(*outputs), net.feeds)


def dense(net: Network, x: str, depth: int, columns: int) -> str:
    """Dequantized weights and a product."""
    rng = np.random.default_rng(columns)
    w = net.dequantize(net.constant(rng.integers(-128, 128, (depth, columns), "int8")), 0.01)
    return net.node("MatMul", x, w, shape=(*net.types[x].shape[:-1], columns))


def conv_of(net: Network, x: str, channels: int, *, pad: int = 1, weights: Array | None = None) -> str:
    rng, inside, kernel = np.random.default_rng(channels), net.types[x].shape[1], 1 + 2 * pad
    codes = rng.integers(-128, 128, (channels, inside, kernel, kernel), "int8") if weights is None else weights
    shape = (1, channels, *net.types[x].shape[2:])
    w = net.dequantize(net.constant(codes), 0.01) if codes.dtype == np.int8 else net.constant(codes)
    return net.node("Conv", x, w, shape=shape, kernel_shape=(kernel, kernel), pads=(pad,) * 4)


def image(net: Network, channels: int = 5, dtype: str = "uint8") -> str:
    rng = np.random.default_rng(channels)
    return net.input(rng.integers(-128 if dtype == "int8" else 0, 128, (1, channels, 7, 9), dtype))


def conv_and_what_it_reads(net: Network) -> list[str]:
    """One kernel reads a tensor with its border, for the convolution, and without, for the sum."""
    x = net.dequantize(net.quantize(net.dequantize(image(net), 0.02, 3), 0.03, 100, "uint8"), 0.03, 100)
    y = net.node("Add", conv_of(net, x, 5), x, shape=(1, 5, 7, 9))
    return [net.quantize(y, 0.1, 7, "int8")]


def borders_that_disagree(net: Network) -> list[str]:
    """The same integers stand for other numbers, and another one of them for zero."""
    q = net.quantize(net.dequantize(image(net), 0.02, 3), 0.03, 100, "uint8")
    ends = [net.quantize(conv_of(net, net.dequantize(q, 0.03, zero), 6), 0.5, 9, "uint8") for zero in (100, 0, 255)]
    return [*ends, q]


def product_then_sum(net: Network) -> list[str]:
    """Two roundings, behind a layer and without one."""
    x, y = (net.dequantize(image(net, channels), 0.013, 5) for channels in (16, 16))
    scaled = net.node("Mul", conv_of(net, x, 16), y, shape=(1, 16, 7, 9))
    plain = net.node("Mul", x, y, shape=(1, 16, 7, 9))
    return [net.node("Add", each, y, shape=(1, 16, 7, 9)) for each in (scaled, plain)]


def sums_of_dequantized(net: Network) -> list[str]:
    """What LLVM would fuse: the product of a DequantizeLinear and the sum behind it."""
    x, y = (net.dequantize(image(net, 8, dtype), 0.0137, 5) for dtype in ("uint8", "int8"))
    added = net.node("Add", x, y, shape=(1, 8, 7, 9))
    return [net.node("Transpose", added, shape=(9, 7, 8, 1), perm=(3, 2, 1, 0)), added]


def truncated(net: Network) -> list[str]:
    """A Cast to integers drops what a QuantizeLinear would round."""
    x = net.dequantize(net.input(np.arange(160, dtype=np.uint8).reshape(10, 16)), 0.002, 3)
    held = net.node(
        "Clip", dense(net, x, 16, 6), net.constant(np.float32(0)), net.constant(np.float32(99)), shape=(10, 6)
    )
    whole = net.node("Cast", held, shape=(10, 6), dtype="uint8", to=onnx.TensorProto.UINT8)
    return [net.node("Cast", whole, shape=(10, 6), to=onnx.TensorProto.FLOAT)]


def vectors(net: Network) -> list[str]:
    """Products with operands of one axis and of three."""
    rng = np.random.default_rng(0)
    x = net.dequantize(net.input(rng.integers(0, 256, 12, "uint8")), 0.02, 3)
    m = net.dequantize(net.input(rng.integers(-128, 128, (2, 3, 12), "int8")), 0.02, -3)
    w = net.dequantize(net.constant(rng.integers(-128, 128, 12, "int8")), 0.01)
    cube = net.dequantize(
        net.constant(rng.integers(-128, 128, (2, 12, 5), "int8")), np.full(5, 0.01), np.zeros(5), axis=2
    )
    return [
        dense(net, x, 12, 7),
        net.node("MatMul", m, w, shape=(2, 3)),
        net.node("MatMul", x, w, shape=()),
        net.node("MatMul", m, cube, shape=(2, 3, 5)),
    ]


def gemms(net: Network) -> list[str]:
    """Transposed both ways, with biases of every shape."""
    rng = np.random.default_rng(0)
    x = net.dequantize(net.input(rng.integers(0, 256, (12, 4), "uint8")), 0.02, 3)
    w = net.dequantize(net.constant(rng.integers(-128, 128, (6, 12), "int8")), 0.01)
    scale = np.float32(0.02) * np.float32(0.01)
    biases = [
        net.constant(rng.standard_normal(shape).astype(np.float32)) for shape in ((), (1,), (6,), (4, 6), (4, 1))
    ] + [net.dequantize(net.constant(rng.integers(-999, 999, shape, "int32")), scale) for shape in ((1,), (6,), (4, 6))]
    return [net.node("Gemm", x, w, b, shape=(4, 6), transA=1, transB=1) for b in biases]


def biases_of_the_moment(net: Network) -> list[str]:
    x = net.dequantize(image(net), 0.02, 3)
    b = net.input(np.linspace(-1, 1, 5, dtype=np.float32))
    w = net.dequantize(net.constant(np.full((5, 5, 1, 1), 3, np.int8)), 0.01)
    return [net.quantize(net.node("Conv", x, w, b, shape=(1, 5, 7, 9), kernel_shape=(1, 1)), 0.02, 3, "uint8")]


def wide_results(net: Network) -> list[str]:
    """Sums and averages rounded to 16 bits."""
    x = net.dequantize(image(net), 0.02, 3)
    pooled = net.node("GlobalAveragePool", x, shape=(1, 5, 1, 1))
    return [net.quantize(conv_of(net, x, 6), 1e-3, 5, "int16"), net.quantize(pooled, 1e-4, 99, "uint16")]


def biases_of_words(net: Network) -> list[str]:
    """Added to sums of 16-bit products before these are rounded: one for all channels, or the only one, or more."""
    rng, unit = np.random.default_rng(0), 2.0**-14
    x = net.dequantize(net.input(rng.integers(-(2**15), 2**15, (3, 1, 15, 17), "int16")), unit)
    w = net.dequantize(net.constant(rng.integers(-(2**13), 2**13, (1, 1, 3, 3), "int16")), unit)
    b = net.dequantize(net.constant([18042698], "int32"), unit * unit)
    conv = net.node("Conv", x, w, b, shape=(3, 1, 13, 15), kernel_shape=(3, 3))
    rows = net.dequantize(net.input(rng.integers(-(2**15), 2**15, (64, 9), "int16")), unit)
    w = net.dequantize(net.constant(rng.integers(-(2**13), 2**13, (9, 5), "int16")), unit)
    each = net.dequantize(net.constant(rng.integers(-(2**28), 2**28, (64, 5), "int32")), unit * unit)
    return [conv, *(net.node("Gemm", rows, w, bias, shape=(64, 5)) for bias in (b, each))]


def averages(net: Network) -> list[str]:
    """Dilated, beyond the padding, with the padding counted or not; and of nothing, which is 0."""
    x = net.dequantize(image(net), 0.02, 3)
    flags = [(d, c, p) for d in (1, 2) for c in (0, 1) for p in (0, 1)]
    found = []
    for dilation, ceil, padding in flags:
        reach = 2 * dilation + 1
        size = tuple((n + 2 - reach + ceil) // 2 + 1 for n in (7, 9))
        pooled = net.node(
            "AveragePool", x, shape=(1, 5, *size), kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(2, 2),
            dilations=(dilation,) * 2, ceil_mode=ceil, count_include_pad=padding,
        )  # fmt: skip
        found.append(net.quantize(pooled, 0.01, 128, "uint8"))
    pixel = net.dequantize(net.input(np.full((1, 5, 1, 1), 200, np.uint8)), 0.02, 3)
    pooled = net.node(
        "AveragePool", pixel, shape=(1, 5, 1, 1), kernel_shape=(2, 2), pads=(0, 1, 1, 1), dilations=(1, 2)
    )
    return [*found, net.quantize(pooled, 0.01, 128, "uint8")]


def ranges_of_the_moment(net: Network) -> list[str]:
    """Of values, and of zeros."""
    found = []
    for x in (np.linspace(-1, 3, 40, dtype=np.float32), np.zeros(40, np.float32)):
        found.append(net.node("DynamicQuantizeLinear", net.input(x), shape=(40,), dtype="uint8"))
        index = len(found)
        found += [net.output(f"scale{index}", "float32", ()), net.output(f"zero{index}", "uint8", ())]
    return found


def operators_on_integers(net: Network) -> list[str]:
    """QLinearConv with and without groups, ConvInteger, QLinearMatMul, MatMulInteger: what quantizers also write."""
    rng, scale, zero = np.random.default_rng(0), net.constant(np.float32(0.02)), net.constant(7, "uint8")
    x, taps = image(net, 6), {"kernel_shape": (3, 3), "pads": (1, 0, 1, 2), "strides": (2, 1)}
    found = []
    for groups, channels in ((1, 10), (3, 9), (6, 6)):
        w = net.constant(rng.integers(0, 256, (channels, 6 // groups, 3, 3), "uint8"))
        factors = net.constant(np.linspace(0.01, 0.02, channels, dtype=np.float32))
        points = net.constant(rng.integers(0, 256, channels, "uint8"))
        bias = net.constant(rng.integers(-999, 999, channels, "int32"))
        shape, options = (1, channels, 4, 9), {"group": groups, **taps}
        y_scale = net.constant(np.float32(1.7))
        layer = (x, scale, zero, w, factors, points, y_scale, zero, bias)
        found.append(net.node("QLinearConv", *layer, shape=shape, dtype="uint8", **options))
        found.append(net.node("ConvInteger", x, w, zero, points, shape=shape, dtype="int32", **options))
    a = net.input(rng.integers(0, 256, (2, 5, 13), "uint8"))
    for columns in (1, 11):
        b = net.constant(rng.integers(-128, 128, (13, columns), "int8"))
        point = net.constant(rng.integers(-128, 128, columns, "int8"))
        product = (a, scale, zero, b, scale, net.constant(3, "int8"), net.constant(np.float32(0.9)), zero)
        found.append(net.node("QLinearMatMul", *product, shape=(2, 5, columns), dtype="uint8"))
        found.append(net.node("MatMulInteger", a, b, zero, point, shape=(2, 5, columns), dtype="int32"))
    return found


def joined(net: Network) -> list[str]:
    """Layers that write their parts of one tensor of integers, a copy between them, and a border around all."""
    q = net.quantize(net.dequantize(image(net), 0.02, 3), 0.03, 100, "uint8")
    x = net.dequantize(q, 0.03, 100)
    parts = [net.quantize(conv_of(net, x, channels), 0.03, 100, "uint8") for channels in (3, 17)]
    whole = net.node(
        "Concat", *(net.dequantize(part, 0.03, 100) for part in (parts[0], q, parts[1])), shape=(1, 25, 7, 9), axis=1
    )
    x = net.dequantize(net.quantize(whole, 0.03, 100, "uint8"), 0.03, 100)
    return [net.quantize(conv_of(net, x, 4), 1.0, 9, "int8")]


def grouped(net: Network) -> list[str]:
    """Weights with a zero point, which take 9 bits."""
    conv = Conv(
        batch=2, in_channels=6, out_channels=9, groups=3, size=(7, 6), kernel=(3, 2), stride=(2, 1), dilation=(1, 2),
        pads_begin=(2, 1), pads_end=(0, 1),
    )  # fmt: skip
    _, y = conv_layer(net, Case(x="int8", w="uint8", relu=True), conv)
    return [net.quantize(y, 0.1, -128, "int8")]


NETWORKS: Sequence[Callable[[Network], list[str]]] = (
    averages, biases_of_the_moment, biases_of_words, borders_that_disagree, conv_and_what_it_reads, gemms, grouped,
    joined, operators_on_integers, product_then_sum, ranges_of_the_moment, sums_of_dequantized, truncated, vectors,
    wide_results,
)  # fmt: skip


@pytest.mark.parametrize("draw", NETWORKS, ids=lambda draw: draw.__name__)
def test_a_network_has_the_oracle_s_bits(draw: Callable[[Network], list[str]], tmp_path: Path) -> None:
    net = Network()
    outputs = draw(net)
    artifact, _ = compiled(net.model(*outputs), tmp_path)
    assert_equal(artifact, net.graph(*outputs), net.feeds)


def small(size: Size) -> onnx.ModelProto:
    """Residuals, a concat, depthwise layers, pools, an output in the middle."""
    b = Builder(name="small")
    x = b.conv(b.input(size.batch, 3, size.image, size.image), 12, 3, stride=2, act="Relu")
    x = b.act(b.add(b.conv(x, 12, 3), x), "Relu")
    y = b.conv(x, 12, 3, groups=12, act="relu6")
    z = b.concat(b.pool("MaxPool", x, 3, pad=1), b.conv(y, 7, 1, act="Relu"), y)
    z = b.pool("AveragePool", b.conv(z, 20, 3, stride=2, act="Relu"), 2, stride=2)
    return b.finish(b.gemm(b.op("Flatten", b.op("GlobalAveragePool", z), axis=1), 10), y)


MODELS = (small, pytest.param(shufflenet_v2, marks=pytest.mark.slow))


@pytest.mark.parametrize("make", MODELS)
def test_a_model_quantized_by_us_has_the_oracle_s_bits(make: Callable[[Size], onnx.ModelProto], tmp_path: Path) -> None:
    """Ranges are those of N(0, 1) samples; the oracle evaluates the graph that they make."""
    model = make(Size(batch=2, image=32, width=0.2))
    artifact, graph = compiled(model, tmp_path, threads=2, probe=True, precision="int8")
    assert any(node.op == "QuantizeLinear" for node in graph.nodes)
    rng = np.random.default_rng(0)
    assert_equal(artifact, graph, {spec.name: rng.standard_normal(spec.shape, np.float32) for spec in graph.inputs})
