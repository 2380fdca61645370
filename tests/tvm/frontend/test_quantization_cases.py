"""onnx's own node tests of quantized operators, all of them, through the whole product."""

import pytest
from onnx.backend.test.case.test_case import TestCase

from benchmarks.conformance_worker import PASSED, UNSUPPORTED, judge, load_cases, run_lowprec

WORDS = ("quantizelinear", "qlinear", "convinteger", "matmulinteger")
NAMES = """
convinteger_with_padding convinteger_without_padding dequantizelinear dequantizelinear_axis dequantizelinear_blocked
dequantizelinear_int16 dequantizelinear_uint16 dynamicquantizelinear dynamicquantizelinear_expanded
dynamicquantizelinear_max_adjusted dynamicquantizelinear_max_adjusted_expanded dynamicquantizelinear_min_adjusted
dynamicquantizelinear_min_adjusted_expanded matmulinteger qlinearconv qlinearmatmul_2D_int8_float16
qlinearmatmul_2D_int8_float32 qlinearmatmul_2D_uint8_float16 qlinearmatmul_2D_uint8_float32
qlinearmatmul_3D_int8_float16 qlinearmatmul_3D_int8_float32 qlinearmatmul_3D_uint8_float16
qlinearmatmul_3D_uint8_float32 quantizelinear quantizelinear_axis quantizelinear_blocked_asymmetric
quantizelinear_blocked_symmetric quantizelinear_int16 quantizelinear_uint16
"""
PASSING = NAMES.split()
DECLINED = {
    "dequantizelinear_e4m3fn": "float8_e4m3fn",
    "dequantizelinear_e4m3fn_float16": "float8_e4m3fn",
    "dequantizelinear_e4m3fn_zero_point": "float8_e4m3fn",
    "dequantizelinear_e5m2": "float8_e5m2",
    "dequantizelinear_float4e2m1": "float4_e2m1fn",
    "dequantizelinear_int2": "int2",
    "dequantizelinear_int4": "int4",
    "dequantizelinear_uint2": "uint2",
    "dequantizelinear_uint4": "uint4",
    "quantizelinear_e4m3fn": "float8_e4m3fn",
    "quantizelinear_e5m2": "float8_e5m2",
    "quantizelinear_float4e2m1": "float4_e2m1fn",
    "quantizelinear_int2": "int2",
    "quantizelinear_int4": "int4",
    "quantizelinear_uint2": "uint2",
    "quantizelinear_uint4": "uint4",
}
"""And the type that is not known."""


@pytest.fixture(scope="module")
def cases() -> dict[str, TestCase]:
    return load_cases(seed=0)


def test_each_is_listed(cases: dict[str, TestCase]) -> None:
    found = {name.removeprefix("test_") for name in cases if any(word in name for word in WORDS)}
    assert found == {*PASSING, *DECLINED}


@pytest.mark.parametrize("name", PASSING)
def test_passes(cases: dict[str, TestCase], name: str) -> None:
    assert judge(cases[f"test_{name}"], run_lowprec, 1) == (PASSED, "")


@pytest.mark.parametrize("name", DECLINED)
def test_is_declined_for_its_type(cases: dict[str, TestCase], name: str) -> None:
    verdict, note = judge(cases[f"test_{name}"], run_lowprec, 1)
    assert verdict == UNSUPPORTED, note
    assert note.endswith(f" is {DECLINED[name]}, not supported yet")
