"""Every unit's result as an output of its own, so that a network's error can be followed layer by layer.

    before:  main(x) -> y
    after:   main(x) -> (y, v1, v2, ...)     with, for each, how to find the ONNX tensor in it

Runs after padding has moved: what is compared is what the plan's kernels write.
"""

from dataclasses import dataclass

import numpy as np
from tvm import IRModule, relax

from lowprec.passes.calling import LAYER, unit_of
from lowprec.passes.editing import (
    AXES,
    LAYERS,
    MAIN,
    WINDOWS,
    Emitter,
    attributes_of,
    bindings,
    is_tensor,
    replace_main,
    result_of,
    shape_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Output i beyond the model's own: crop (begin, size) each axis, transpose by `axes`, and it is `tensor`."""

    tensor: str
    layer: str
    axes: tuple[int, ...]
    crop: tuple[tuple[int, int], ...]


def add_probes(module: IRModule) -> tuple[IRModule, tuple[Probe, ...]]:
    """The pass, and what it added."""
    main = module[MAIN]
    attributes = attributes_of(main)
    emitter = Emitter()
    probes: list[Probe] = []
    outputs: list[relax.Var] = []
    for var, value in bindings(main):
        emitter.keep(var, value)
        function = unit_of(module, value)
        if function is None or not is_tensor(var) or var.name not in attributes.get(LAYERS, {}):  # type: ignore[operator]
            continue
        outputs.append(var)
        probes.append(_probe(var, str(function.attrs[LAYER]), attributes))
    result = result_of(main)
    own = list(result.fields) if isinstance(result, relax.Tuple) else [result]
    updated = emitter.function(list(main.params), relax.Tuple([*own, *outputs]), attributes)
    return replace_main(module, updated), tuple(probes)


def _probe(var: relax.Var, layer: str, attributes: dict[str, object]) -> Probe:
    """Where the ONNX tensor lies in the physical one."""
    axes = _recorded(attributes, AXES, var.name)
    window = _recorded(attributes, WINDOWS, var.name)
    rank = len(shape_of(var))
    crop = zip(window[:rank], window[rank:], strict=True) if window else ((0, extent) for extent in shape_of(var))
    order = tuple(int(i) for i in np.argsort(axes)) if axes else tuple(range(rank))
    return Probe(tensor=var.name, layer=layer, axes=order, crop=tuple(crop))


def _recorded(attributes: dict[str, object], key: str, name: str) -> tuple[int, ...]:
    table = attributes.get(key, {})
    return tuple(int(item) for item in table[name]) if name in table else ()  # type: ignore[index,operator]
