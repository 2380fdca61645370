"""onnx's own node tests of quantized operators, all of them, through the whole product."""

import pytest
from onnx.backend.test.case.test_case import TestCase

from benchmarks.conformance_worker import PASSED, judge, load_cases, run_lowprec

WORDS = ("quantizelinear", "qlinear", "convinteger", "matmulinteger")
NAMES = """
convinteger_with_padding convinteger_without_padding dequantizelinear dequantizelinear_axis dequantizelinear_blocked
dequantizelinear_e4m3fn dequantizelinear_e4m3fn_float16 dequantizelinear_e4m3fn_zero_point dequantizelinear_e5m2
dequantizelinear_float4e2m1 dequantizelinear_int16 dequantizelinear_int2 dequantizelinear_int4 dequantizelinear_uint16
dequantizelinear_uint2 dequantizelinear_uint4 dynamicquantizelinear dynamicquantizelinear_expanded
dynamicquantizelinear_max_adjusted dynamicquantizelinear_max_adjusted_expanded dynamicquantizelinear_min_adjusted
dynamicquantizelinear_min_adjusted_expanded matmulinteger qlinearconv qlinearmatmul_2D_int8_float16
qlinearmatmul_2D_int8_float32 qlinearmatmul_2D_uint8_float16 qlinearmatmul_2D_uint8_float32
qlinearmatmul_3D_int8_float16 qlinearmatmul_3D_int8_float32 qlinearmatmul_3D_uint8_float16
qlinearmatmul_3D_uint8_float32 quantizelinear quantizelinear_axis quantizelinear_blocked_asymmetric
quantizelinear_blocked_symmetric quantizelinear_e4m3fn quantizelinear_e5m2 quantizelinear_float4e2m1
quantizelinear_int16 quantizelinear_int2 quantizelinear_int4 quantizelinear_uint16 quantizelinear_uint2
quantizelinear_uint4
"""
PASSING = NAMES.split()


@pytest.fixture(scope="module")
def cases() -> dict[str, TestCase]:
    return load_cases(seed=0)


def test_each_is_listed(cases: dict[str, TestCase]) -> None:
    found = {name.removeprefix("test_") for name in cases if any(word in name for word in WORDS)}
    assert found == {*PASSING}


@pytest.mark.parametrize("name", PASSING)
def test_passes(cases: dict[str, TestCase], name: str) -> None:
    assert judge(cases[f"test_{name}"], run_lowprec, 1) == (PASSED, "")
