"""The benchmarks' own arithmetic: bounds, ratios, banks of layers, the models' weights."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import command, models
from benchmarks.figures import summarize
from benchmarks.layer_suite import (
    LAYERS,
    MOST_COPIES,
    BenchLayer,
    bank,
    chain,
    conv_layer,
    copies_past,
    inputs,
    parameters,
)
from benchmarks.machine import Peaks, describe
from lowprec.convolution import Conv
from lowprec.errors import UsageError

PEAKS = Peaks(threads=1, flops=100e9, read_bandwidth={1 << 20: 100e9, 1 << 30: 10e9})


def test_bound_is_the_longer_of_arithmetic_and_reading() -> None:
    assert PEAKS.bound_s(macs=50_000_000, read=1, working_set=1) == pytest.approx(1e-3)
    assert PEAKS.bound_s(macs=1, read=100_000_000, working_set=1 << 30) == pytest.approx(1e-2)


def test_bandwidth_is_never_pessimistic() -> None:
    assert PEAKS.bandwidth(1000) == 100e9
    assert PEAKS.bandwidth((1 << 30) - 1) == 100e9
    assert PEAKS.bandwidth(1 << 31) == 10e9


def test_machine_describes_itself() -> None:
    facts = describe()
    assert facts["cores"] >= 1
    assert facts["packages"]["numpy"] == np.__version__


def test_ratio_pairs_turns_so_that_a_slow_minute_cancels() -> None:
    ours = [[1.0, 1.0], [9.0, 9.0], [1.0, 1.0]]
    peer = [[2.0, 2.0], [18.0, 18.0], [2.0, 2.0]]
    figure = summarize("peer", peer, ours, error=0.0)
    assert figure.ratio == 2.0
    assert figure.p50_ms == 2000.0


def test_only_refuses_what_matches_nothing() -> None:
    assert command.select(["vgg_1", "vgg_2", "fc"], ["vgg*"]) == ["vgg_1", "vgg_2"]
    with pytest.raises(UsageError, match=r"--only resnet matches nothing: allowed is vgg_1, fc"):
        command.select(["vgg_1", "fc"], ["resnet"])


def test_layer_names_are_distinct() -> None:
    assert len({layer.name for layer in LAYERS}) == len(LAYERS)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_copies_pass_the_cache(layer: BenchLayer) -> None:
    copies = copies_past(2 << 20, layer)
    assert copies == MOST_COPIES or copies * layer.bytes >= 8 << 20


def test_bank_is_what_its_geometry_says() -> None:
    geometry = Conv(
        batch=1,
        in_channels=4,
        out_channels=6,
        groups=2,
        size=(9, 8),
        kernel=(3, 1),
        stride=(2, 2),
        dilation=(1, 1),
        pads_begin=(1, 0),
        pads_end=(1, 0),
    )
    layer = BenchLayer(name="toy", geometry=geometry)
    model = onnx.shape_inference.infer_shapes(bank(layer, 3, seed=0), strict_mode=True)
    assert [value.name for value in model.graph.output] == ["y0", "y1", "y2"]
    shape = tuple(extent.dim_value for extent in model.graph.output[0].type.tensor_type.shape.dim)
    assert shape == layer.output_shape == (1, 6, 5, 4)
    assert not np.array_equal(parameters(layer, 0, seed=0).weight, parameters(layer, 1, seed=0).weight)
    assert list(inputs(layer, 3, seed=0)) == ["x0", "x1", "x2"]


@pytest.mark.parametrize(("rectified", "between"), [(True, "Relu"), (False, "Identity")])
def test_a_chain_reads_what_it_gave(rectified: bool, between: str) -> None:
    """And its numbers stay near 1."""
    layer = conv_layer("toy", (16, 16), 9, 3)
    model = onnx.shape_inference.infer_shapes(chain(layer, 6, seed=0, rectified=rectified), strict_mode=True)
    assert [node.op_type for node in model.graph.node] == ["Conv", between] * 6
    feeds = inputs(layer, 1, seed=0)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    assert found.shape == layer.output_shape
    assert 0.1 < np.sqrt(np.square(found).mean()) < 5


def test_weights_depend_on_seed_and_name_alone() -> None:
    role = models.Role(op="Conv", position=1)
    first, again = (models.draw(role, (64, 3, 7, 7), "w", seed=0) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, models.draw(role, (64, 3, 7, 7), "v", seed=0))
    assert not np.array_equal(first, models.draw(role, (64, 3, 7, 7), "w", seed=1))
    assert first.std() == pytest.approx(math.sqrt(2 / (3 * 7 * 7)), rel=0.05)


def test_model_has_its_weights_inside_and_images_as_its_only_input() -> None:
    model = models.make_model("squeezenet", seed=0)
    assert [value.name for value in model.graph.input] == ["data_0"]
    assert [entry.version for entry in model.opset_import] == [models.OPSET]
    assert not any(node.op_type == "ConstantOfShape" for node in model.graph.node)
    assert sum(math.prod(tensor.dims) for tensor in model.graph.initializer) > 1_200_000
