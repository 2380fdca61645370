"""What ONNX demands of a node beyond what shape inference notices; each rule raises with the node's name."""

import math
from collections.abc import Callable, Mapping

from onnx import defs

from lowprec.frontend import axis_rules, value_rules, window_rules
from lowprec.frontend.subject import Subject
from lowprec.frontend.typing_rules import check_element_types

Rule = Callable[[Subject], None]

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(window_rules.WEIGHTS, window_rules.check_convolution),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), window_rules.check_pooling),
    **dict.fromkeys(axis_rules.WITH_AXIS, axis_rules.check_axis),
    **dict.fromkeys(axis_rules.WITH_AXES, axis_rules.check_axes),
    **dict.fromkeys(value_rules.SCALES, value_rules.check_quantization),
    **dict.fromkeys(("Div", "Mod"), value_rules.check_divisor),
    **dict.fromkeys(("Resize", "Upsample"), value_rules.check_resize),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), value_rules.check_blocks),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), value_rules.check_statistics),
    "Gather": value_rules.check_gather,
    "Gemm": value_rules.check_gemm,
    "GroupNormalization": value_rules.check_group_norm,
    "LRN": value_rules.check_lrn,
    "Pad": value_rules.check_pad,
    "Slice": value_rules.check_slice,
    "Transpose": value_rules.check_transpose,
}
VALUES = frozenset(("Constant", "ConstantOfShape"))
"""Operators whose attributes are data, where a NaN may be meant."""


def check_node(subject: Subject, schema: defs.OpSchema) -> None:
    """Refuses a node whose operands or attributes contradict its operator."""
    check_element_types(subject, schema)
    if subject.node.op_type not in VALUES:
        _check_floats(subject)
    rule = RULES.get(subject.node.op_type) if not subject.node.domain else None
    if rule is not None:
        rule(subject)


def _check_floats(subject: Subject) -> None:
    for name, value in subject.attributes.items():
        values = value if isinstance(value, tuple) else (value,)
        if any(isinstance(item, float) and math.isnan(item) for item in values):
            subject.refuse(f"attribute {name!r:.80} is NaN")
