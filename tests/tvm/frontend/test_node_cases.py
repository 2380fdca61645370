"""A sample of onnx's node tests through the whole product; benchmarks/conformance.py runs them all."""

import pytest
from onnx.backend.test.case.test_case import TestCase

from benchmarks.conformance_worker import PASSED, UNSUPPORTED, judge, load_cases, run_lowprec

SAMPLE = (
    "attention_4d",
    "averagepool_2d_ceil",
    "averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True",
    "batchnorm_example_training_mode",
    "cast_FLOAT_to_BFLOAT16",
    "conv_with_autopad_same",
    "convinteger_without_padding",
    "convtranspose_dilations",
    "convtranspose_output_shape",
    "deform_conv_with_mask_bias",
    "dynamicquantizelinear",
    "einsum_batch_matmul",
    "gemm_all_attributes",
    "gemm_default_scalar_bias",
    "gridsample_bicubic",
    "group_normalization_example",
    "layer_normalization_4d_axis1",
    "lppool_2d_pads",
    "lrn",
    "maxpool_with_argmax_2d_precomputed_strides",
    "maxunpool_export_with_output_shape",
    "mod_mixed_sign_int8",
    "qlinearconv",
    "qlinearmatmul_2D_int8_float32",
    "reduce_sum_do_not_keepdims_example",
    "reflect_pad",
    "resize_downsample_scales_cubic_antialias",
    "resize_tf_crop_and_resize",
    "roialign_aligned_true",
    "scatternd_add",
    "slice_neg_steps",
    "softmax_axis_0",
    "top_k_smallest",
)
REFUSED = ("cast_FLOAT_to_FLOAT8E4M3FN", "loop11", "nonzero_example", "sequence_insert_at_front", "unique_length_1")


@pytest.fixture(scope="module")
def cases() -> dict[str, TestCase]:
    return load_cases(seed=0)


@pytest.mark.parametrize("name", SAMPLE)
def test_passes(cases: dict[str, TestCase], name: str) -> None:
    assert judge(cases[f"test_{name}"], run_lowprec, 1) == (PASSED, "")


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_a_sentence(cases: dict[str, TestCase], name: str) -> None:
    verdict, note = judge(cases[f"test_{name}"], run_lowprec, 1)
    assert verdict == UNSUPPORTED, note
    assert note.startswith("Unsupported: ")
