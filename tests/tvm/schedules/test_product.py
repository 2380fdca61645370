"""Matrix products against float64, packed and in place, at every rank."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.schedules.convolution import build_convolution
from lowprec.schedules.direct import Direct
from lowprec.schedules.epilogue import Constant, Epilogue, Operand, Step, Value
from lowprec.schedules.product import ProductRequest, pack_product, product_kernel
from lowprec.schedules.windows import whole
from lowprec.targets import parse_target
from tests.oracle import sum_bound
from tests.tvm.kernels import run_kernel

EXTENTS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 65)
TARGETS = ("x86-64", "x86-64-v3", "native")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 3), max_size=3),
    *(st.sampled_from(EXTENTS) for _ in range(3)),
    st.sampled_from(TARGETS),
    st.sampled_from(("packed", "matrix", "batched")),
    st.integers(0, 99),
)
def test_products_equal_float64(
    leading: list[int], rows: int, depth: int, columns: int, target_name: str, kind: str, seed: int
) -> None:
    target, rng = parse_target(target_name), np.random.default_rng(seed)
    left = rng.standard_normal((*leading, rows, depth), np.float32)
    shape = (*leading, depth, columns) if kind == "batched" else (depth, columns)
    right = rng.standard_normal(shape, np.float32)
    bias = rng.standard_normal(columns, np.float32) if kind == "packed" else None
    scale = rng.standard_normal((columns,), np.float32)
    result = (*leading, rows, columns)
    epilogue = Epilogue(
        steps=(
            Step(op="multiply", arguments=(Value(0), Operand(0))),
            Step(op="maximum", arguments=(Value(1), Constant(-0.5))),
        ),
        operands=(whole(scale.shape).view(result),),
    )
    kernel = product_kernel(
        ProductRequest(
            depth=depth,
            left=whole(left.shape),
            right=None if kind == "packed" else whole(right.shape),
            result=whole(result),
            epilogue=epilogue,
            bias=bias is not None,
        ),
        target,
    )
    packed = pack_product(kernel, right, bias) if kind == "packed" else [right]
    got = run_kernel(build_convolution(kernel), target, [left, *packed, scale], np.full(result, np.nan, np.float32))
    start = 0.0 if bias is None else bias.astype(np.float64)
    expected = np.maximum((left.astype(np.float64) @ right + start) * scale, -0.5)
    sizes = (np.abs(left).astype(np.float64) @ np.abs(right) + np.abs(start)) * np.abs(scale) + 0.5
    assert (np.abs(got - expected) <= sum_bound(depth + 2, sizes)).all()


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1000), (3, 773)])
def test_streams_of_weights_change_no_bit(rows: int, columns: int, stored: str, target_name: str) -> None:
    target, rng, depth = parse_target(target_name), np.random.default_rng(5), 701
    left, bias = rng.standard_normal((rows, depth), np.float32), rng.standard_normal(columns, np.float32)
    right = rng.integers(-99, 99, (depth, columns)).astype(np.float32) / 64
    request = ProductRequest(
        depth=depth,
        left=whole(left.shape),
        right=None,
        result=whole((rows, columns)),
        epilogue=Epilogue(),
        bias=True,
        stored=stored,
    )
    kernel = product_kernel(request, target)
    assert isinstance(kernel, Direct)
    assert kernel.streams > 1, "weights of over 1 MiB, read once"
    first, second = (
        run_kernel(
            build_convolution(which),
            target,
            [left, *pack_product(which, right, bias)],
            np.full((rows, columns), np.nan, np.float32),
        )
        for which in (kernel, replace(kernel, streams=1))
    )
    assert np.array_equal(first, second)
    exact = left.astype(np.float64) @ right + bias
    assert np.abs(first - exact).max() <= 1e-3
