"""A low-precision compiler toolkit: trained ONNX networks to fast, verified CPU artifacts.

    import lowprec

    art = lowprec.compile("model.onnx")     # -> Artifact
    y = art(x)                              # one output: an array; several: a dict in the model's order
    art.save("model.lowprec")               # a directory, which lowprec.load opens
    print(art.plan)                         # layer, algorithm, formats, reason
    report = lowprec.verify(art, "model.onnx")

    lowprec.round_to(x, lowprec.Fixed(2, 14), lowprec.Rounding.STOCHASTIC, bits=lowprec.random_bits(0, "x", x.size))

Names load when they are first used, so that `import lowprec` costs milliseconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowprec.artifact import Artifact, load
    from lowprec.compilation import compile
    from lowprec.errors import (
        BuildFailed,
        EnvironmentMismatch,
        InvalidModel,
        LowprecError,
        OutOfBounds,
        Unsupported,
        UsageError,
    )
    from lowprec.formats import Binary, DynamicFixed, Fixed, Float, Int
    from lowprec.philox import random_bits
    from lowprec.plan import Choice, Plan
    from lowprec.qtensor import QTensor
    from lowprec.quantizing import quantize
    from lowprec.recipe import Recipe, Rule
    from lowprec.rounding import Rounding, round_to
    from lowprec.targets import Target
    from lowprec.tuning import tune
    from lowprec.verification import verify

__version__ = "0.1.0"

_HOMES = {
    "lowprec.artifact": ("Artifact", "load"),
    "lowprec.compilation": ("compile",),
    "lowprec.errors": (
        "BuildFailed",
        "EnvironmentMismatch",
        "InvalidModel",
        "LowprecError",
        "OutOfBounds",
        "Unsupported",
        "UsageError",
    ),
    "lowprec.formats": ("Binary", "DynamicFixed", "Fixed", "Float", "Int"),
    "lowprec.philox": ("random_bits",),
    "lowprec.plan": ("Choice", "Plan"),
    "lowprec.qtensor": ("QTensor",),
    "lowprec.quantizing": ("quantize",),
    "lowprec.recipe": ("Recipe", "Rule"),
    "lowprec.rounding": ("Rounding", "round_to"),
    "lowprec.targets": ("Target",),
    "lowprec.tuning": ("tune",),
    "lowprec.verification": ("verify",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Artifact",
    "Binary",
    "BuildFailed",
    "Choice",
    "DynamicFixed",
    "EnvironmentMismatch",
    "Fixed",
    "Float",
    "Int",
    "InvalidModel",
    "LowprecError",
    "OutOfBounds",
    "Plan",
    "QTensor",
    "Recipe",
    "Rounding",
    "Rule",
    "Target",
    "Unsupported",
    "UsageError",
    "compile",
    "load",
    "quantize",
    "random_bits",
    "round_to",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    """PEP 562: a public name is imported from its module when it is first asked for, and kept."""
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'lowprec' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
