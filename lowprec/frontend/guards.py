"""Conditions on a model's inputs that only a run can check: found here, kept in the manifest, held at each call.

A network exported with `training_mode` as an input is an inference network as long as nobody asks it to train.
"""

import numpy as np

from lowprec.frontend.graph import Graph, Node
from lowprec.manifest import GuardSpec


def guard_of(node: Node, graph: Graph) -> GuardSpec | None:
    """The guard under which a Dropout is the identity; None when its mode or ratio is computed inside the model."""
    given = {spec.name for spec in graph.inputs}
    training = node.inputs[2] if len(node.inputs) > 2 else ""
    ratio = node.inputs[1] if len(node.inputs) > 1 else ""
    if node.op != "Dropout" or training not in given:
        return None
    if ratio and ratio not in given and not np.any(graph.constants.get(ratio, 0)):
        return None
    return GuardSpec(layer=node.layer, training=training, ratio=ratio if ratio in given else "")


def guards_of(graph: Graph) -> tuple[GuardSpec, ...]:
    """Every guard of a model."""
    return tuple(guard for node in graph.nodes if (guard := guard_of(node, graph)) is not None)
