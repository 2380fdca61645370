"""What ONNX demands of a node beyond what shape inference notices; each rule raises with the node's name."""

import math
from collections.abc import Callable, Mapping, Sequence

from onnx import defs

from lowprec.frontend import axis_rules, value_rules, window_rules
from lowprec.frontend.graph import TensorSpec
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
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), window_rules.check_global_pooling),
    "Flatten": axis_rules.check_flatten,
    "Gather": value_rules.check_gather,
    "Gemm": value_rules.check_gemm,
    "GroupNormalization": value_rules.check_group_norm,
    "LRN": value_rules.check_lrn,
    "LayerNormalization": value_rules.check_layer_norm,
    "Pad": value_rules.check_pad,
    "PRelu": value_rules.check_prelu,
    "Split": value_rules.check_split,
    "Slice": value_rules.check_slice,
    "Transpose": value_rules.check_transpose,
}
VALUES = frozenset(("Constant", "ConstantOfShape"))
"""Operators whose attributes are data, where a NaN may be meant."""


PRESERVING = frozenset(
    ("DepthToSpace", "Flatten", "Identity", "Reshape", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators that lose and make no elements."""


def check_result(subject: Subject, outputs: Sequence[TensorSpec]) -> None:
    """What inference leaves unchecked: a Reshape to another number of elements."""
    if subject.node.domain or subject.node.op_type not in PRESERVING:
        return
    before, after = subject.spec(0), outputs[0]
    if before is not None and before.elements != after.elements:
        subject.refuse(
            f"its input is {list(before.shape)} and its output {list(after.shape)}: the elements differ in number"
        )


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
