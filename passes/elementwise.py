"""Which Relax operators work element by element, and which of those a kernel's epilogue can do."""

# Operator -> the epilogue's name for it (`lowprec.schedules.epilogue`: its tables).
EPILOGUE_OPS: dict[str, str] = {
    "relax.abs": "abs",
    "relax.add": "add",
    "relax.clip": "clip",
    "relax.divide": "divide",
    "relax.erf": "erf",
    "relax.exp": "exp",
    "relax.maximum": "maximum",
    "relax.minimum": "minimum",
    "relax.multiply": "multiply",
    "relax.negative": "negative",
    "relax.nn.gelu": "gelu",
    "relax.nn.leakyrelu": "leakyrelu",
    "relax.nn.relu": "relu",
    "relax.nn.silu": "silu",
    "relax.round": "round",
    "relax.sigmoid": "sigmoid",
    "relax.sqrt": "sqrt",
    "relax.square": "square",
    "relax.subtract": "subtract",
    "relax.tanh": "tanh",
    "lowprec.draw": "draw",
    "lowprec.draw_bfloat16": "draw bfloat16",
    "lowprec.draw_float16": "draw float16",
    "lowprec.upper_half": "upper half",
    "lowprec.sign": "sign",
}

CONVERSION = "relax.astype"
"""Follows in a kernel too, where the epilogue knows both types."""

_OTHERS = (
    *("acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "floor", "isfinite", "isinf", "isnan"),
    *("log", "logical_not", "rsqrt", "sign", "sin", "sinh", "tan", "trunc", "bitwise_not", "astype"),
    *(
        "power",
        "floor_divide",
        "mod",
        "floor_mod",
        "equal",
        "greater",
        "greater_equal",
        "less",
        "less_equal",
        "not_equal",
    ),
    *("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "where"),
    *("left_shift", "right_shift", "nn.gelu_tanh", "nn.selu", "nn.softplus"),
)

ELEMENTWISE_OPS: frozenset[str] = frozenset(EPILOGUE_OPS) | {f"relax.{name}" for name in _OTHERS}
