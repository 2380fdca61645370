"""Bounds follow from what was measured, and never ask for more than the machine can."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowprec.layers import Cost
from lowprec.peaks import Limit, Peaks

PEAKS = Peaks(threads=2, flops=1e9, byte_operations=4e9, read_bandwidth={1 << 10: 8e9, 1 << 20: 4e9, 1 << 28: 1e9})


def test_what_is_multiplied_most_is_bound_by_compute() -> None:
    bound = PEAKS.bound(Cost(macs=10**6, weight_bytes=100, tensor_bytes=100), far=100)
    assert bound.limit is Limit.COMPUTE
    assert bound.seconds == pytest.approx(2e-3)


def test_products_of_bytes_have_a_peak_of_their_own() -> None:
    cost = Cost(macs=10**6, weight_bytes=100, tensor_bytes=100)
    assert PEAKS.bound(cost, far=100, byte_steps=1).seconds == pytest.approx(0.5e-3)


def test_weights_come_from_as_far_as_the_networks_weights_reach() -> None:
    """A megabyte that was read just now is near; as part of 300 MB of weights it has been pushed out."""
    cost = Cost(weight_bytes=1 << 20)
    assert PEAKS.bound(cost, far=1 << 20).seconds == pytest.approx((1 << 20) / 4e9)
    assert PEAKS.bound(cost, far=300 << 20).seconds == pytest.approx((1 << 20) / 1e9)
    assert PEAKS.bound(cost, far=300 << 20).limit is Limit.MEMORY


def test_tensors_may_be_where_they_were_written() -> None:
    assert PEAKS.bound(Cost(tensor_bytes=1 << 20), far=300 << 20).seconds == pytest.approx((1 << 20) / 4e9)


@pytest.mark.parametrize(
    ("size", "speed"), [(0, 8e9), (1 << 9, 8e9), ((1 << 20) - 1, 8e9), (1 << 20, 4e9), (1 << 40, 1e9)]
)
def test_bandwidth_is_of_the_largest_measured_size_that_is_not_larger(size: int, speed: float) -> None:
    assert PEAKS.bandwidth(size) == speed


counts = st.integers(0, 10**12)


@given(cost=st.builds(Cost, macs=counts, weight_bytes=counts, tensor_bytes=counts), far=counts)
def test_a_bound_is_no_shorter_than_either_part(cost: Cost, far: int) -> None:
    bound = PEAKS.bound(cost, far=far)
    parts = {Limit.COMPUTE: 2 * cost.macs / PEAKS.flops, Limit.MEMORY: cost.bytes / PEAKS.bandwidth(cost.bytes)}
    assert bound.seconds >= max(parts.values())
    assert bound.limit is Limit.MEMORY or bound.seconds == parts[Limit.COMPUTE]


def test_it_can_be_read() -> None:
    assert str(PEAKS) == (
        "measured on 2 threads: fp32 peak 1 GFLOPS, int8 peak 4 GOPS, read GB/s: 1 KiB 8, 1 MiB 4, 256 MiB 1"
    )
    document = json.loads(json.dumps(PEAKS.to_json(), allow_nan=False))
    assert document["read_bandwidth"] == {"1024": 8e9, "1048576": 4e9, "268435456": 1e9}
    assert (document["threads"], document["flops"], document["byte_operations"]) == (2, 1e9, 4e9)
