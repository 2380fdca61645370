"""A profile's figures follow from times and costs alone."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from lowprec.layers import Cost
from lowprec.manifest import CallSpec
from lowprec.peaks import Peaks
from lowprec.plan import Choice, Formats, Plan
from lowprec.profiling import Profile, byte_steps, layer_times

PEAKS = Peaks(threads=1, flops=1e11, byte_operations=4e11, read_bandwidth={1 << 10: 1e11, 1 << 26: 1e10})


def call(layer: str, *, family: str = "direct", cost: Cost) -> CallSpec:
    return CallSpec(symbol=f"{family}_0", layer=layer, op="conv2d+relu", output=layer, family=family, cost=cost)


CALLS = (
    call("conv", cost=Cost(macs=50_000_000, weight_bytes=4_000, tensor_bytes=6_000)),
    call("pool", family="generic", cost=Cost(tensor_bytes=10_000_000)),
)
TIMES = np.array([[2.0, 0.2], [9.0, 0.2], [2.0, 0.2], [1.0, 0.2], [2.0, 0.2]])


def profile(times: NDArray[np.float64] = TIMES) -> Profile:
    return Profile(layers=layer_times(CALLS, times, PEAKS), peaks=PEAKS, run_ms=2.5)


def test_figures() -> None:
    conv, pool = profile().layers
    assert (conv.layer, conv.op, conv.family) == ("conv", "conv2d+relu", "direct")
    assert conv.ms == 2.0, "the median: one slow run changes nothing"
    assert conv.spread == pytest.approx((6.2 - 1.4) / 2)
    assert [conv.share, pool.share] == pytest.approx([2 / 2.2, 0.2 / 2.2])
    assert conv.gflops == pytest.approx(50)
    assert conv.gb_per_s == pytest.approx(0.005)
    assert (conv.bound, pool.bound) == ("compute", "memory")
    assert [conv.bound_ms, conv.of_bound] == pytest.approx([1.0, 0.5])
    assert [pool.bound_ms, pool.of_bound] == pytest.approx([0.1, 0.5])
    assert (pool.macs, pool.gflops, pool.spread) == (0, 0, 0)


def test_products_of_bytes_are_held_against_their_own_peak() -> None:
    conv, pool = layer_times(CALLS, TIMES, PEAKS, byte_steps={"conv": 1})
    assert [conv.bound_ms, conv.of_bound] == pytest.approx([0.25, 0.125])
    assert pool == profile().layers[1]


def test_products_that_take_several_of_bytes_have_as_long() -> None:
    conv, _ = layer_times(CALLS, TIMES, PEAKS, byte_steps={"conv": 4})
    assert conv.bound_ms == pytest.approx(1.0)


def test_steps_of_a_plan() -> None:
    kinds = {"a": "uint8", "b": "int16", "c": "bf16", "d": "bf16", "e": "fp16"}
    sums = ("int32", "int32", "fp32", "fp32", "fp32")
    formats = [
        Formats(weights=kind, activations=kind, sums=kept) for kind, kept in zip(kinds.values(), sums, strict=True)
    ]
    choices = tuple(
        Choice(layer=name, op="Conv", algorithm="direct", formats=each, reason="")
        for name, each in zip(kinds, formats, strict=True)
    )
    calls = [call(name, family="direct" if name == "c" else "amx", cost=Cost(macs=1)) for name in kinds]
    assert byte_steps(Plan(choices=choices), calls) == {"a": 1, "b": 4, "d": 2, "e": 6}


def test_totals() -> None:
    totals = profile().totals
    assert totals["ms"] == pytest.approx(2.2)
    assert totals["bound_ms"] == pytest.approx(1.1)
    assert (totals["macs"], totals["bytes"]) == (50_000_000, 10_010_000)
    assert (totals["run_ms"], totals["of_bound"]) == (2.5, pytest.approx(0.44))


def test_text_shows_layers_in_order_and_the_slowest_at_a_glance() -> None:
    lines = str(profile()).splitlines()
    (conv,) = (line for line in lines if line.startswith("conv"))
    (pool,) = (line for line in lines if line.startswith("pool"))
    assert lines.index(conv) < lines.index(pool)
    assert conv.endswith("  " + "#" * 20)
    assert pool.endswith("  ##")
    assert "90.9%" in conv
    assert lines[-1] == (
        "a whole run takes 2.500 ms and the layers' bounds are 1.100 ms together: "
        "44% of what the machine allows a direct algorithm"
    )


def test_json() -> None:
    document = json.loads(json.dumps(profile().to_json(), allow_nan=False))
    assert set(document) == {"layers", "totals", "peaks"}
    assert [layer["layer"] for layer in document["layers"]] == ["conv", "pool"]


def test_a_call_too_short_for_the_clock_divides_by_nothing() -> None:
    layers = profile(np.zeros((3, 2))).layers
    assert all(np.isfinite([layer.gflops, layer.gb_per_s, layer.of_bound, layer.share]).all() for layer in layers)


def test_peaks_measured_in_a_crowd_are_told() -> None:
    crowded = Peaks(threads=2, flops=1e11, byte_operations=4e11, read_bandwidth={1: 1e9}, granted=0.6)
    (warning,) = Profile(layers=(), peaks=crowded, run_ms=1.0).warnings
    assert "were given 60% of the time" in warning
    assert profile().warnings == ()
