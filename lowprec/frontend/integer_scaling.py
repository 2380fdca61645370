"""From an exact sum of integers to where it is needed, by one product of float32."""

import numpy as np

from lowprec.frontend.graph import Node
from lowprec.frontend.integer_rewrite import WORDS, Floats, Rewrite

Settled = dict[str, str]
"""QuantizeLinear whose scale is part of a sum's factor already, by its result: what it reads."""


def scale_behind(work: Rewrite, result: str, settled: Settled) -> Floats | None:
    """The scale of the one QuantizeLinear that a result goes to, through a Relu at most, which is settled thereby."""
    reader = work.uses.only_reader(result)
    if reader is not None and reader.op == "Relu" and not reader.domain:
        result = reader.outputs[0]
        reader = work.uses.only_reader(result)
    if reader is None or reader.op != "QuantizeLinear" or reader.domain or reader.inputs[0] != result:
        return None
    after = work.parameters(reader, reader.outputs[0], per_tensor=True)
    if after is None or work.types[reader.outputs[0]].dtype not in WORDS:
        return None
    settled[reader.outputs[0]] = result
    return after.scale.reshape(())


def scaled_sum(work: Rewrite, node: Node, total: str, factor: Floats, settled: Settled, *, floats: str = "") -> None:
    """A sum in the units of whoever reads it."""
    behind = None if floats else scale_behind(work, node.outputs[0], settled)
    if behind is not None:
        factor = (factor / behind).astype(np.float32)
    scaled(work, node, total, factor, floats=floats)


def scaled(work: Rewrite, node: Node, total: str, factor: Floats, *, floats: str = "") -> None:
    """Cast(total) * factor under the node's own name; with a float bias `floats` added."""
    result = node.outputs[0]
    shape = work.types[result].shape
    real = work.emit("Cast", (total,), f"{result}/real", ("float32", shape), layer=node.layer, attributes={"to": 1})
    name = work.constant(f"{result}/factor", factor)
    if not floats:
        work.emit("Mul", (real, name), result, ("float32", shape), layer=node.layer, exactly=True)
        return
    product = work.emit("Mul", (real, name), f"{result}/product", ("float32", shape), layer=node.layer)
    work.emit("Add", (product, floats), result, ("float32", shape), layer=node.layer, exactly=True)
